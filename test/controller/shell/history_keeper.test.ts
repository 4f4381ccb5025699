import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import pino from "pino";
import { EventLog } from "../../../controller/shell/event_log.js";
import { HistoryKeeper } from "../../../controller/shell/history_keeper.js";
import { LEADER_KEY } from "../../../controller/shell/leadership.js";
import { TrainingHistory } from "../../../controller/shell/training_history.js";
import { EmbeddedStore } from "../../../controller/store/embedded.js";
import type { StoreWrite } from "../../../controller/store/store.js";
import { StepCompleted } from "../../../gen/goku/v1/agent.pb.js";
import { VirtualClock } from "../../support/virtual_clock.js";

interface Process {
  histories: Map<string, TrainingHistory>;
  events: EventLog;
}

/** A store, and controllers that lead one after another over it. */
async function openWorld(t: TestContext) {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-history-"));
  const clock = new VirtualClock();
  const store = await EmbeddedStore.open(folder, clock);
  t.after(async () => {
    await store.close();
    rmSync(folder, { recursive: true });
  });
  /** What was written, transaction by transaction. */
  const written: StoreWrite[][] = [];
  const transact = store.transact.bind(store);
  store.transact = (compares, writes) => {
    if (writes.some(({ key }) => key.startsWith("goku/history/"))) written.push([...writes]);
    return transact(compares, writes);
  };
  const warnings: string[] = [];
  const log = pino({ level: "warn" }, { write: (line: string) => void warnings.push(line) });
  const known = new Set(["job-1"]);

  /** @param startMs when its process began; `again`: it has led before, and knows what it heard then */
  async function lead({ startMs, nowMs, again }: { startMs: number; nowMs: number; again?: Process }) {
    const { histories, events } = again ?? {
      histories: new Map<string, TrainingHistory>(),
      events: new EventLog(startMs),
    };
    const isKnown = (jobId: string) => known.has(jobId);
    const keeper = new HistoryKeeper({ store, clock, log, histories, events, isKnown });
    await transact([], [{ kind: "put", key: LEADER_KEY, value: new Uint8Array([1]) }]);
    await transact([], [{ kind: "delete", key: LEADER_KEY }]);
    await transact([], [{ kind: "put", key: LEADER_KEY, value: new Uint8Array([1]) }]);
    await keeper.read();
    keeper.begin((await store.get(LEADER_KEY))!.createRevision, nowMs);
    const tell = (generation: number, step: number, jobId = "job-1") => {
      if (!histories.has(jobId)) histories.set(jobId, new TrainingHistory());
      histories.get(jobId)!.add(completed(generation, step), step * 100);
    };
    const say = (message: string, kind = "phase") =>
      events.add({ timeMs: nowMs, job: "shapes", kind, message });
    return { keeper, histories, events, tell, say, curves: () => histories.get("job-1")!.curves() };
  }
  /** So much time, and what it sets off is done. */
  const pass = async (ms: number) => {
    await clock.advance(ms);
    for (let i = 0; i < 20; i++) await transact([], [{ kind: "delete", key: "none" }]);
  };
  return { store, lead, pass, written, warnings, known };
}

function completed(generation: number, step: number): StepCompleted {
  return StepCompleted.fromPartial({
    ...{ generation: BigInt(generation), step: BigInt(step), loss: Math.sin(step) / 3, gradNorm: 1 / step },
    ...{ tokens: 100n, stepSeconds: Math.cos(step) ** 2, computeSeconds: 0.1 / step, applied: true },
    ...{ commWaitSeconds: Math.sin(step) ** 2, packFill: 0.97 },
  });
}
const rounded = (value: unknown) =>
  JSON.parse(JSON.stringify(value), (_, each) => (typeof each === "number" ? +each.toPrecision(6) : each));
const texts = (events: EventLog) => events.past("", 0n).map(({ message }) => message);

test("HistoryKeeper: who leads next has the curves and events of who led before, and repeats of agents change nothing", async (t) => {
  const { lead, pass } = await openWorld(t);
  const first = await lead({ startMs: 1_000, nowMs: 1_000 });
  for (let step = 1; step <= 30; step++) first.tell(1, step);
  for (let step = 28; step <= 60; step++) first.tell(2, step);
  for (const text of ["generation 1 trains", "rank 3 died", "generation 2 trains"]) first.say(text);
  first.say("step 60", "phase");
  first.events.add({ timeMs: 1, job: "shapes", kind: "step", message: "s", step: completed(2, 60) });
  await pass(2_000);

  const second = await lead({ startMs: 9_000, nowMs: 9_000 });
  assert.deepEqual(second.curves(), rounded(first.curves()));
  assert.equal(second.histories.get("job-1")!.tokensTotal, 6_000);
  assert.deepEqual(texts(second.events), [
    "generation 1 trains",
    "rank 3 died",
    "generation 2 trains",
    "step 60",
  ]);
  assert.deepEqual(
    second.events.past("", 0n).map(({ id }) => id),
    first.events.past("", 0n).flatMap(({ id, step }) => (step === undefined ? [id] : [])),
    "readers go on behind the last one they have",
  );
  for (let step = 28; step <= 61; step++) second.tell(2, step);
  assert.deepEqual(
    second.curves().map(({ step, steps }) => [step, steps]),
    Array.from({ length: 61 }, (_, i) => [i + 1, 1]),
  );
  assert.deepEqual(second.curves().slice(0, 60), rounded(first.curves()));
  assert.equal(second.histories.get("job-1")!.tokensTotal, 6_100);
});

test("HistoryKeeper: one that leads again knows the steps that it was told before, unless another has heard later ones", async (t) => {
  const { lead, pass } = await openWorld(t);
  const first = await lead({ startMs: 1_000, nowMs: 1_000 });
  for (let step = 1; step <= 30; step++) first.tell(1, step);
  await pass(2_000);
  for (let step = 31; step <= 40; step++) first.tell(1, step);
  const back = await lead({ startMs: 1_000, nowMs: 9_000, again: first });
  for (const step of [1, 30, 40])
    assert.ok(back.histories.get("job-1")!.knows(completed(1, step)), `${step}`);
  assert.ok(!back.histories.get("job-1")!.knows(completed(1, 41)));

  const other = await lead({ startMs: 2_000, nowMs: 20_000 });
  for (let step = 36; step <= 80; step++) other.tell(2, step);
  await pass(2_000);
  const last = await lead({ startMs: 1_000, nowMs: 30_000, again: back });
  assert.equal(last.curves().at(-1)!.step, 80);
});

test("HistoryKeeper: events of a leader whose process is the older one still come behind all that were told", async (t) => {
  const { lead, pass } = await openWorld(t);
  const young = await lead({ startMs: 5_000_000, nowMs: 5_000_000 });
  young.say("of the one that began late");
  const told = young.events.past("", 0n).at(-1)!.id;
  await pass(2_000);
  const old = await lead({ startMs: 1_000, nowMs: 5_010_000 });
  old.say("of the one that began early");
  assert.deepEqual(
    old.events.past("", told).map(({ message }) => message),
    ["of the one that began early"],
  );
});

test("HistoryKeeper: one that leads no more writes nothing, whether it knows that or not", async (t) => {
  const { lead, pass } = await openWorld(t);
  const [deposed, ended] = [await lead({ startMs: 1, nowMs: 1 }), await lead({ startMs: 2, nowMs: 2 })];
  ended.keeper.end();
  const leader = await lead({ startMs: 3, nowMs: 3 });
  for (const { tell, say } of [deposed, ended]) {
    tell(1, 1);
    say("not the leader's");
  }
  await pass(2_000);
  await Promise.all([deposed.keeper.flush(), ended.keeper.flush()]);
  leader.say("the leader's");
  await leader.keeper.flush();
  const next = await lead({ startMs: 4, nowMs: 4 });
  assert.deepEqual(texts(next.events), ["the leader's"]);
  assert.equal(next.histories.size, 0);
});

test("HistoryKeeper: a job that trains is written every 15 s, one curve at a time, and at once when it ends or begins anew", async (t) => {
  const { lead, pass, written, known } = await openWorld(t);
  const { tell } = await lead({ startMs: 1, nowMs: 1 });
  const jobs = ["job-1", "job-2"];
  known.add("job-2");
  const keys = () => written.splice(0).map((writes) => writes.map(({ key }) => key.split("/").at(-1)).join());
  let step = 0;
  const train = async (ticks: number, generation = 1) => {
    for (let tick = 0; tick < ticks; tick++) {
      step += 1;
      for (const job of jobs) tell(generation, step, job);
      await pass(2_000);
    }
  };
  await train(2);
  assert.deepEqual(keys(), jobs);
  await train(6);
  assert.deepEqual(keys(), []);
  await train(2);
  assert.deepEqual(keys(), jobs);
  await train(2, 2);
  assert.deepEqual(keys(), jobs, "a new generation");
  await train(1, 2);
  assert.deepEqual(keys(), []);
  await pass(2_000);
  await pass(2_000);
  assert.deepEqual(keys(), jobs, "nothing is told any more");
  await pass(2_000);
  assert.deepEqual(keys(), []);
  known.delete("job-1");
  await pass(2_000);
  assert.deepEqual(keys(), ["job-1"]);
  const next = await lead({ startMs: 2, nowMs: 2 });
  assert.deepEqual([...next.histories.keys()], ["job-2"]);
});

test("HistoryKeeper: a long run and many events stay small, the newest of them are kept", async (t) => {
  const { lead, written, store } = await openWorld(t);
  const { tell, say, keeper } = await lead({ startMs: 1, nowMs: 1 });
  for (let step = 1; step <= 100_000; step++) tell(1, step);
  for (let burst = 0; burst < 3; burst++) {
    for (let i = 0; i < 700; i++) say(`event ${burst}.${i} of a cluster in which much happens at once`);
    await keeper.flush();
  }
  const sizes = written.flat().map((write) => (write.kind === "put" ? write.value.length : 0));
  t.diagnostic(`largest write: ${Math.max(...sizes)} bytes`);
  assert.ok(Math.max(...sizes) < 32_768, `${Math.max(...sizes)} bytes`);
  assert.ok((await store.list("goku/history/events/")).length <= 10);
  const next = await lead({ startMs: 2, nowMs: 2 });
  const kept = texts(next.events);
  assert.ok(kept.length > 400, `${kept.length} events`);
  assert.match(kept.at(-1)!, /^event 2\.699 /);
  assert.equal(next.curves()[0]!.step, 1);
  assert.equal(next.curves().at(-1)!.step, 100_000);
  assert.equal(
    next.curves().reduce((sum, { steps }) => sum + steps, 0),
    100_000,
  );
});

test("HistoryKeeper: what cannot be read is told and left out", async (t) => {
  const { lead, store, warnings } = await openWorld(t);
  const first = await lead({ startMs: 1, nowMs: 1 });
  first.say("whole");
  await first.keeper.flush();
  const value = new TextEncoder().encode("not compressed");
  const keys = ["goku/history/curves/job-1", "goku/history/events/0000000009"];
  await store.transact(
    [],
    keys.map((key) => ({ kind: "put", key, value }) as const),
  );
  const next = await lead({ startMs: 2, nowMs: 2 });
  assert.deepEqual(texts(next.events), ["whole"]);
  assert.equal(next.histories.size, 0);
  assert.deepEqual(
    warnings.map((line) => JSON.parse(line).key),
    keys,
  );
});
