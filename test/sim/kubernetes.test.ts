import assert from "node:assert/strict";
import { test } from "node:test";
import { isDeepStrictEqual } from "node:util";
import type { TrainingJob } from "../../controller/kubernetes/training_job.js";
import { FINALIZER, isOver } from "../../controller/kubernetes/training_job.js";
import { NO_FAULTS } from "../support/kube/sim_kube.js";
import { SimWorld } from "../support/kube/sim_world.js";

const SEEDS = 40;
const FAULTS = { unreachable: 0.1, cut: 0.05, quiet: 0.02, repeat: 0.1, compact: 0.05 };

function applyJob(world: SimWorld, name: string, steps = 100_000): void {
  world.kube.create("trainingjobs", {
    apiVersion: "goku.dev/v1alpha1",
    kind: "TrainingJob",
    metadata: { name },
    spec: {
      data: { media: "/data" },
      train: { steps },
      checkpoint: { uri: `file:///runs/${name}` },
    },
  });
}
const jobs = (world: SimWorld): TrainingJob[] => world.kube.allOf("trainingjobs");
const runsOf = (world: SimWorld, name: string) =>
  [...world.training.runs.values()].filter((run) => run.name === name);

/** What must hold whatever happens. */
function checkSafety(world: SimWorld, uids: ReadonlySet<string>, told: string): void {
  for (const run of world.training.runs.values()) {
    assert.ok(uids.has(run.jobId), `${told}: a run of no object: ${run.jobId}`);
    const object = jobs(world).find(({ metadata }) => metadata.uid === run.jobId);
    // Nothing that trains is let go: an object is there as long as its run is.
    if (!run.over) assert.ok(object !== undefined, `${told}: ${run.name} trains and its object is gone`);
  }
  const names = world.kube.allOf("nodes").flatMap(({ spec }) => (spec.taints ?? []).map(({ key }) => key));
  assert.equal(
    names.filter((key) => key === "other").length,
    1,
    `${told}: a taint of somebody else was touched`,
  );
  assert.ok(world.tainted().length <= 1, `${told}: more than a quarter of the machines is tainted`);
}

test(`${SEEDS} seeds of API servers that fail: every object gets one run, every deletion saves and stops, nothing is left over`, async () => {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const world = new SimWorld({ seed, machines: 4, pods: 3 });
    const told = `seed ${seed}`;
    world.kube.change("nodes", "m0", (node) => {
      node.spec.taints = [{ key: "other", effect: "PreferNoSchedule" }];
    });
    const uids = new Set<string>();
    const { random } = world;
    world.kube.faults = FAULTS;
    world.start();
    let jobLast = 0;
    for (let round = 0; round < 40; round++) {
      for (const { metadata } of jobs(world)) uids.add(metadata.uid);
      const act = random.between(0, 9);
      const names = jobs(world).map(({ metadata }) => metadata.name);
      if (act <= 2) applyJob(world, `j${++jobLast}`, random.pick([50, 100_000]));
      if (act === 3 && names.length > 0) world.kube.delete("trainingjobs", random.pick(names));
      if (act === 4) world.kube.down = !world.kube.down;
      if (act === 5) world.training.ready = !world.training.ready;
      if (act === 6) await world.restart();
      if (act === 7) world.training.loseAnswer = true;
      if (act === 8 && names.length > 0) world.training.fail(random.pick(names), "RANK_DIED");
      if (act === 9) world.kube.cutAll();
      for (const { metadata } of jobs(world)) uids.add(metadata.uid);
      const steps = [...world.training.runs.values()].map((run) => [run, run.step] as const);
      await world.pass(random.between(1, 12) * 250);
      for (const [run, step] of steps)
        assert.ok(
          run.over || run.saving !== null || run.step > step,
          `${told}: training waited for Kubernetes`,
        );
      checkSafety(world, uids, told);
    }

    world.kube.faults = NO_FAULTS;
    world.kube.down = false;
    world.training.ready = true;
    world.kube.cutAll();
    await world.until(`${told}: every object tells how its run stands`, () =>
      jobs(world).every((object) => {
        const run = world.training.runs.get(object.metadata.uid);
        return (
          run !== undefined &&
          isOver(object.status) === run.over &&
          object.metadata.deletionTimestamp === undefined
        );
      }),
    );
    for (const name of new Set([...world.training.runs.values()].map((run) => run.name)))
      assert.equal(runsOf(world, name).length, 1, `${told}: ${name} was run twice`);
    await world.until(`${told}: the pod that leads is marked`, () => world.kube.leaders.has("c-0"));
    for (const { metadata } of jobs(world)) world.kube.delete("trainingjobs", metadata.name);
    await world.until(`${told}: all are gone, saved and stopped`, () => jobs(world).length === 0);
    for (const run of world.training.runs.values()) assert.ok(run.over, `${told}: ${run.name} still trains`);
    for (const run of world.training.runs.values())
      for (const { number } of run.incidents)
        assert.ok(
          world.kube.events.has(`${run.name}.${run.jobId.slice(0, 8)}.${number}.rank-died`),
          `${told}: incident ${number} of ${run.name} made no event`,
        );
    await world.stop();
  }
});

test("a run twice is the same run: a seed decides everything", async () => {
  const trace = async () => {
    const world = new SimWorld({ seed: 5, machines: 4, pods: 3 });
    world.kube.faults = FAULTS;
    world.start();
    applyJob(world, "a");
    applyJob(world, "b", 30);
    await world.pass(20_000);
    world.kube.delete("trainingjobs", "a");
    await world.pass(60_000);
    await world.stop();
    return world.kube.writes;
  };
  const first = await trace();
  assert.ok(first.length > 10);
  assert.deepEqual(await trace(), first);
});

test("failure domains: the label of the machine that a pod is on, as it changes, and once more to a new leader", async () => {
  const world = new SimWorld({ seed: 1, machines: 3, pods: 3 });
  const label = (machine: string, labels: Record<string, string>) =>
    world.kube.change("nodes", machine, (node) => {
      node.metadata.labels = labels;
    });
  const zone = (name: string) => ({ "topology.kubernetes.io/zone": name });
  const pods = world.kube.allOf("pods");
  const home = pods[0]!.spec.nodeName!;
  const here = pods.filter(({ spec }) => spec.nodeName === home).map(({ metadata }) => metadata.name);
  const told = () => Object.fromEntries(world.training.domains);
  const all = (domain: string | null) => Object.fromEntries(here.map((name) => [name, domain]));
  const isTold = (domain: string | null) => () => isDeepStrictEqual(told(), all(domain));
  label(home, zone("a"));
  world.start();
  await world.until("the zone of those pods is told, and no other", isTold("a"));
  label(home, zone("b"));
  await world.until("another label is told", isTold("b"));
  world.training.ready = false;
  await world.pass(5_000);
  world.training.domains.clear();
  world.training.ready = true;
  await world.until("a new leader hears it", isTold("b"));
  label(home, {});
  await world.until("no label, no domain", isTold(null));
  await world.stop();
});

test("an outage of the API server: training goes on, and what it missed is told after it", async () => {
  const world = new SimWorld({ seed: 1, machines: 1, pods: 1 });
  world.start();
  applyJob(world, "a");
  await world.until("it trains", () => (jobs(world)[0]?.status?.step ?? 0) > 2);
  world.kube.down = true;
  world.kube.cutAll();
  const before = runsOf(world, "a")[0]!.step;
  world.kube.delete("trainingjobs", "a");
  await world.pass(60_000);
  assert.ok(runsOf(world, "a")[0]!.step >= before + 200, "a step a tick");
  assert.equal(world.warnings.filter((text) => text.includes("Cannot read trainingjobs")).length, 1);
  world.kube.down = false;
  await world.until("it is saved, stopped and gone", () => jobs(world).length === 0);
  assert.equal(runsOf(world, "a")[0]!.phase, "STOPPED");
  await world.stop();
});

test("an API server that comes back and has not read its roles yet: events that it refused are told all the same", async () => {
  const world = new SimWorld({ seed: 1, machines: 1, pods: 1 });
  const isTold = (reason: string) => [...world.kube.events.values()].some((one) => one.reason === reason);
  world.start();
  applyJob(world, "a");
  await world.until("it trains", () => (jobs(world)[0]?.status?.step ?? 0) > 2);
  world.kube.forbidden = "all";
  world.training.fail("a", "RANK_DIED");
  await world.pass(10_000);
  assert.equal(world.kube.events.size, 0);
  world.kube.forbidden = "nothing";
  await world.until("the fault and its end are told", () => isTold("RankDied") && isTold("Recovered"));
  await world.stop();
});

test("events that are never allowed hold nothing else up, and are not asked for again at every step", async () => {
  const world = new SimWorld({ seed: 1, machines: 1, pods: 1 });
  world.start();
  applyJob(world, "a");
  world.kube.forbidden = "events";
  await world.until("it trains", () => (jobs(world)[0]?.status?.step ?? 0) > 2);
  world.training.fail("a", "RANK_DIED");
  await world.until("the status tells of the incident", () => jobs(world)[0]?.status?.incidents === 1);
  const { step } = runsOf(world, "a")[0]!;
  await world.pass(120_000);
  assert.ok(runsOf(world, "a")[0]!.step > step + 400);
  const refused = world.warnings.filter((text) => text.includes("not allowed: event"));
  // Two events, each after 1, 2, 4, ... seconds.
  assert.ok(refused.length <= 2 * 8, `${refused.length} tries in two minutes`);
  await world.stop();
});

test("storage of one job that hangs: others are taken, told of and stopped; its own object stays until it has been answered", async () => {
  const world = new SimWorld({ seed: 1, machines: 1, pods: 1 });
  let answer = () => {};
  world.training.hanging.set("stuck", new Promise((resolve) => (answer = resolve)));
  world.start();
  applyJob(world, "stuck");
  applyJob(world, "good");
  const named = (name: string) => jobs(world).find(({ metadata }) => metadata.name === name);
  await world.until("the other one trains", () => (named("good")?.status?.step ?? 0) > 2);
  world.kube.delete("trainingjobs", "good");
  await world.until("it is stopped and gone", () => named("good") === undefined);
  world.kube.delete("trainingjobs", "stuck");
  await world.pass(60_000);
  assert.ok(named("stuck") !== undefined, "it may yet be taken, and would train for nobody");
  answer();
  await world.until("it is stopped and gone, too", () => named("stuck") === undefined);
  assert.deepEqual(
    runsOf(world, "stuck").map(({ phase }) => phase),
    ["STOPPED"],
  );
  await world.stop();
});

test("all jobs are looked at once a pass, however many objects there are, and not for objects that are over and let go", async () => {
  const world = new SimWorld({ seed: 1, machines: 1, pods: 1 });
  world.start();
  for (let job = 0; job < 20; job++) applyJob(world, `j${job}`, 1_000_000);
  await world.until("all train", () => jobs(world).every(({ status }) => status?.phase === "Running"));
  await world.pass(6_000);
  const before = world.training.looks;
  const writes = world.kube.writes.length;
  await world.pass(10_000);
  // A pass every second, and one for each write that the watch tells of.
  assert.ok(
    world.training.looks - before <= 11 + world.kube.writes.length - writes,
    `${world.training.looks - before}`,
  );
  for (const run of world.training.runs.values())
    world.kube.change("trainingjobs", run.name, (object) => {
      object.status!.phase = "Completed";
      object.metadata.finalizers = [];
    });
  await world.pass(1_000);
  const quiet = world.training.looks;
  await world.pass(10_000);
  assert.equal(world.training.looks, quiet);
  await world.stop();
});

test("a controller that stops waits for no list that is not answered", async () => {
  const world = new SimWorld({ seed: 1, machines: 1, pods: 1 });
  world.kube.hangs = true;
  world.start();
  await world.pass(1_000);
  await world.stop();
});

test("the pod that leads is marked, and the mark of one that ended as leader is taken off", async () => {
  const world = new SimWorld({ seed: 1, machines: 1, pods: 1 });
  world.start();
  await world.until("it is marked", () => world.kube.leaders.has("c-0"));
  await world.stop();
  world.training.ready = false;
  world.start();
  await world.until("the mark is off", () => world.kube.leaders.size === 0);
  world.training.ready = true;
  await world.until("it is marked again", () => world.kube.leaders.has("c-0"));
  await world.stop();
});

test("a watch that goes quiet: the periodic list sees what it did not tell", async () => {
  const world = new SimWorld({ seed: 1, machines: 1, pods: 1 });
  world.start();
  await world.pass(1_000);
  world.kube.faults = { ...NO_FAULTS, quiet: 1 };
  applyJob(world, "a");
  await world.pass(250);
  world.kube.faults = NO_FAULTS;
  await world.pass(10_000);
  assert.equal(world.training.runs.size, 0, "nobody told");
  await world.until("the list tells", () => world.training.runs.size === 1, 310_000);
  await world.stop();
});

test("what is told of progress is bounded, and a job that ended is written once", async () => {
  const world = new SimWorld({ seed: 1, machines: 1, pods: 1 });
  world.start();
  applyJob(world, "a", 400);
  await world.until("it trains", () => (jobs(world)[0]?.status?.step ?? 0) > 0);
  const before = world.kube.writes.length;
  await world.pass(60_000);
  assert.ok(
    world.kube.writes.length - before <= 13,
    `${world.kube.writes.length - before} writes in a minute`,
  );
  await world.until("it ended", () => isOver(jobs(world)[0]?.status));
  await world.pass(2_000);
  const quiet = world.kube.writes.length;
  await world.pass(600_000, 5_000);
  assert.equal(world.kube.writes.length, quiet);
  assert.deepEqual(jobs(world)[0]?.metadata.finalizers, [FINALIZER]);
  await world.stop();
});

test("a quarantined machine is tainted and its pod evicted; the pod that replaces it is used; the taint ends with its time", async () => {
  for (let seed = 1; seed <= 20; seed++) {
    const world = new SimWorld({ seed, machines: 4, pods: 3 });
    world.kube.faults = seed === 1 ? NO_FAULTS : FAULTS;
    world.start();
    await world.pass(3_000);
    const bad = world.machineOf("w-1")!;
    const untilMs = world.nowMs() + 3_600_000;
    world.training.quarantined.set("w-1", {
      nodeId: "w-1",
      reason: "memory differs",
      atMs: world.nowMs(),
      untilMs,
    });
    if (seed % 3 === 0) await world.restart();
    await world.until("it is tainted", () => world.tainted().includes(bad));
    await world.until("its pod runs elsewhere", () => {
      const now = world.machineOf("w-1");
      return now !== undefined && now !== bad;
    });
    await world.until("the new pod is released", () => world.training.released.includes("w-1"));
    assert.deepEqual(world.training.released, ["w-1"], `seed ${seed}`);
    // A watch that was quiet all the while leaves nothing to tell but that it is gone.
    const told = seed === 1 ? /is evicted/ : /is evicted|is gone/;
    assert.ok(world.training.fates.some(({ nodeId, fate }) => nodeId === "w-1" && told.test(fate.text)));
    assert.deepEqual(world.tainted(), [bad], `seed ${seed}: until its time is over`);
    await world.pass(1_000);
    world.kube.faults = NO_FAULTS;
    world.kube.cutAll();
    await world.pass(untilMs - world.nowMs() - 12_000, 10_000);
    assert.deepEqual(world.tainted(), [bad], `seed ${seed}: not before its time`);
    await world.until("the taint has ended", () => world.tainted().length === 0);
    await world.stop();
  }
});

test("many quarantines at a time taint a quarter of the machines, and evict no pod that has no other place", async () => {
  const world = new SimWorld({ seed: 3, machines: 8, pods: 8 });
  world.start();
  await world.pass(2_000);
  const pods = new Map(world.kube.allOf("pods").map(({ metadata }) => [metadata.name, metadata.uid]));
  for (const nodeId of pods.keys())
    world.training.quarantined.set(nodeId, {
      nodeId,
      reason: "all fail",
      atMs: world.nowMs(),
      untilMs: null,
    });
  await world.pass(60_000);
  const used = new Set(world.kube.allOf("pods").map(({ spec }) => spec.nodeName));
  assert.ok(world.tainted().length <= Math.max(1, Math.floor(0.25 * (used.size + world.tainted().length))));
  const kept = world.kube.allOf("pods").filter(({ metadata }) => pods.get(metadata.name) === metadata.uid);
  assert.ok(kept.length > 0 && kept.every(({ spec }) => !world.tainted().includes(spec.nodeName!)));
  await world.stop();
});

test("a person removes the taint: the machine is free, and its pod with it where it is still there", async () => {
  const world = new SimWorld({ seed: 4, machines: 2, pods: 1 });
  world.kube.evictionsAllowed = 0;
  world.start();
  await world.pass(2_000);
  const bad = world.machineOf("w-0")!;
  world.training.quarantined.set("w-0", {
    nodeId: "w-0",
    reason: "hangs",
    atMs: world.nowMs(),
    untilMs: null,
  });
  await world.until("it is tainted", () => world.tainted().includes(bad));
  await world.pass(60_000);
  assert.equal(world.machineOf("w-0"), bad, "the disruption budget keeps it");
  world.kube.change("nodes", bad, (node) => {
    node.spec.taints = [];
  });
  await world.until("it is released", () => world.training.released.includes("w-0"));
  await world.pass(10_000);
  assert.deepEqual(world.tainted(), []);
  await world.stop();
});
