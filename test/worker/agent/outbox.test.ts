import assert from "node:assert/strict";
import { test } from "node:test";
import { Outbox, type Report } from "../../../worker/agent/outbox.js";

const ready = (rank: number, port: number): Report => ({
  $case: "rankReady",
  value: { generation: 1n, rank, pid: 1, port, heldStates: [] },
});
const step = (number: number) =>
  ({ $case: "stepCompleted", value: { generation: 1n, step: BigInt(number) } }) as Report;
const committed = (number: number): Report => ({
  $case: "checkpointCommitted",
  value: {
    generation: 1n,
    state: { generation: 1n, step: BigInt(number) },
    uri: "file:///run",
    bytes: 1n,
    seconds: 1,
  },
});
const failed = (number: number): Report => ({
  $case: "checkpointFailed",
  value: { generation: 1n, state: { generation: 1n, step: BigInt(number) }, error: undefined },
});
const released: Report = { $case: "nodeReleased", value: { jobId: "a" } };

test("Outbox repeats the newest report of each kind and rank until the next generation is prepared", () => {
  const outbox = new Outbox();
  outbox.add(ready(0, 100), 0, true);
  outbox.add(ready(1, 200), 0, true);
  outbox.add(ready(0, 101), 0, true);
  assert.deepEqual(outbox.repeat(1, false), [ready(0, 101), ready(1, 200)]);
  assert.equal(outbox.repeat(2, false).length, 2);
  outbox.prepared();
  assert.deepEqual(outbox.repeat(3, false), []);
});

test("Outbox repeats to the same leader steps that it may have missed, to a new one all it keeps", () => {
  const outbox = new Outbox();
  outbox.add(step(1), 0, true);
  outbox.add(step(2), 1_000, false);
  outbox.add(step(3), 2_000, false);
  assert.deepEqual(outbox.repeat(60_000, false), [step(2), step(3)]);
  outbox.add(step(4), 60_002, true);
  assert.deepEqual(outbox.repeat(60_003, false), [step(2), step(3), step(4)], "that stream has ended, too");
  assert.deepEqual(outbox.repeat(99_000, false), []);
  assert.deepEqual(outbox.repeat(99_000, true), [step(1), step(2), step(3), step(4)]);
});

test("Outbox repeats the steps before the end of the ranks that made them: a job that is over hears of no step", () => {
  const outbox = new Outbox();
  const finished = { $case: "rankFinished", value: { generation: 1n, rank: 0 } } as Report;
  outbox.add(ready(0, 100), 0, true);
  outbox.add(step(1), 1, false);
  outbox.add(finished, 2, false);
  assert.deepEqual(outbox.repeat(3, true), [ready(0, 100), step(1), finished]);
});

test("Outbox bounds the steps it keeps while no controller is there: the newest stay", () => {
  const outbox = new Outbox();
  for (let number = 1; number <= 5_000; number++) outbox.add(step(number), number, false);
  const kept = outbox.repeat(5_000, false);
  assert.equal(kept.length, 4_096);
  assert.deepEqual(kept.at(-1), step(5_000));
});

test("Outbox keeps the newest commit over generations, and an alarm until a later commit", () => {
  const outbox = new Outbox();
  outbox.add(committed(10), 0, true);
  outbox.add(failed(20), 0, true);
  outbox.prepared();
  assert.deepEqual(outbox.repeat(1, false), [committed(10), failed(20)]);
  outbox.add(committed(30), 40_000, true);
  assert.deepEqual(outbox.repeat(90_000, false), [committed(30)]);
});

test("Outbox keeps every commit that no controller was there to hear of, up to 256", () => {
  const outbox = new Outbox();
  outbox.add(committed(10), 0, true);
  outbox.add(committed(20), 40_000, true);
  outbox.add(committed(30), 90_000, false);
  outbox.add(committed(40), 140_000, false);
  const kept = [committed(20), committed(30), committed(40)]; // 20: nobody knows until when that stream lived
  assert.deepEqual(outbox.repeat(150_000, true), kept);
  outbox.add(committed(50), 160_000, true);
  assert.deepEqual(outbox.repeat(161_000, true), [...kept, committed(50)], "may not be written down yet");
  outbox.add(committed(60), 200_000, true);
  assert.deepEqual(outbox.repeat(201_000, true), [committed(60)]);
  for (let number = 1; number <= 300; number++) outbox.add(committed(100 + number), 202_000, false);
  assert.deepEqual(
    outbox.repeat(203_000, true),
    Array.from({ length: 256 }, (_, i) => committed(145 + i)),
  );
});

test("Outbox keeps the commits that were told to a leader which may have lost its store", () => {
  const outbox = new Outbox();
  for (const number of [10, 20, 30]) outbox.add(committed(number), number * 100, true);
  outbox.add(committed(40), 60_000, false); // its stream has ended meanwhile
  assert.deepEqual(outbox.repeat(200_000, true), [10, 20, 30, 40].map(committed));
});

test("Outbox says once more that the node was released, until it is prepared again", () => {
  const outbox = new Outbox();
  outbox.add(ready(0, 1), 0, true);
  outbox.add(committed(5), 0, true);
  outbox.forgetJob();
  outbox.add(released, 1, false);
  assert.deepEqual(outbox.repeat(2, false), [released]);
  outbox.prepared();
  assert.deepEqual(outbox.repeat(3, false), []);
});

test("Outbox keeps an alarm that no controller heard, before the commit that followed it, and tells it once", () => {
  const outbox = new Outbox();
  outbox.add(committed(10), 0, true);
  outbox.add(failed(20), 1, false);
  outbox.add(committed(30), 2, false);
  assert.deepEqual(outbox.repeat(3, true), [committed(10), failed(20), committed(30)]);
  assert.deepEqual(outbox.repeat(4, true), [committed(10), committed(30)]);
});

test("Outbox drops an alarm that was told when a later save of this node is done, though another one commits it", () => {
  const outbox = new Outbox();
  outbox.add(failed(20), 0, false);
  outbox.saveSettled();
  assert.deepEqual(outbox.repeat(1, false), [failed(20)], "nobody had heard it");
  outbox.saveSettled();
  assert.deepEqual(outbox.repeat(2, false), []);
});

test("Outbox repeats signs of trouble that were not sent, or may have been lost, whatever becomes of the generation", () => {
  const outbox = new Outbox();
  const sign = (kind: string): Report => ({
    $case: "nodeSignals",
    value: {
      generation: 1n,
      signals: [{ kind, rank: undefined, device: "", text: "", count: 1, atMs: 0n }],
    },
  });
  outbox.add(sign("xid.13"), 0, true);
  outbox.add(sign("xid.48"), 1_000, false);
  outbox.add(sign("xid.79"), 40_000, true);
  outbox.prepared();
  outbox.forgetJob();
  assert.deepEqual(outbox.repeat(50_000, false), [sign("xid.48"), sign("xid.79")]);
  assert.deepEqual(outbox.repeat(75_000, true), [sign("xid.48"), sign("xid.79")], "sent at 50,000");
  assert.deepEqual(outbox.repeat(105_000, true), []);
});

test("Outbox repeats after the saves what was read back: of each node the newest, and each damaged checkpoint", () => {
  const read = (step: number, damage = ""): Report => ({
    $case: "checkpointRead",
    value: {
      generation: 1n,
      state: { generation: 1n, step: BigInt(step) },
      uri: `file:///run/checkpoint-${step}`,
      writers: damage === "" ? [0] : [],
      writerCount: 1,
      damage,
    },
  });
  const outbox = new Outbox();
  outbox.add(read(10), 0, true);
  outbox.add(read(20, "a MiB differs"), 1, true);
  outbox.add(read(30), 2, true);
  outbox.add(committed(40), 3, true);
  outbox.add(read(40), 4, true);
  assert.deepEqual(outbox.repeat(5, true), [committed(40), read(40), read(20, "a MiB differs")]);
  outbox.prepared();
  assert.deepEqual(outbox.repeat(6, true), [committed(40)]);
});
