import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { snapshotLayout } from "../../../checkpoint/snapshot.js";
import { parameterSpecs } from "../../../job/parameters.js";
import { flatUnits } from "../../../job/sharding.js";
import type { MemorySource } from "../../../worker/rank_messages.js";
import {
  layoutOf,
  metaOf,
  saveAndCommit,
  snapshotPage,
  state,
  type TestModel,
} from "../../checkpoint/fixtures.js";
import { runRanks } from "../../support/rank_process.js";
import { fleetJob, TINY } from "../parallel/fleet.js";
import type { RestoreFound, RestoreTask } from "./restore_rank.js";

const scratch = mkdtempSync("/dev/shm/goku-restore-");
after(() => rmSync(scratch, { recursive: true, force: true }));
const specs = parameterSpecs(TINY);
const model: TestModel = { specs, units: flatUnits(specs) };
const STATE = state(3, 9);
const DIGEST = "d".repeat(64);
let folders = 0;

/** Snapshots of all ranks of a layout, in a slot of a folder for each. */
function snapshots(from: string, folderOf: (rank: number) => string): string[] {
  const layout = layoutOf(from);
  return Array.from({ length: layout.worldSize }, (_, rank) => {
    const folder = folderOf(rank);
    mkdirSync(folder, { recursive: true });
    const file = path.join(folder, "slot-1");
    writeFileSync(file, snapshotPage(model, layout, rank, metaOf(STATE, layout)));
    return file;
  });
}

/** A bit of the first element of a kind of a unit flips. */
function damage(file: string, from: string, rank: number, key: string): void {
  const { entries } = snapshotLayout(model.units, layoutOf(from), rank);
  const { byteOffset } = entries.find(({ kind, unit }) => `${kind}/${unit}` === key)!;
  const bytes = readFileSync(file);
  bytes[byteOffset + 1]! ^= 16;
  writeFileSync(file, bytes);
}

async function durable(from: string): Promise<MemorySource["durable"]> {
  const storage = `file://${scratch}/run-${folders++}`;
  const layout = layoutOf(from);
  const slots = path.join(scratch, `slots-${folders++}`);
  await saveAndCommit({ storage, model, layout, meta: metaOf(STATE, layout), slots });
  return { uri: `${storage}/checkpoint-9`, state: STATE };
}

function restore(folder: string, layout: string, from: MemorySource[]): Promise<RestoreFound[]> {
  const job = fleetJob({ packs: 1, steps: 10, precision: "fp32" });
  const module = new URL("./restore_rank.js", import.meta.url);
  const { worldSize } = layoutOf(layout);
  return runRanks<RestoreTask, RestoreFound>(module, worldSize, {
    ...{ job, layout, folder, from, dataDigest: DIGEST },
  });
}

function newFolder(): string {
  return mkdtempSync(path.join(scratch, "ranks-"));
}

test("ranks of another layout take what a snapshot has damaged from the checkpoint of the same state, and say so; the others do not", async () => {
  const folder = newFolder();
  const files = snapshots("1x3x1", (rank) => path.join(folder, `old-${rank}`));
  damage(files[0]!, "1x3x1", 0, "ema/blocks.0");
  const source: MemorySource = {
    ...{ state: STATE, layout: layoutOf("1x3x1").size, places: [] },
    files: files.map((file, rank) => ({ rank, path: file })),
    durable: await durable("1x2x1"),
  };
  const found = await restore(folder, "2x2x1", [source, source, source, source]);
  for (const { fault } of found) assert.equal(fault, "");
  // the first of three shards lies in the first of two
  const durables = found.map(({ parts }) => parts.filter((part) => part.source === source.durable!.uri));
  assert.deepEqual(
    durables.map((parts) => parts.length),
    [1, 0, 1, 0],
  );
  for (const [part] of [durables[0]!, durables[2]!]) {
    const { count } = model.units.find(({ name }) => name === "blocks.0")!;
    assert.ok(part!.bytes > 0 && part!.bytes <= 4 * Math.ceil(count / 32) * 16, String(part!.bytes));
    assert.match(part!.insteadOf, /rank 0 on this node: .*differ from their checksum/);
  }
});

test("ranks whose own snapshots are whole help those that lack theirs, and keep their own", async () => {
  const folder = newFolder();
  const files = snapshots("1x3x1", (rank) => path.join(folder, `set-${rank}`));
  rmSync(files[2]!);
  const whole = [0, 1].map((rank) => readFileSync(files[rank]!));
  const common = {
    state: STATE,
    layout: layoutOf("1x3x1").size,
    places: [],
    durable: await durable("2x2x1"),
  };
  const from = files.map((file, rank) => ({
    ...common,
    files: rank === 2 ? [] : [{ rank, path: file }],
  }));
  const found = await restore(folder, "1x3x1", from);
  assert.deepEqual(
    found.map(({ fault, parts }) => [fault, ...parts.map(({ source }) => source)]),
    [
      ["", "own snapshot"],
      ["", "own snapshot"],
      ["", common.durable!.uri],
    ],
  );
  for (const [rank, bytes] of whole.entries()) assert.ok(readFileSync(files[rank]!).equals(bytes));
});

test("ranks that lack what no source has say so, and nobody waits for them", async () => {
  const folder = newFolder();
  const files = snapshots("1x2x1", (rank) => path.join(folder, `old-${rank}`));
  damage(files[1]!, "1x2x1", 1, "model/root");
  const source: MemorySource = {
    ...{ state: STATE, layout: layoutOf("1x2x1").size, places: [], durable: null },
    files: files.map((file, rank) => ({ rank, path: file })),
  };
  const [first, second] = await restore(folder, "1x2x1", [source, source]);
  assert.match(second!.fault, /Cannot restore step 9 of generation 3 from memory: .*take the next source/);
  assert.match(first!.fault, /abort|died|gone|left/i);
});
