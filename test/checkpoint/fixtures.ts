import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after } from "node:test";
import { crc32 } from "node:zlib";
import { CHUNK_BYTES, chunkCount } from "../../checkpoint/digest.js";
import { type Checkpoint, openCheckpoint } from "../../checkpoint/load.js";
import type { PlannedInterval } from "../../checkpoint/plan.js";
import { type CommitOptions, type CommitResult, commitCheckpoint, saveShard } from "../../checkpoint/save.js";
import { beginSnapshot, sealSnapshot, snapshotLayout } from "../../checkpoint/snapshot.js";
import { STATE_KINDS, type StateKind, type StateMeta, type StateName } from "../../checkpoint/state.js";
import { FileStorage } from "../../checkpoint/storage/file.js";
import type { Storage } from "../../checkpoint/storage/storage.js";
import { writeCheckpoint } from "../../checkpoint/write_checkpoint.js";
import { type ErrorCode, GokuError } from "../../job/errors.js";
import { type Job, modelConfig } from "../../job/job.js";
import { Layout } from "../../job/layout.js";
import { loadJob } from "../../job/load_job.js";
import { type ParameterSpec, parameterSpecs } from "../../job/parameters.js";
import { type FlatUnit, flatUnits, shardPieces } from "../../job/sharding.js";
import { nothingSeen } from "../../job/spikes.js";
import { LoggedDisk } from "./logged_disk.js";

/** Mulberry32: seeded, so that a failing case replays. */
export class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  word(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }
  /** A whole number in [0, limit). */
  below(limit: number): number {
    return Math.floor((this.word() / 2 ** 32) * limit);
  }
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
}

export interface TestModel {
  specs: ParameterSpec[];
  units: FlatUnit[];
}

export function modelOf(shapes: Record<string, number[]>): TestModel {
  const specs = Object.entries(shapes).map(([name, shape]) => ({
    name,
    shape,
    count: shape.reduce((a, b) => a * b, 1),
  }));
  return { specs, units: flatUnits(specs) };
}

/** Two tensors, one of them below a shard. */
export const SMALL = modelOf({ "patch_embed.weight": [5, 3], "blocks.0.norm2.weight": [33] });

/** Small, and awkward: a tensor of one element, tensors smaller than the world, sizes that no grain divides. */
export const AWKWARD = modelOf({
  "patch_embed.weight": [7, 5],
  "patch_embed.bias": [1],
  "blocks.0.attn1.q_proj.weight": [13, 11],
  "blocks.0.norm2.weight": [3],
  "blocks.1.mlp.fc1.weight": [2, 3, 17],
  "final_proj.bias": [19],
});

/** One f32 bit pattern (any: negative zeros and NaNs with payloads too) for an element of a state. */
export function elementBits(state: StateName, tensor: string, element: number): number {
  return bitsOf(state, tensor)(element);
}

/** elementBits() of a whole tensor: what all elements share is computed once, since tests make and compare millions. */
export function bitsOf(state: StateName, tensor: string): (element: number) => number {
  let shared = 2166136261 ^ Number(BigInt(state.generation) & 0xffffn) ^ Math.imul(state.step, 2654435761);
  for (let i = 0; i < tensor.length; i++) shared = Math.imul(shared ^ tensor.charCodeAt(i), 16777619);
  return (element) => {
    let hash = Math.imul(shared ^ element, 2246822519);
    hash ^= hash >>> 15;
    hash = Math.imul(hash, 3266489917);
    return (hash ^ (hash >>> 13)) >>> 0;
  };
}

export function metaOf(state: StateName, layout: Layout, more: Partial<StateMeta> = {}): StateMeta {
  return {
    state,
    parent: null,
    job: { name: "test", seed: 1 },
    layout: layout.size,
    adamStep: state.step,
    dataDigest: "d".repeat(64),
    codec: { mean: [0.25], std: [1.5] },
    exclusions: [{ sample: 3, step: 1 }],
    leftOut: [],
    numbers: nothingSeen(),
    version: "0.1.0",
    ...more,
  };
}

/** A folder that goes away with the test file; in memory where the machine has such a place. */
export function scratchFolder(parent = tmpdir()): string {
  const folder = mkdtempSync(path.join(parent, "goku-checkpoint-"));
  after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A sealed page that holds one rank's part of a state. */
export function snapshotPage(model: TestModel, layout: Layout, rank: number, meta: StateMeta): Uint8Array {
  const plan = snapshotLayout(model.units, layout, rank);
  const page = new Uint8Array(plan.bytes);
  const view = new DataView(page.buffer);
  beginSnapshot(page);
  for (const { kind, unit, byteOffset } of plan.entries) {
    for (const piece of plan.pieces.filter((each) => each.unit === unit)) {
      const bits = bitsOf(meta.state, `${kind}/${piece.parameter}`);
      for (let i = 0; i < piece.length; i++)
        view.setUint32(byteOffset + 4 * (piece.shardOffset + i), bits(piece.start + i), true);
    }
  }
  sealSnapshot(page, sealOf(page, model, layout, rank, meta));
  return page;
}

/** What sealSnapshot() wants of a page that is filled; the checksums by zlib. */
export function sealOf(page: Uint8Array, model: TestModel, layout: Layout, rank: number, meta: StateMeta) {
  const { entries } = snapshotLayout(model.units, layout, rank);
  const checksums = entries.flatMap(({ byteOffset, count }) =>
    Array.from({ length: chunkCount(4 * count) }, (_, i) => {
      const start = byteOffset + i * CHUNK_BYTES;
      return crc32(page.subarray(start, Math.min(start + CHUNK_BYTES, byteOffset + 4 * count)));
    }),
  );
  return { meta, rank, entries, checksums: Uint32Array.from(checksums) };
}

export interface SaveSetup {
  storage: Storage | string;
  model: TestModel;
  layout: Layout;
  meta: StateMeta;
  /** The generation that saves; the state's own unless given. */
  generation?: string;
  /** Where the slots are written. */
  slots: string;
}

export function writeSlots(setup: SaveSetup): string[] {
  mkdirSync(setup.slots, { recursive: true });
  return Array.from({ length: setup.layout.worldSize }, (_, rank) => {
    const slot = path.join(setup.slots, `slot-${rank}`);
    writeFileSync(slot, snapshotPage(setup.model, setup.layout, rank, setup.meta));
    return slot;
  });
}

export async function saveAll(setup: SaveSetup, only: readonly number[] | null = null): Promise<void> {
  const { storage: uri, layout, model, meta } = setup;
  const slots = writeSlots(setup);
  for (const [rank, slotPath] of slots.entries()) {
    if (only !== null && !only.includes(rank)) continue;
    await saveShard({
      uri,
      slotPath,
      rank,
      layout,
      units: model.units,
      generation: setup.generation ?? meta.state.generation,
    });
  }
}

export function commitOf(setup: SaveSetup, more: Partial<CommitOptions> = {}): Promise<CommitResult> {
  const { storage: uri, layout, model, meta } = setup;
  return commitCheckpoint({
    uri,
    meta,
    units: model.units,
    layout,
    generation: setup.generation ?? meta.state.generation,
    waitMs: 0,
    ...more,
  });
}

export async function saveAndCommit(setup: SaveSetup): Promise<CommitResult> {
  await saveAll(setup);
  return commitOf(setup);
}

/** A committed checkpoint whose elements are of the test's choosing. */
export async function writeValues(
  setup: Pick<SaveSetup, "model" | "layout" | "meta"> & { storage: Storage },
  elementOf: (tensor: string, element: number) => number,
): Promise<Checkpoint> {
  const { storage, model, layout, meta } = setup;
  async function* read({ tensor, start, length }: PlannedInterval): AsyncGenerator<Uint8Array> {
    const values = Float32Array.from({ length }, (_, i) => elementOf(tensor, start + i));
    yield new Uint8Array(values.buffer);
  }
  await writeCheckpoint({
    storage,
    source: { meta, read, requireUnchanged: () => {} },
    units: model.units,
    layout,
    generation: meta.state.generation,
  });
  return openCheckpoint(storage);
}

/** A small whole job, and its model. */
export function tinyJob(folder: string, overrides: readonly string[] = []): { job: Job; model: TestModel } {
  const text = `name: tiny
model: { preset: goku-nano, depth: 1, width: 32, heads: 2, text_width: 16 }
data: { media: ${folder}/media }
train: { steps: 2 }
checkpoint: { uri: "file://${folder}/run" }
`;
  const job = loadJob(text, overrides, { file: "job" });
  const specs = parameterSpecs(modelConfig(job));
  return { job, model: { specs, units: flatUnits(specs) } };
}

/** Reads every tensor and compares every bit with what the state must hold. */
export async function requireState(
  checkpoint: Checkpoint,
  model: TestModel,
  state: StateName,
): Promise<void> {
  assert.deepEqual(checkpoint.meta.state, state);
  for (const kind of STATE_KINDS) {
    for (const { name, count } of model.specs) {
      const tensor = `${kind}/${name}`;
      const bits = new Uint32Array((await checkpoint.readTensor(tensor)).buffer);
      assert.equal(bits.length, count, tensor);
      const wanted = bitsOf(state, tensor);
      for (let i = 0; i < count; i++) if (bits[i] !== wanted(i)) assert.fail(`${tensor}[${i}] differs`);
    }
  }
}

/** What a rank of a layout holds of a unit, read interval by interval. */
export async function readShard(
  checkpoint: Checkpoint,
  { unit, layout, rank, kind }: { unit: FlatUnit; layout: Layout; rank: number; kind: StateKind },
): Promise<Float32Array> {
  const pieces = shardPieces([unit], layout, rank);
  const shard = new Float32Array(pieces.reduce((sum, { length }) => sum + length, 0));
  for (const { parameter, start, length, shardOffset } of pieces) {
    const interval = { tensor: `${kind}/${parameter}`, start, length };
    const values = await checkpoint.readInterval(interval);
    // as bits: a copy of floats may change a NaN
    new Uint32Array(shard.buffer).set(new Uint32Array(values.buffer), shardOffset);
  }
  return shard;
}

/** Storage on a disk in memory, at a root that exists. */
export function memoryStorage(disk = new LoggedDisk()): { storage: FileStorage; disk: LoggedDisk } {
  return { storage: new FileStorage("/run", "file:///run", disk), disk };
}

export function state(generation: number, step: number): StateName {
  return { generation: String(generation), step };
}

/** Expects a GokuError of that code whose message matches. */
export function refuses(code: ErrorCode, pattern: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof GokuError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, pattern);
    assert.ok(!error.message.includes("\n"), "one line");
    return true;
  };
}

export const layoutOf = (text: string) => Layout.parse(text);
