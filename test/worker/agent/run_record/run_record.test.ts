import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { pino } from "pino";
import { S3Storage } from "../../../../checkpoint/storage/s3.js";
import { openStorage, type Storage } from "../../../../checkpoint/storage/storage.js";
import { StepCompleted } from "../../../../gen/goku/v1/agent.pb.js";
import { FileRecord } from "../../../../worker/agent/run_record/file_record.js";
import { ObjectRecord } from "../../../../worker/agent/run_record/object_record.js";
import type { RecordStore } from "../../../../worker/agent/run_record/record_store.js";
import { RunRecord } from "../../../../worker/agent/run_record/run_record.js";
import type { StepLine } from "../../../../worker/agent/run_record/step_line.js";
import { MemoryS3 } from "../../../support/memory_s3.js";
import { curve, readTfEvents } from "../../../support/read_tfevents.js";
import { testSettings } from "../../../support/s3_settings.js";

const quiet = pino({ level: "silent" });
const root = mkdtempSync(path.join(tmpdir(), "goku-record-"));
after(() => rmSync(root, { recursive: true, force: true }));

/** A record somewhere, as its writers and its readers see it. */
interface Place {
  open(node: string, generation: string): RecordStore;
  lines(): Promise<StepLine[]>;
  /** What TensorBoard shows. */
  points(tag: string): Promise<[number, number][]>;
}

let folders = 0;
function filePlace(): Place & { folder: string } {
  const folder = path.join(root, `file-${folders++}`);
  return {
    folder,
    open: (node, generation) => new FileRecord(folder, { node, generation }),
    lines: async () => parse(readFileSync(path.join(folder, "metrics.jsonl"), "utf8")),
    points: async (tag) => {
      const names = readdirSync(path.join(folder, "tensorboard")).sort();
      return curve(
        names.map((name) => readTfEvents(readFileSync(path.join(folder, "tensorboard", name)))),
        tag,
      );
    },
  };
}

/** @param storage in which nothing can be appended to a key */
function objectPlace(storage: Storage): Place {
  const read = async (prefix: string) => {
    const all: Buffer[] = [];
    for (const { key } of await storage.list(prefix))
      all.push(Buffer.from(await storage.readFile(key, 1 << 24)));
    return all;
  };
  return {
    open: (node, generation) => new ObjectRecord(storage, { node, generation }),
    lines: async () => parse((await read("metrics/")).join("")),
    points: async (tag) => curve((await read("tensorboard/")).map(readTfEvents), tag),
  };
}

function parse(text: string): StepLine[] {
  assert.ok(text === "" || text.endsWith("\n"), "no line is cut off");
  return text
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as StepLine);
}

/** A loss that tells which generation computed the step. */
function told(step: number, generation: number): StepCompleted {
  return StepCompleted.fromPartial({
    step: BigInt(step),
    generation: BigInt(generation),
    loss: generation + step / 1024,
    learningRate: 0.5,
    applied: true,
    stepSeconds: 2,
    modelFlops: 4e12,
    completedMs: BigInt(1_790_000_000_000 + 1_000 * step + 100_000 * generation),
  });
}

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

function writer(
  place: Place,
  options: { node: string; failed?: () => void; wrap?: (store: RecordStore) => RecordStore },
) {
  const { node, failed = () => assert.fail("a write failed"), wrap = (store) => store } = options;
  return new RunRecord({
    node,
    log: quiet,
    peakFlops: 1e12,
    failed,
    openStore: ({ generation }) => wrap(place.open(node, String(generation))),
  });
}

function run(generation: number, recent: readonly StepCompleted[] = []) {
  return { jobId: "job-1", uri: "", generation: BigInt(generation), worldSize: 4, recent };
}

/** Steps and the generation whose numbers stand there. */
async function summary(place: Place): Promise<[number, number][]> {
  const lines = await place.lines();
  const points = await place.points("train/loss");
  assert.deepEqual(
    points,
    lines.map(({ step, loss }) => [step, Math.fround(loss!)]),
    "TensorBoard shows what the lines say",
  );
  return lines.map(({ step, generation }) => [step, generation]);
}

const of = (generation: number, from: number, to: number) =>
  range(from, to).map((step): [number, number] => [step, generation]);

const server = MemoryS3.start();
after(async () => (await server).stop());
let prefixes = 0;
const places: [string, () => Promise<Place>][] = [
  ["a folder", async () => filePlace()],
  [
    "objects in a folder",
    async () => objectPlace(openStorage(`file://${path.join(root, `objects-${folders++}`)}`)),
  ],
  [
    "S3",
    async () => {
      const { bucket, endpoint } = await server;
      const place = { bucket, prefix: `run-${prefixes++}` };
      return objectPlace(new S3Storage(place, { settings: testSettings(endpoint), partBytes: 5 << 20 }));
    },
  ],
];

for (const [name, make] of places) {
  test(`record in ${name}: each step once, whoever writes and however far a generation went back`, async () => {
    const place = await make();
    const a = writer(place, { node: "node-a" });
    a.begin(run(1));
    for (const step of range(1, 45)) {
      a.add(told(step, 1));
      if (step % 7 === 0) await a.flush();
    }
    await a.close();
    assert.deepEqual(await summary(place), of(1, 1, 45));

    // The node is lost, another goes on from the checkpoint of step 40.
    const b = writer(place, { node: "node-b" });
    b.begin(
      run(
        2,
        range(30, 45).map((step) => told(step, 1)),
      ),
    );
    for (const step of range(41, 50)) b.add(told(step, 2));
    await b.flush();
    assert.deepEqual(await summary(place), [...of(1, 1, 40), ...of(2, 41, 50)]);

    // The same node again, from memory, nothing computed again.
    b.begin(run(3));
    for (const step of range(51, 53)) b.add(told(step, 3));
    await b.close();
    assert.deepEqual(await summary(place), [...of(1, 1, 40), ...of(2, 41, 50), ...of(3, 51, 53)]);
  });

  test(`record in ${name}: what a lost node took along comes from the controller`, async () => {
    const place = await make();
    // Gathers for longer than this test takes: what it has not written is lost.
    const gathering = (store: RecordStore): RecordStore => ({
      gatherMs: 1e9,
      open: (keep) => store.open(keep),
      append: (batch) => store.append(batch),
      close: () => store.close(),
    });
    const a = writer(place, { node: "node-a", wrap: gathering });
    a.begin(run(1));
    for (const step of range(1, 20)) a.add(told(step, 1));
    await a.flush();
    for (const step of range(21, 27)) a.add(told(step, 1)); // never written
    const b = writer(place, { node: "node-b" });
    b.begin(
      run(
        2,
        range(5, 29).map((step) => told(step, 1)),
      ),
    );
    b.add(told(28, 2)); // restored from the memory of others after step 27
    await b.close();
    assert.deepEqual(await summary(place), [...of(1, 1, 27), ...of(2, 28, 28)]);
  });

  test(`record in ${name}: a run that starts over leaves nothing of the one before`, async () => {
    const place = await make();
    for (const generation of [1, 2]) {
      const one = writer(place, { node: "node-a" });
      one.begin(run(generation));
      for (const step of range(1, 12 - 4 * generation)) one.add(told(step, generation));
      await one.close();
    }
    assert.deepEqual(await summary(place), of(2, 1, 4));
  });

  test(`record in ${name}: more steps than a part of objects has`, async () => {
    const place = await make();
    const a = writer(place, { node: "node-a" });
    a.begin(run(1));
    for (const step of range(1, 2_600)) {
      a.add(told(step, 1));
      if (step % 300 === 0) await a.flush();
    }
    await a.close();
    const b = writer(place, { node: "node-b" });
    b.begin(run(2));
    b.add(told(1_051, 2));
    await b.close();
    assert.deepEqual(await summary(place), [...of(1, 1, 1_050), ...of(2, 1_051, 1_051)]);
  });

  test(`record in ${name}: writes that fail are made up for, in order`, async () => {
    const place = await make();
    let failures = 0;
    const failing = (store: RecordStore): RecordStore => ({
      gatherMs: 1e6,
      open: (keep) => store.open(keep),
      append: async (batch) => {
        // Half of it was written: its events, and nothing of its lines.
        if (failures++ % 2 === 0) {
          await store.append({ ...batch, lines: [] });
          throw new Error("the disk is full");
        }
        await store.append(batch);
      },
      close: () => store.close(),
    });
    let heard = 0;
    const a = writer(place, { node: "node-a", failed: () => heard++, wrap: failing });
    a.begin(run(1));
    for (const step of range(1, 9)) {
      a.add(told(step, 1));
      await a.flush();
    }
    await a.flush();
    await a.close();
    assert.ok(heard >= 4, `${heard} failures`);
    assert.deepEqual(await summary(place), of(1, 1, 9));
  });
}

test("a line that a crash cut off, and what follows it, is written again", async () => {
  const place = filePlace();
  const a = writer(place, { node: "node-a" });
  a.begin(run(1));
  for (const step of range(1, 5)) a.add(told(step, 1));
  await a.close();
  const file = path.join(place.folder, "metrics.jsonl");
  writeFileSync(file, readFileSync(file, "utf8").slice(0, -40));
  const b = writer(place, { node: "node-b" });
  b.begin(
    run(
      2,
      range(1, 5).map((step) => told(step, 1)),
    ),
  );
  b.add(told(6, 2));
  await b.close();
  assert.deepEqual(await summary(place), [...of(1, 1, 5), ...of(2, 6, 6)]);
});

test("a writer that has not heard of its successor writes into a file without a name", async () => {
  const place = filePlace();
  const a = writer(place, { node: "node-a" });
  a.begin(run(1));
  for (const step of range(1, 5)) a.add(told(step, 1));
  await a.flush();
  const b = writer(place, { node: "node-b" });
  b.begin(run(2));
  b.add(told(6, 2));
  await b.flush();
  a.add(told(6, 1));
  await a.flush();
  b.add(told(7, 2));
  await b.close();
  await a.close();
  assert.deepEqual(
    (await place.lines()).map(({ step, generation }) => [step, generation]),
    [...of(1, 1, 5), ...of(2, 6, 7)],
  );
});

test("a late report of an older generation is not written, but fills a hole", async () => {
  const place = filePlace();
  const a = writer(place, { node: "node-a" });
  a.begin(run(1));
  for (const step of range(1, 3)) a.add(told(step, 1));
  a.begin(run(2));
  a.add(told(4, 1));
  a.add(told(5, 2));
  await a.close();
  assert.deepEqual(await summary(place), [...of(1, 1, 4), ...of(2, 5, 5)]);
});

test("another job on the node begins its own record, and knows nothing of the one before", async () => {
  const places = [filePlace(), filePlace()];
  const record = new RunRecord({
    node: "node-a",
    log: quiet,
    peakFlops: null,
    failed: () => assert.fail("a write failed"),
    openStore: ({ jobId, generation }) =>
      places[jobId === "job-1" ? 0 : 1]!.open("node-a", String(generation)),
  });
  record.begin(run(1));
  for (const step of range(1, 5)) record.add(told(step, 1));
  record.begin({ ...run(2), jobId: "job-2" });
  record.add(told(9, 2)); // resumed from a checkpoint of step 8, at another place
  await record.close();
  assert.deepEqual(await summary(places[0]!), of(1, 1, 5));
  assert.deepEqual(await summary(places[1]!), of(2, 9, 9));
});

test("model FLOPs utilisation is of the peak of all ranks, and left out where that is not known", async () => {
  for (const [peakFlops, wanted] of [
    [1e12, 4e12 / 2 / 4e12],
    [null, null],
  ]) {
    const place = filePlace();
    const record = new RunRecord({
      node: "n",
      log: quiet,
      peakFlops: peakFlops!,
      failed: () => {},
      openStore: () => place.open("n", "1"),
    });
    record.begin(run(1));
    record.add(told(1, 1));
    await record.close();
    assert.equal((await place.lines())[0]!.mfu, wanted);
    assert.equal((await place.points("throughput/mfu")).length, wanted === null ? 0 : 1);
  }
});

test("the name of an event file is behind all that are there, also where a clock is", async () => {
  const place = filePlace();
  mkdirSync(path.join(place.folder, "tensorboard"), { recursive: true });
  writeFileSync(path.join(place.folder, "tensorboard", "events.out.tfevents.1999999999.node-b.1"), "");
  const record = writer(place, { node: "node-a" });
  record.begin(run(2));
  record.add(told(1, 2));
  await record.close();
  assert.deepEqual(readdirSync(path.join(place.folder, "tensorboard")).sort(), [
    "events.out.tfevents.1999999999.node-b.1",
    "events.out.tfevents.2000000000.node-a.2",
  ]);
});

/** Storage whose first write ends when the test says so, and the steps that stand there. */
class SlowStore implements RecordStore {
  readonly gatherMs = 1e9;
  steps: number[] = [];
  private begin!: () => void;
  private readonly begun = new Promise<void>((resolve) => {
    this.begin = resolve;
  });
  private end!: () => void;
  private readonly ended = new Promise<void>((resolve) => {
    this.end = resolve;
  });

  async open(keep: number): Promise<number> {
    this.steps = this.steps.filter((step) => step <= keep);
    return this.steps.at(-1) ?? 0;
  }
  async append({ lines }: { lines: readonly string[] }): Promise<void> {
    this.begin();
    await this.ended;
    this.steps.push(...lines.map((line) => (JSON.parse(line) as StepLine).step));
  }
  async close(): Promise<void> {}

  /** Resolves when the first write waits. */
  writing(): Promise<void> {
    return this.begun;
  }
  answer(): void {
    this.end();
  }
}

/** As many steps as an agent keeps for storage that takes none, while they are being written; then more come. */
async function overflow(
  store: SlowStore,
  options: { failed: () => void; wrap?: (own: RecordStore) => RecordStore },
) {
  const { failed, wrap = (own) => own } = options;
  const openStore = () => wrap(store);
  const record = new RunRecord({ node: "n", log: quiet, peakFlops: null, failed, openStore });
  record.begin(run(1));
  for (const step of range(1, 16_384)) record.add(told(step, 1));
  const written = record.flush();
  await store.writing();
  for (const step of range(16_385, 16_400)) record.add(told(step, 1));
  store.answer();
  await written;
  await record.close();
}

test("steps that come while as many as are kept are being written are all written, once", async () => {
  const store = new SlowStore();
  await overflow(store, { failed: () => assert.fail("a write failed") });
  assert.deepEqual(store.steps, range(1, 16_400));
});

test("of more steps than are kept the oldest go when their write fails, never the newest", async () => {
  const store = new SlowStore();
  let failures = 0;
  const wrap = (own: RecordStore): RecordStore => ({
    gatherMs: own.gatherMs,
    open: (keep) => own.open(keep),
    append: async (batch) => {
      await own.append(failures === 0 ? { ...batch, lines: [] } : batch);
      if (failures === 0) throw new Error("the disk is full");
    },
    close: () => own.close(),
  });
  await overflow(store, { failed: () => failures++, wrap });
  assert.equal(failures, 1);
  assert.deepEqual(store.steps, range(17, 16_400));
});
