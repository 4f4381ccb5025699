import assert from "node:assert/strict";
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { HttpKubeApi } from "../../../controller/kubernetes/http_kube_api.js";
import type { KubeError, KubeNode, Pod } from "../../../controller/kubernetes/kube_api.js";
import { QUARANTINE_ANNOTATION, TAINT } from "../../../controller/kubernetes/reconcile_nodes.js";
import { FINALIZER, type TrainingJob } from "../../../controller/kubernetes/training_job.js";
import { TestCluster, testJob } from "../../faults/cluster.js";
import { gokuctl } from "../../support/gokuctl.js";
import { CONTROL_PLANE_SKIP, ControlPlane } from "../../support/kube/control_plane.js";
import { kustomizeTool, renderWith } from "../../support/kube/manifests.js";
import { TestKubelet } from "../../support/kube/test_kubelet.js";
import { applyAll, asOf120, registerNodes } from "../../support/kube/test_nodes.js";
import { until } from "../../support/until.js";

/**
 * The base with components/node-taints on a control plane, agents and a controller as processes, and kubelets played by the test.
 * The tests go on from each other: one job trains through all of them.
 */
const skip = CONTROL_PLANE_SKIP;
const ROOT = "deploy/kubernetes";
const JOB = "/apis/goku.dev/v1alpha1/namespaces/goku/trainingjobs";
const MERGE = "application/merge-patch+json";

let plane: ControlPlane;
let cluster: TestCluster;
let kubelet: TestKubelet;
const scratch = mkdtempSync(path.join(tmpdir(), "goku-machines-"));

before(async () => {
  if (skip) return;
  plane = await ControlPlane.start();
  await registerNodes(plane, 3);
  await plane.define();
  const manifests = renderWith(kustomizeTool()!, `${ROOT}/base`, [`${ROOT}/components/node-taints`]);
  const others = manifests.filter(({ kind }) => kind !== "CustomResourceDefinition").map(asOf120);
  await applyAll(plane, others);
  cluster = await TestCluster.start({
    ...{ nodes: 0, restart: false, placeOf },
    env: { KUBECONFIG: await plane.accountConfig("goku-controller"), GOKU_KUBERNETES: "goku" },
    controllerArgs: ["--kubernetes-taint-nodes", "--kubernetes-pod", "goku-controller-0"],
  });
  kubelet = new TestKubelet(plane, cluster.local);
  kubelet.start();
});
after(async () => {
  await kubelet?.stop();
  await cluster?.stop();
  await plane?.stop();
  rmSync(scratch, { recursive: true, force: true });
});

/** Each agent reads a kernel's log of its own. */
function placeOf(member: string) {
  const log = kernelLog(member);
  mkdirSync(path.dirname(log), { recursive: true });
  if (!existsSync(log)) writeFileSync(log, "");
  return { host: "127.0.0.1", enter: [], env: { GOKU_HOST_ROOT: path.join(scratch, member) } };
}
function kernelLog(member: string): string {
  return path.join(scratch, member, "dev/kmsg");
}

const getJob = () => plane.ask<TrainingJob>("GET", `${JOB}/shapes`);
const getPod = (name: string) => plane.ask<Pod>("GET", `/api/v1/namespaces/goku/pods/${name}`);
const getNode = (name: string) => plane.ask<KubeNode>("GET", `/api/v1/nodes/${name}`);
async function eventReasons(): Promise<string[]> {
  const query = { fieldSelector: "involvedObject.name=shapes" };
  const { items } = await plane.ask<{ items: { reason: string }[] }>(
    "GET",
    "/api/v1/namespaces/goku/events",
    { query },
  );
  return items.map(({ reason }) => reason);
}
async function why(): Promise<string> {
  const { code, stdout, stderr } = await gokuctl(["--controller", cluster.local.controller, "why", "shapes"]);
  assert.equal(code, 0, stderr);
  return stdout;
}
/** It trains, further than now. */
async function goesOn(): Promise<void> {
  const now = (await getJob()).status?.step ?? 0;
  await until(async () => {
    const { status } = await getJob();
    return status?.phase === "Running" && (status.step ?? 0) > now;
  });
}
/** Once another pod has taken the place of that one, and the job goes on with it. */
async function comesBack(before_: Pod): Promise<Pod> {
  const { name, uid } = before_.metadata;
  const another = async () => {
    const { items } = await plane.ask<{ items: Pod[] }>("GET", "/api/v1/namespaces/goku/pods");
    return items.find(
      ({ metadata, status }) => metadata.name === name && metadata.uid !== uid && status?.phase === "Running",
    );
  };
  await until(async () => (await another()) !== undefined);
  await goesOn();
  return (await another())!;
}
const toldOf = (code: string, incidents: number) =>
  until(async () => {
    const { status } = await getJob();
    return status?.lastIncident?.code === code && status.incidents === incidents;
  });
const checked = (name: string, body: () => Promise<void>) =>
  test(name, { skip, timeout: 300_000 }, async () => {
    try {
      await body();
    } catch (error) {
      throw new Error(`${(error as Error).stack}\n${cluster.logs}`);
    }
  });

checked("the account of the bootstrap job makes all Secrets, once", async () => {
  const env = { KUBECONFIG: await plane.accountConfig("goku-bootstrap") };
  const bootstrap = () => gokuctl(["kubernetes", "bootstrap", "--namespace", "goku"], { env });
  const first = await bootstrap();
  assert.equal(first.code, 0, first.stderr);
  assert.equal(first.stdout.match(/^made Secret /gm)?.length, 9, first.stdout);
  const again = await bootstrap();
  assert.equal(again.stdout.trim(), "All Secrets are there already", again.stderr);
});

checked("the Service of people finds the controller that leads, and no other", async () => {
  interface EndpointsList {
    items: { metadata: { name: string }; subsets?: { addresses?: { targetRef: { name: string } }[] }[] }[];
  }
  await until(async () => {
    const { items } = await plane.ask<EndpointsList>("GET", "/api/v1/namespaces/goku/endpoints");
    // Kubernetes makes them a moment after their Service.
    const subsets = items.find(({ metadata }) => metadata.name === "goku")?.subsets ?? [];
    const names = subsets.flatMap(({ addresses = [] }) => addresses.map(({ targetRef }) => targetRef.name));
    assert.ok(names.every((name) => name === "goku-controller-0"));
    return names.length === 1;
  });
});

checked(
  "a TrainingJob trains on the pods' agents; its status and finalizer are applied, each by its own manager",
  async () => {
    const { name: _name, ...spec } = await testJob(cluster.folder, [
      ...["train.steps=100000", "recovery.max_attempts=50", "recovery.node_grace_seconds=300"],
    ]);
    const object = {
      apiVersion: "goku.dev/v1alpha1",
      kind: "TrainingJob",
      metadata: { name: "shapes" },
      spec,
    };
    await plane.ask("POST", JOB, { body: object });
    await until(async () => {
      const { status } = await getJob();
      return status?.phase === "Running" && (status.step ?? 0) > 3;
    });
    const { metadata, status } = await getJob();
    assert.equal(status!.jobId, metadata.uid);
    assert.equal(status!.layout, "1x2x2");
    assert.deepEqual(metadata.finalizers, [FINALIZER]);
    assert.deepEqual(
      status!.conditions.map(({ type, status: is }) => `${type} ${is}`),
      ["Accepted True", "Running True", "Recovering False", "Complete False", "Failed False"],
    );
    const { managedFields } = metadata as unknown as {
      managedFields: { manager: string; operation: string }[];
    };
    const applied = managedFields.filter(({ operation }) => operation === "Apply");
    assert.deepEqual(applied.map(({ manager }) => manager).sort(), [
      "goku-controller",
      "goku-controller-status",
    ]);
  },
);

checked(
  "the API server is lost: training goes on, a fault heals, and all of it is told when it is back",
  async () => {
    await plane.killApiServer();
    const [pid] = await cluster.pidsOn("goku-worker-1");
    const { job } = await cluster.client.call("getJob", { name: "shapes" });
    process.kill(pid!, "SIGKILL");
    await until(async () => {
      const { job: now } = await cluster.client.call("getJob", { name: "shapes" });
      return now!.generation > job!.generation && now!.step > job!.step + 3n;
    });
    await plane.startApiServer();
    await toldOf("RANK_DIED", 1);
    await until(async () => {
      const reasons = await eventReasons();
      return reasons.includes("RankDied") && reasons.includes("Recovered");
    });
    await goesOn();
  },
);

checked(
  "history that etcd has compacted is told as gone, also after a start of the API server, and the controller goes on",
  async () => {
    const api = new HttpKubeApi(plane.http(await plane.accountConfig("goku-controller")), "goku");
    const { resourceVersion } = await api.list("pods", new AbortController().signal);
    await goesOn();
    await plane.compact();
    await plane.killApiServer();
    await plane.startApiServer();
    const watched = api.watch("pods", resourceVersion, () => {}, AbortSignal.timeout(60_000));
    await assert.rejects(watched, ({ kind }: KubeError) => kind === "gone");
    await goesOn();
  },
);

checked("a container that is killed for memory: `why` says it, with its limit", async () => {
  kubelet.outOfMemory("goku-worker-1");
  await toldOf("NODE_OUT_OF_MEMORY", 2);
  assert.match(await why(), /pod goku-worker-1 was killed for its memory limit of 2Gi \(OOMKilled\)/);
  await goesOn();
  await until(async () => (await eventReasons()).includes("NodeOutOfMemory"));
});

checked("kubectl delete pod: it saves and comes back, and no step is computed twice", async () => {
  const pod = await getPod("goku-worker-1");
  const deleted = await plane.kubectl(["-n", "goku", "delete", "pod", "goku-worker-1", "--wait=false"]);
  assert.equal(deleted.code, 0, deleted.stderr);
  await comesBack(pod);
  await toldOf("NODE_PREEMPTED", 3);
  assert.match(await why(), /pod goku-worker-1 is deleted/);
});

checked("a pod that the scheduler preempts says so itself, by its condition", async () => {
  const pod = await getPod("goku-worker-0");
  const condition = { type: "DisruptionTarget", status: "True", reason: "PreemptionByScheduler" };
  const conditions = [...(pod.status!.conditions ?? []), condition];
  await plane.ask("PATCH", "/api/v1/namespaces/goku/pods/goku-worker-0/status", {
    ...{ type: MERGE, body: { status: { conditions } } },
  });
  await plane.kubectl(["-n", "goku", "delete", "pod", "goku-worker-0", "--wait=false"]);
  await comesBack(pod);
  await toldOf("NODE_PREEMPTED", 4);
  assert.match(await why(), /pod goku-worker-0 is preempted by the scheduler for one of higher priority/);
});

checked(
  "a pod that its kubelet evicts is a lost node, by its name, and another takes its place",
  async () => {
    const pod = await getPod("goku-worker-1");
    await kubelet.evict("goku-worker-1");
    await comesBack(pod);
    await toldOf("NODE_PREEMPTED", 5);
    assert.match(
      await why(),
      /pod goku-worker-1 was ended by its kubelet \(Evicted: The node was low on resource: ephemeral-storage\)/,
    );
  },
);

checked(
  "a quarantined node: its machine is tainted, its pod evicted once the budget allows it, and used again elsewhere",
  async () => {
    const budget = (maxUnavailable: number) =>
      plane.ask("PATCH", "/apis/policy/v1beta1/namespaces/goku/poddisruptionbudgets/goku-worker", {
        ...{ type: MERGE, body: { spec: { maxUnavailable } } },
      });
    const disruptions = () =>
      plane.ask<{ status: { disruptionsAllowed: number } }>(
        "GET",
        "/apis/policy/v1beta1/namespaces/goku/poddisruptionbudgets/goku-worker",
      );
    await budget(0);
    await until(async () => (await disruptions()).status.disruptionsAllowed === 0);
    const pod = await getPod("goku-worker-0");
    const machine = pod.spec.nodeName!;
    const line = "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus.";
    appendFileSync(kernelLog("goku-worker-0"), `4,9,9,-;${line}\n`);
    await until(async () => {
      const { spec, metadata } = await getNode(machine);
      return (
        spec.taints?.some(({ key, effect }) => key === TAINT && effect === "NoSchedule") === true &&
        /Xid/.test(metadata.annotations?.[QUARANTINE_ANNOTATION] ?? "")
      );
    });
    await until(() => /Cannot evict pod as it would violate the pod's disruption budget/.test(cluster.logs));
    assert.equal((await getPod("goku-worker-0")).metadata.uid, pod.metadata.uid);
    await budget(1);
    const after_ = await comesBack(pod);
    assert.notEqual(after_.spec.nodeName, machine);
    assert.match(await why(), /xid\.79/);

    // As if its time were over.
    const { metadata } = await getNode(machine);
    const record = JSON.parse(metadata.annotations![QUARANTINE_ANNOTATION]!) as object;
    const annotations = {
      [QUARANTINE_ANNOTATION]: JSON.stringify({ ...record, until: "2026-01-01T00:00:00Z" }),
    };
    await plane.ask("PATCH", `/api/v1/nodes/${machine}`, {
      type: MERGE,
      body: { metadata: { annotations } },
    });
    await until(async () => {
      const { spec, metadata: now } = await getNode(machine);
      return (
        !spec.taints?.some(({ key }) => key === TAINT) &&
        now.annotations?.[QUARANTINE_ANNOTATION] === undefined
      );
    });
  },
);

checked("a TrainingJob that is deleted saves and stops, then goes", async () => {
  const { status, spec } = await getJob();
  await plane.kubectl(["-n", "goku", "delete", "trainingjob", "shapes", "--wait=false"]);
  await until(() =>
    getJob().then(
      () => false,
      ({ kind }: KubeError) => kind === "notFound",
    ),
  );
  const { uri } = (spec as { checkpoint: { uri: string } }).checkpoint;
  const saved = await gokuctl(["--json", "ckpt", "ls", uri]);
  const steps = [...saved.stdout.matchAll(/"step": ?"?(\d+)/g)].map((match) => Number(match[1]));
  assert.ok(Math.max(...steps) >= status!.step!, `${steps.join()} after ${status!.step}`);
});
