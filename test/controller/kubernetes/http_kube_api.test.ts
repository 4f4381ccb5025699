import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { HttpKubeApi } from "../../../controller/kubernetes/http_kube_api.js";
import { KubeError } from "../../../controller/kubernetes/kube_api.js";
import { KubernetesShell } from "../../../controller/kubernetes/kubernetes_shell.js";
import { TAINT } from "../../../controller/kubernetes/reconcile_nodes.js";
import { FINALIZER } from "../../../controller/kubernetes/training_job.js";
import { systemClock } from "../../../controller/store/clock.js";
import { Random } from "../../sim/random.js";
import { KubeServer, rulesOf } from "../../support/kube/kube_server.js";
import { SimKube } from "../../support/kube/sim_kube.js";
import { SimTraining } from "../../support/kube/sim_training.js";
import { until } from "../../support/until.js";

const CONTROLLER = rulesOf(
  ["deploy/kubernetes/base/rbac.yaml", "deploy/kubernetes/components/node-taints/rbac.yaml"],
  ["goku-controller", "goku-node-taints", "goku-evict"],
);
const SPEC = { data: { media: "/data" }, train: { steps: 100_000 }, checkpoint: { uri: "file:///runs/a" } };

async function serve(t: TestContext, rules = CONTROLLER) {
  const sim = new SimKube({ random: new Random(1), nowMs: Date.now });
  const server = new KubeServer(sim, rules);
  const api = new HttpKubeApi(await server.listen(), "goku");
  t.after(() => server.close());
  return { sim, server, api };
}
function applyJob(sim: SimKube, name: string): void {
  sim.create("trainingjobs", {
    apiVersion: "goku.dev/v1alpha1",
    kind: "TrainingJob",
    metadata: { name },
    spec: SPEC,
  });
}
const never = new AbortController().signal;
const kindOf = (promise: Promise<unknown>) =>
  promise.then(
    () => "answered",
    (error: unknown) => (error instanceof KubeError ? error.kind : String(error)),
  );

test("list: every page is fetched", async (t) => {
  const { sim, api } = await serve(t);
  for (const name of ["a", "b", "c", "d", "e"]) applyJob(sim, name);
  const { items } = await api.list("trainingjobs", never);
  assert.deepEqual(
    items.map(({ metadata }) => metadata.name),
    ["a", "b", "c", "d", "e"],
  );
});

test("watch: tells what happened since a version, ends when it is left, and says where that is too old", async (t) => {
  const { sim, server, api } = await serve(t);
  const { resourceVersion } = await api.list("trainingjobs", never);
  applyJob(sim, "a");
  const seen: string[] = [];
  const left = new AbortController();
  const watching = api.watch(
    "trainingjobs",
    resourceVersion,
    (event) => {
      assert.ok(event.type !== "BOOKMARK");
      seen.push(`${event.type} ${event.object.metadata.name}`);
    },
    left.signal,
  );
  await until(() => seen.length === 1);
  sim.delete("trainingjobs", "a");
  await until(() => seen.length === 2);
  assert.deepEqual(seen, ["ADDED a", "DELETED a"]);
  left.abort();
  await watching;
  sim.faults = { ...sim.faults, compact: 1 };
  for (const inStream of [false, true]) {
    server.goneInStream = inStream;
    applyJob(sim, `b-${inStream}`);
    assert.equal(
      await kindOf(api.watch("trainingjobs", "1", () => {}, new AbortController().signal)),
      "gone",
    );
  }
});

test("errors: each answer has its kind, and so has none", async (t) => {
  const { sim, server, api } = await serve(t);
  applyJob(sim, "a");
  sim.create("nodes", { metadata: { name: "m0" }, spec: {} });
  sim.create("pods", { metadata: { name: "w-0" }, spec: { containers: [] } });
  assert.equal(await kindOf(api.applyFinalizers({ name: "a", uid: "another" }, [FINALIZER])), "conflict");
  assert.equal(
    await kindOf(api.patchNode({ name: "m0", resourceVersion: "1" }, { taints: [], annotations: {} })),
    "conflict",
  );
  assert.equal(await kindOf(api.evict({ name: "w-9", uid: "u" })), "notFound");
  sim.evictionsAllowed = 0;
  assert.equal(await kindOf(api.evict({ name: "w-0", uid: sim.get("pods", "w-0")!.metadata.uid })), "busy");
  const event = {
    name: "e",
    type: "Normal",
    reason: "X",
    message: "x",
    atMs: Date.now(),
    about: { name: "a", uid: "u" },
  } as const;
  assert.equal(await kindOf(api.createEvent(event)), "answered");
  assert.equal(await kindOf(api.createEvent(event)), "exists");
  sim.down = true;
  assert.equal(await kindOf(api.list("pods", never)), "unreachable");
  await server.close();
  assert.equal(await kindOf(api.list("pods", never)), "unreachable");
});

test("the whole way over HTTP, with the rights of the manifests and no others", async (t) => {
  const { sim, server, api } = await serve(t);
  const training = new SimTraining(Date.now);
  for (const name of ["m0", "m1"]) sim.create("nodes", { metadata: { name }, spec: {} });
  sim.create("pods", {
    metadata: { name: "w-0" },
    spec: { nodeName: "m0", containers: [{ name: "agent", resources: { limits: { memory: "8Gi" } } }] },
    status: { containerStatuses: [{ name: "agent", restartCount: 0, state: { running: {} } }] },
  });
  const evicted: string[] = [];
  sim.onEvict = (name) => evicted.push(name);
  const shell = new KubernetesShell({
    ...{ api, training, clock: systemClock, wallMs: Date.now },
    ...{ taintNodes: true, domainLabel: null, pod: "goku-controller-0" },
    log: { info: () => {}, warn: () => {} },
  });
  shell.start();
  t.after(() => shell.stop());
  applyJob(sim, "a");
  const job = () => sim.get("trainingjobs", "a");
  await until(() => job()?.status?.phase !== undefined);
  assert.deepEqual(job()?.metadata.finalizers, [FINALIZER]);
  training.tick();
  training.fail("a", "RANK_DIED");
  await until(() => sim.events.size === 2);
  assert.deepEqual(
    [...sim.events.values()].map(({ reason }) => reason),
    ["RankDied", "Recovered"],
  );
  sim.change("pods", "w-0", (pod) => {
    pod.status!.containerStatuses![0]!.restartCount = 1;
    pod.status!.containerStatuses![0]!.lastState = { terminated: { exitCode: 137, reason: "OOMKilled" } };
  });
  await until(() => training.fates.length === 1);
  assert.deepEqual(training.fates[0]?.fate, {
    code: "NODE_OUT_OF_MEMORY",
    text: "pod w-0 was killed for its memory limit of 8Gi (OOMKilled)",
    endsAtMs: null,
    down: false,
  });
  training.quarantined.set("w-0", {
    nodeId: "w-0",
    reason: "memory differs",
    atMs: Date.now() + 5_000,
    untilMs: null,
  });
  await until(() => evicted.length > 0);
  assert.deepEqual(
    sim.get("nodes", "m0")?.spec.taints?.map(({ key }) => key),
    [TAINT],
  );
  await until(() => sim.leaders.has("goku-controller-0"));
  sim.delete("trainingjobs", "a");
  await until(() => [...training.runs.values()][0]?.phase === "STOPPING");
  for (let tick = 0; tick < 3; tick++) training.tick();
  await until(() => job() === undefined);
  assert.deepEqual(server.forbidden, []);
});

test("an account without a right says so, and the rest goes on", async (t) => {
  const rules = CONTROLLER.filter(({ resources }) => !resources.includes("events"));
  const { sim, server, api } = await serve(t, rules);
  const training = new SimTraining(Date.now);
  const warnings: string[] = [];
  const shell = new KubernetesShell({
    ...{
      api,
      training,
      clock: systemClock,
      wallMs: Date.now,
      taintNodes: false,
      domainLabel: null,
      pod: null,
    },
    log: { info: () => {}, warn: (_fields, text) => void warnings.push(text) },
  });
  shell.start();
  t.after(() => shell.stop());
  applyJob(sim, "a");
  await until(() => training.runs.size === 1);
  training.fail("a", "RANK_DIED");
  await until(() => sim.get("trainingjobs", "a")?.status?.lastIncident !== undefined);
  assert.ok(
    warnings.some((text) => /403: may not create events/.test(text)),
    warnings.join("\n"),
  );
  assert.ok(server.forbidden.length > 0);
});

test("a list that is not answered ends with the signal, not with its time", async (t) => {
  const { sim, api } = await serve(t);
  sim.hangs = true;
  const ended = new AbortController();
  const listing = api.list("pods", ended.signal).catch((error: KubeError) => error.message);
  ended.abort();
  assert.match(String(await listing), /nobody waits any more/);
});

test("a controller that ends waits for no API server that is silent", async (t) => {
  const { sim, server, api } = await serve(t);
  const training = new SimTraining(Date.now);
  const warnings: string[] = [];
  const shell = new KubernetesShell({
    ...{ api, training, clock: systemClock, wallMs: Date.now },
    ...{ taintNodes: true, domainLabel: null, pod: "goku-controller-0" },
    log: { info: () => {}, warn: (_fields, text) => void warnings.push(text) },
  });
  shell.start();
  await until(() => sim.leaders.has("goku-controller-0"));
  applyJob(sim, "a");
  await until(() => training.runs.size === 1);
  server.isSilent = true;
  training.fail("a", "RANK_DIED");
  await until(() => [...server.unanswered].some((asked) => !asked.startsWith("GET "))); // its status, or an event
  await shell.stop();
  assert.deepEqual(
    warnings,
    ["Cannot reach the Kubernetes API: nobody waits any more"],
    "not: no answer in 10 s",
  );
  await until(() => server.unanswered.size === 0);
});
