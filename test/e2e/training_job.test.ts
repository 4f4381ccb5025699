import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { FINALIZER } from "../../controller/kubernetes/training_job.js";
import { TestCluster, testJob } from "../faults/cluster.js";
import { Random } from "../sim/random.js";
import { gokuctl } from "../support/gokuctl.js";
import { KubeServer, rulesOf } from "../support/kube/kube_server.js";
import { SimKube } from "../support/kube/sim_kube.js";
import { until } from "../support/until.js";

const RULES = rulesOf(["deploy/kubernetes/base/rbac.yaml"], ["goku-controller"]);

test("a real cluster under a simulated API server: trains a TrainingJob, says why a pod died, saves and stops when it is deleted", async (t) => {
  const sim = new SimKube({ random: new Random(1), nowMs: Date.now });
  const server = new KubeServer(sim, RULES);
  await server.listen();
  t.after(() => server.close());
  const folder = mkdtempSync(path.join(tmpdir(), "goku-kubeconfig-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const KUBECONFIG = path.join(folder, "config");
  writeFileSync(KUBECONFIG, server.kubeconfig());
  const cluster = await TestCluster.start({ env: { KUBECONFIG, GOKU_KUBERNETES: "goku" } });
  t.after(() => cluster.stop());
  const pod = (name: string) =>
    sim.create("pods", {
      metadata: { name },
      spec: { containers: [{ name: "agent", resources: { limits: { memory: "1Gi" } } }] },
      status: { containerStatuses: [{ name: "agent", restartCount: 0, state: { running: {} } }] },
    });
  for (const name of ["node-a", "node-b"]) pod(name);
  const { name: _name, ...spec } = await testJob(cluster.folder, ["train.steps=100000"]);
  sim.create("trainingjobs", {
    ...{ apiVersion: "goku.dev/v1alpha1", kind: "TrainingJob", metadata: { name: "shapes" } },
    spec: structuredClone(spec) as Record<string, unknown>,
  });
  const job = () => sim.get("trainingjobs", "shapes");
  await until(() => job()?.status?.phase === "Running" && (job()?.status?.step ?? 0) > 3);
  const status = job()!.status!;
  assert.equal(status.jobId, job()!.metadata.uid);
  assert.equal(status.layout, "1x2x2");
  assert.deepEqual(job()?.metadata.finalizers, [FINALIZER]);
  assert.equal(status.conditions.find(({ type }) => type === "Running")?.status, "True");

  // What a kernel and a kubelet do to a container that takes too much.
  process.kill(cluster.local.pid("node-b"), "SIGKILL");
  sim.change("pods", "node-b", (one) => {
    one.status!.containerStatuses = [
      {
        ...{ name: "agent", restartCount: 1, state: { running: {} } },
        lastState: {
          terminated: { exitCode: 137, reason: "OOMKilled", finishedAt: new Date().toISOString() },
        },
      },
    ];
  });
  await until(
    () => job()?.status?.lastIncident?.code === "NODE_OUT_OF_MEMORY" && job()?.status?.phase === "Running",
  );
  const why = await gokuctl(["--controller", cluster.local.controller, "why", "shapes"]);
  assert.match(why.stdout, /pod node-b was killed for its memory limit of 1Gi \(OOMKilled\)/);
  await until(() => [...sim.events.values()].some(({ reason }) => reason === "NodeOutOfMemory"));
  await until(() => [...sim.events.values()].some(({ reason }) => reason === "Recovered"));

  const stepLast = job()!.status!.step!;
  sim.delete("trainingjobs", "shapes");
  await until(() => job() === undefined);
  const jobs = await gokuctl(["--controller", cluster.local.controller, "--json", "status", "shapes"]);
  const ended = JSON.parse(jobs.stdout) as {
    phase: string;
    checkpoint_step?: number;
    checkpointStep?: number;
  };
  assert.equal(ended.phase, "STOPPED");
  const saved = await gokuctl(["--json", "ckpt", "ls", spec.checkpoint.uri]);
  assert.equal(saved.code, 0, saved.stderr);
  const steps = [...saved.stdout.matchAll(/"step": ?"?(\d+)/g)].map((match) => Number(match[1]));
  assert.ok(Math.max(...steps) >= stepLast, `${steps.join()} after ${stepLast}`);
  const audit = await gokuctl(["--controller", cluster.local.controller, "events", "--kind", "audit"]);
  assert.match(audit.stdout, /kubernetes \(kubernetes.*\): submit a job, shapes: DONE/);
  assert.match(audit.stdout, /kubernetes \(kubernetes.*\): stop a job, shapes: DONE/);
  assert.deepEqual(server.forbidden, []);
});
