import assert from "node:assert/strict";
import { existsSync, rmSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { openCheckpoint } from "../../../checkpoint/load.js";
import { saveShard } from "../../../checkpoint/save.js";
import type { StateName } from "../../../checkpoint/state.js";
import { openStorage, type Storage } from "../../../checkpoint/storage/storage.js";
import { type ErrorCode, GokuError } from "../../../job/errors.js";
import { type Job, jobSchema, modelConfig } from "../../../job/job.js";
import { Layout } from "../../../job/layout.js";
import { parameterSpecs } from "../../../job/parameters.js";
import { flatUnits } from "../../../job/sharding.js";
import {
  CheckpointWriter,
  type CheckpointWriterTools,
  type CommittedCheckpoint,
  type SaveOrder,
} from "../../../worker/agent/checkpoint_writer.js";
import { metaOf, scratchFolder, state, writeSlots } from "../../checkpoint/fixtures.js";

const layout = Layout.parse("1x2x1");
const folder = scratchFolder();

function jobAt(name: string): Job {
  return jobSchema.parse({
    name,
    model: { preset: "goku-nano", depth: 1, width: 8, heads: 2, text_width: 8, frequency_width: 8 },
    data: { media: "unused" },
    train: { steps: 100 },
    checkpoint: { uri: `file://${path.join(folder, name)}`, keep_last: 2 },
  });
}

/** Snapshots of both ranks of a job at a state, and what their agents would order. */
function setUp(name: string, at: StateName, generation: string, final: boolean) {
  const job = jobAt(name);
  const specs = parameterSpecs(modelConfig(job));
  const model = { specs, units: flatUnits(specs) };
  const slots = writeSlots({
    storage: job.checkpoint.uri,
    model,
    layout,
    meta: metaOf(at, layout),
    slots: path.join(folder, `${name}-${at.step}-slots`),
  });
  const order = (rank: number): SaveOrder => {
    return { jobId: "j", job, layout, rank, generation, state: at, slotPath: slots[rank]!, final };
  };
  const saveOther = (rank: number, by = generation) =>
    saveShard({
      uri: job.checkpoint.uri,
      slotPath: slots[rank]!,
      rank,
      layout,
      units: model.units,
      generation: by,
    });
  return { job, order, saveOther };
}

/** A writer, what it said, and a promise of each save's end. */
function writing(tools: Partial<CheckpointWriterTools> = {}) {
  const committed: CommittedCheckpoint[] = [];
  const failed: string[] = [];
  const retried: string[] = [];
  const settled: number[] = [];
  const retention: (string | null)[] = [];
  const waiting: (() => void)[] = [];
  const wake = () => {
    for (const tell of waiting.splice(0)) tell();
  };
  const writer = new CheckpointWriter(
    {
      committed: (done) => {
        committed.push(done);
        wake();
      },
      settled: ({ state: at }) => settled.push(at.step),
      retried: ({ error, waitMs }) => {
        retried.push(`${error.code} ${waitMs}`);
        wake();
      },
      failed: ({ error }) => {
        failed.push(error.code);
        wake();
      },
      retentionEnded: ({ error }) => retention.push(error?.code ?? null),
    },
    tools,
  );
  const save = (order: SaveOrder) => new Promise<GokuError | null>((resolve) => writer.save(order, resolve));
  const news = () => new Promise<void>((resolve) => waiting.push(resolve));
  return { writer, committed, failed, retried, settled, retention, save, news };
}

/** Time that passes when the test says so; chance that never varies. */
function handWound() {
  const pauses: { ms: number; end: () => void }[] = [];
  const tools = {
    chance: () => 0.5,
    pause: (ms: number, signal: AbortSignal) =>
      new Promise<void>((end) => {
        pauses.push({ ms, end });
        signal.addEventListener("abort", () => end());
      }),
  };
  return { pauses, tools };
}

/** Real storage whose calls of one kind fail the first `times` times, and which counts the writes that overlap. */
function faulty(
  method: "writeFile" | "createExclusive" | "delete",
  times: number,
  code: ErrorCode = "STORAGE_FULL",
) {
  const seen = { calls: 0, writing: 0, overlap: 0, keys: [] as string[] };
  const openFaulty = (uri: string): Storage => {
    const real = openStorage(uri);
    const call = async (name: "writeFile" | "createExclusive" | "delete", key: never, value: never) => {
      if (name === "delete" && (key as string[]).length === 0) return real.delete(key);
      if (name === method && seen.calls++ < times) throw new GokuError(code, `Cannot write ${key}: a test`);
      seen.keys.push(key);
      seen.overlap = Math.max(seen.overlap, ++seen.writing);
      try {
        return await real[name](key, value);
      } finally {
        seen.writing--;
      }
    };
    return new Proxy(real, {
      get: (target, key) => {
        if (key === "writeFile" || key === "createExclusive" || key === "delete") return call.bind(null, key);
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  };
  return { seen, openStorage: openFaulty };
}

test("CheckpointWriter frees the slots when their parts are durable, commits when all are, and keeps the newest", async () => {
  const { writer, committed, save, news } = writing();
  assert.equal(writer.saveMs, null, "how long a save takes is not known");
  let job: Job | null = null;
  for (const step of [10, 20, 30]) {
    const one = setUp("keeps", state(1, step), "1", false);
    job = one.job;
    const told = news();
    await Promise.all([save(one.order(0)), save(one.order(1))]);
    await told;
    assert.equal(committed.at(-1)!.state.step, step);
  }
  assert.equal((await openCheckpoint(job!.checkpoint.uri)).meta.state.step, 30);
  assert.ok(writer.saveMs! > 0 && writer.saveMs! < performance.now(), String(writer.saveMs));
  await writer.abandon(); // the removal of old ones ends with the save
  const root = path.join(folder, "keeps");
  const present = [10, 20, 30].map((step) => existsSync(path.join(root, `checkpoint-${step}`)));
  assert.deepEqual(present, [false, true, true]);
});

test("CheckpointWriter knows how long a save takes once one has succeeded, not when one has failed", async () => {
  const { pauses, tools } = handWound();
  const { writer, failed, save, news } = writing({
    ...tools,
    openStorage: faulty("writeFile", 1).openStorage,
  });
  const { order } = setUp("measured", state(1, 10), "1", false);
  const told = news();
  const saved = save(order(1));
  await told;
  assert.equal(writer.saveMs, null, "it has failed once");
  pauses[0]!.end();
  await saved;
  await until(() => writer.saveMs !== null);
  assert.deepEqual(failed, []);
});

test("CheckpointWriter tells apart a commit whose retention fails and a save that fails", async () => {
  const { openStorage: open } = faulty("delete", 1, "STORAGE_FAILED");
  const { failed, retried, committed, retention, save } = writing({ openStorage: open });
  for (const step of [10, 20, 30, 40]) {
    const one = setUp("no-delete", state(1, step), "1", false);
    await Promise.all([save(one.order(0)), save(one.order(1))]);
    await until(() => retention.length === step / 10);
  }
  assert.deepEqual(retention, [null, null, "STORAGE_FAILED", null]);
  assert.deepEqual([failed, retried], [[], []], "a save itself deletes nothing");
  assert.equal(committed.length, 4);
});

test("CheckpointWriter frees a final slot only when the checkpoint is committed, by whichever agent", async () => {
  const one = setUp("final", state(1, 40), "1", true);
  const rank0 = writing();
  const rank1 = writing();
  let freed = 0;
  const ends = [
    rank1.save(one.order(1)).then(() => {
      freed++;
      assert.equal(rank0.committed.length, 1, "freed before the commit");
    }),
    rank0.save(one.order(0)),
  ];
  await Promise.all(ends);
  assert.equal(freed, 1);
  const told = ({ state: at, uri, bytes }: CommittedCheckpoint) => ({ at, uri, bytes });
  assert.deepEqual(rank1.committed.map(told), rank0.committed.map(told), "both agents tell the same");
  assert.equal(await rank1.writer.untilLastCommitted(5_000), true);
});

test("CheckpointWriter joins a save under way: one write, every caller is told", async () => {
  const { save, committed, writer } = writing();
  const one = setUp("joined", state(1, 10), "1", true);
  const ends = [save(one.order(0)), save(one.order(0)), save(one.order(1))];
  await Promise.all(ends);
  assert.equal(committed.length, 2, "one of each rank, not one of each call");
  assert.equal(writer.idle, true);
});

test("CheckpointWriter tells the newest holder of a set alone when a slot of it is free, once", async () => {
  const { writer, news } = writing();
  const one = setUp("pinned", state(1, 10), "1", false);
  const order = one.order(0);
  const set = path.dirname(order.slotPath);
  const told: string[] = [];
  writer.save(order, () => told.push("the rank that asked"));
  const pins = (name: string, of = set) => writer.pinned(of, ({ step }) => told.push(`${name} ${step}`));
  assert.deepEqual(pins("elsewhere", path.join(set, "other")), []);
  assert.deepEqual(pins("first"), [order.state]);
  const freed = new Promise<StateName>((resolve) => {
    assert.deepEqual(writer.pinned(set, resolve), [order.state]);
  });
  assert.deepEqual(await freed, order.state);
  assert.deepEqual(pins("late"), [], "the commit goes on, the slot is not read any more");
  const committed = news();
  await one.saveOther(1);
  await committed;
  assert.deepEqual(told, []);
});

test("CheckpointWriter saves no slot that holds another state by now", async () => {
  const { save, failed } = writing();
  const reused = setUp("reused", state(1, 20), "1", false).order(0);
  await save({ ...reused, state: state(1, 10) });
  assert.deepEqual(failed, ["SNAPSHOT_MISSING"]);
  assert.equal(existsSync(path.join(folder, "reused", "checkpoint-10")), false);
});

test("CheckpointWriter gives up what an older generation began: files of two generations make no checkpoint", async () => {
  const { save, committed, failed } = writing();
  const older = setUp("older", state(1, 10), "1", false);
  const first = save(older.order(0)); // its other writer never comes
  const newer = setUp("older", state(1, 10), "2", true);
  const second = [save(newer.order(0)), save(newer.order(1))];
  await Promise.all([first, ...second]);
  assert.deepEqual(
    committed.map(({ generation }) => generation),
    ["2", "2"],
  );
  assert.deepEqual(failed, []);
});

test("CheckpointWriter reports a save that fails and frees the slot; a final one it tries again", async () => {
  const { pauses, tools } = handWound();
  const { save, failed, committed, news } = writing(tools);
  const broken = setUp("fails", state(1, 10), "1", false);
  await save({ ...broken.order(0), slotPath: "/nonexistent/slot" });
  assert.deepEqual(failed, ["SNAPSHOT_MISSING"]);
  const impossible = await save({ ...setUp("fails", state(1, 40), "1", true).order(1), rank: 0 });
  assert.equal(impossible?.code, "SNAPSHOT_MISSING", "the snapshot of another rank");
  const final = setUp("fails", state(1, 50), "1", true);
  const order = final.order(0);
  const blocked = {
    ...order,
    job: { ...order.job, checkpoint: { ...order.job.checkpoint, uri: "file:///proc/x" } },
  };
  const told = news();
  const end = save(blocked);
  await told;
  assert.equal(failed.length, 3);
  blocked.job.checkpoint.uri = order.job.checkpoint.uri; // somebody made room
  await final.saveOther(1);
  while (pauses.length === 0) await new Promise((resolve) => setImmediate(resolve));
  pauses[0]!.end();
  assert.equal(await end, null);
  assert.equal(committed.length, 1);
});

test("CheckpointWriter leaves off at once when the job is over here", async () => {
  const { writer, save, failed } = writing();
  const alone = setUp("abandoned", state(1, 10), "1", true);
  const end = save(alone.order(0)); // waits for a writer that never comes
  await writer.abandon();
  await end;
  assert.deepEqual(failed, []);
  assert.equal(writer.idle, true);
});

/** Lets everything run that waits for nothing but itself and the disk. */
async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise((resolve) => setImmediate(resolve));
}

for (const code of ["STORAGE_FULL", "STORAGE_FAILED"] as const) {
  test(`CheckpointWriter tries a save again after ${code}, with growing pauses, its slot pinned, and no alarm`, async () => {
    const { pauses, tools } = handWound();
    const { openStorage: open } = faulty("writeFile", 3, code);
    const { save, failed, retried, committed, settled } = writing({ ...tools, openStorage: open });
    const one = setUp(`again-${code === "STORAGE_FULL"}`, state(1, 10), "1", false);
    await one.saveOther(1);
    let freed = false;
    const end = save(one.order(0)).then(() => {
      freed = true;
    });
    for (const ms of [1_000, 2_000, 4_000]) {
      await until(() => pauses.length > 0);
      assert.equal(freed, false, "the slot is read again");
      assert.equal(pauses[0]!.ms, ms);
      pauses.shift()!.end();
    }
    await end;
    await until(() => settled.length > 0);
    assert.deepEqual(failed, []);
    assert.deepEqual(retried, [`${code} 1000`, `${code} 2000`, `${code} 4000`]);
    assert.deepEqual(
      committed.map(({ state: at }) => at.step),
      [10],
    );
  });
}

test("CheckpointWriter gives a save up after five tries with one alarm, and frees the slot", async () => {
  const { pauses, tools } = handWound();
  const { seen, openStorage: open } = faulty("writeFile", 99);
  const { save, failed, writer } = writing({ ...tools, openStorage: open });
  const end = save(setUp("given-up", state(1, 10), "1", false).order(0));
  for (let tries = 1; tries < 5; tries++) {
    await until(() => pauses.length > 0);
    assert.deepEqual(failed, []);
    pauses.shift()!.end();
  }
  await end;
  assert.deepEqual([failed, seen.calls, writer.idle], [["STORAGE_FULL"], 5, true]);
});

test("CheckpointWriter tries a commit again, too, when the slot is another state's already", async () => {
  const { pauses, tools } = handWound();
  const { openStorage: open } = faulty("createExclusive", 2);
  const { save, failed, committed, settled } = writing({ ...tools, openStorage: open });
  const one = setUp("commit-again", state(1, 10), "1", false);
  await one.saveOther(1);
  await save(one.order(0));
  rmSync(one.order(0).slotPath);
  for (let tries = 0; tries < 2; tries++) {
    await until(() => pauses.length > 0);
    pauses.shift()!.end();
  }
  await until(() => settled.length > 0);
  assert.deepEqual([failed, committed.length], [[], 1]);
});

test("CheckpointWriter gives a save that waits to be tried again up for a newer one: the third slot is needed", async () => {
  const { pauses, tools } = handWound();
  const { openStorage: open } = faulty("writeFile", 1);
  const { save, failed, committed, settled } = writing({ ...tools, openStorage: open });
  const older = setUp("newer-due", state(1, 10), "1", false);
  const first = save(older.order(0));
  await until(() => pauses.length > 0);
  const newer = setUp("newer-due", state(1, 20), "1", false);
  await newer.saveOther(1);
  await Promise.all([first, save(newer.order(0))]);
  await until(() => settled.length > 0);
  assert.deepEqual([failed, settled], [["STORAGE_FULL"], [20]], "one alarm, about the older one");
  assert.deepEqual(
    committed.map(({ state: at }) => at.step),
    [20],
  );
});

test("CheckpointWriter alarms once about a final save that goes on failing, and goes on trying", async () => {
  const { pauses, tools } = handWound();
  const { openStorage: open } = faulty("writeFile", 20);
  const { save, failed, committed } = writing({ ...tools, openStorage: open });
  const one = setUp("final-again", state(1, 40), "1", true);
  await one.saveOther(1);
  const end = save(one.order(0));
  for (let tries = 0; tries < 20; tries++) {
    await until(() => pauses.length > 0);
    pauses.shift()!.end();
  }
  assert.equal(await end, null);
  assert.deepEqual([failed, committed.length], [["STORAGE_FULL"], 1]);
});

test("CheckpointWriter never writes two saves of one rank at once: they follow one another, older first", async () => {
  const { seen, openStorage: open } = faulty("writeFile", 0);
  const { save, writer } = writing({ openStorage: open });
  const steps = [10, 20, 30, 40];
  const orders = steps.map((step) => setUp("one-by-one", state(1, step), "1", step === 40).order(1));
  const saves = orders.map((order) => save(order));
  await Promise.all(saves.slice(0, 3));
  await until(() => seen.keys.length === 8);
  assert.equal(seen.overlap, 1);
  const folders = seen.keys.map((key) => path.dirname(key));
  assert.deepEqual(
    folders,
    steps.flatMap((step) => [`checkpoint-${step}`, `checkpoint-${step}`]),
  );
  await writer.abandon();
});

test("CheckpointWriter does not let a commit that waits for another agent hold up the next save", async () => {
  const { save, committed, settled, writer } = writing();
  await save(setUp("no-hold-up", state(1, 10), "1", false).order(0)); // its other writer never comes
  const next = setUp("no-hold-up", state(1, 20), "1", false);
  await next.saveOther(1);
  await save(next.order(0));
  await until(() => settled.length > 0);
  assert.deepEqual(
    committed.map(({ state: at }) => at.step),
    [20],
  );
  await writer.abandon();
});
