import { GokuError } from "../job/errors.js";
import { Layout, type LayoutSize } from "../job/layout.js";
import type { ParameterSpec } from "../job/parameters.js";
import { CheckpointContent, type StoredExtent } from "./content.js";
import { CHUNK_BYTES } from "./digest.js";
import type { Extents } from "./extents.js";
import { type CommitRecord, recordDigest } from "./manifest.js";
import { mapLimit, READS_AT_ONCE } from "./map_limit.js";
import { checkpointFolder } from "./names.js";
import type { Interval, StateKind, StateMeta } from "./state.js";
import type { Storage } from "./storage/storage.js";

/** One committed checkpoint, open for reading. Every byte handed out has been checked against its digest. */
export class Checkpoint {
  readonly uri: string;
  readonly meta: StateMeta;
  /** That saved it. */
  readonly generation: string;
  /** Of tensor data. */
  readonly bytes: number;
  readonly committedAt: string;
  readonly kinds: readonly StateKind[];
  readonly specs: readonly ParameterSpec[];
  /** Of its commit record: equal digests, equal checkpoints. */
  readonly digest: string;
  readonly #content: CheckpointContent;
  readonly #extents: Extents;
  readonly #savedBy: LayoutSize;

  constructor(storage: Storage, record: CommitRecord, extents: Extents) {
    const folder = checkpointFolder(record.meta.state.step);
    this.uri = `${storage.uri}/${folder}`;
    this.meta = record.meta;
    this.generation = record.generation;
    this.bytes = record.bytes;
    this.committedAt = record.committedAt;
    this.kinds = record.kinds;
    this.specs = record.parameters;
    this.#content = new CheckpointContent(storage, folder);
    this.#extents = extents;
    this.#savedBy = record.layout;
    this.digest = recordDigest(record);
  }

  /** CHECKPOINT_MISMATCH, naming the first few, unless it holds exactly these parameters. */
  requireModel(specs: readonly ParameterSpec[]): void {
    const held = new Map(this.specs.map((spec) => [spec.name, spec.shape.join("x")]));
    const wanted = new Map(specs.map((spec) => [spec.name, spec.shape.join("x")]));
    const faults = [
      few(
        "missing",
        [...wanted.keys()].filter((name) => !held.has(name)),
      ),
      few(
        "surplus",
        [...held.keys()].filter((name) => !wanted.has(name)),
      ),
      few(
        "of another shape",
        [...wanted]
          .filter(([name, shape]) => held.has(name) && held.get(name) !== shape)
          .map(([name, shape]) => `${name} is ${held.get(name)}, want ${shape}`),
      ),
    ].filter((text) => text !== null);
    if (faults.length === 0) return;
    throw new GokuError(
      "CHECKPOINT_MISMATCH",
      `Cannot load ${this.uri} into this model: ${faults.join("; ")}; use the model section it was trained with`,
    );
  }

  /** Elements of one tensor; those chunks of the files are read and checked that hold them. */
  async readInterval(interval: Interval): Promise<Float32Array> {
    return this.#readInto([{ interval, offset: 0 }], interval.length);
  }

  /**
   * The chunks that hold elements of an interval, in order; of the files, only manifests are read. Throws as
   * `readInterval` does.
   */
  async chunksOf(interval: Interval): Promise<StoredChunk[]> {
    return (await this.#extents.plan(interval)).flatMap((step) =>
      chunkTasks(step.extent, step, 0).map(({ extent, chunk }) => {
        const first = extent.start + (chunk * CHUNK_BYTES) / 4;
        const bytes = this.#content.chunkLength(extent, chunk);
        return { extent, chunk, start: first, length: bytes / 4, bytes };
      }),
    );
  }

  /**
   * Fills `into` with chunks that follow one another in a file (`runsOf`), and compares each with its digest. Who reads all
   * chunks of a file, alone or with others, has read all of the file, each byte once: its header is read and checked with
   * its first chunk. CHECKPOINT_CORRUPT.
   */
  async readRun(run: readonly StoredChunk[], into: Uint8Array): Promise<void> {
    const { extent, chunk } = run[0]!;
    await this.#content.requireSize(extent.file);
    if (this.#content.chunkOffset(extent, chunk) === extent.file.headerBytes)
      await this.#content.requireFile(extent.file);
    await this.#content.readRun(run, into);
  }

  /** True where no chunk is shared by two shards of a layout: one that has the shards of the layout that wrote. */
  hasShardsOf(layout: Layout): boolean {
    return this.#extents.planned && new Layout(this.#savedBy).shardGroupSize === layout.shardGroupSize;
  }

  /** A whole tensor, "<kind>/<parameter name>". */
  async readTensor(name: string): Promise<Float32Array> {
    return this.readInterval({ tensor: name, start: 0, length: this.#extents.countOf(name) });
  }

  /**
   * Intervals of at most `bytesMax` (a MiB or more) that make up a tensor, in order, cut where stored chunks end: read one
   * after another, no chunk is read twice.
   */
  async cut(tensor: string, bytesMax: number): Promise<Interval[]> {
    const step = Math.floor(bytesMax / CHUNK_BYTES) * (CHUNK_BYTES / 4);
    const whole = { tensor, start: 0, length: this.#extents.countOf(tensor) };
    return (await this.#extents.plan(whole)).flatMap(({ targetOffset: start, length }) =>
      Array.from({ length: Math.ceil(length / step) }, (_, i) => ({
        tensor,
        start: start + i * step,
        length: Math.min(step, length - i * step),
      })),
    );
  }

  /** Reads intervals to places of one new array, chunk by chunk. */
  async #readInto(
    wanted: readonly { interval: Interval; offset: number }[],
    length: number,
  ): Promise<Float32Array> {
    const tasks: ChunkTask[] = [];
    for (const { interval, offset } of wanted) {
      for (const step of await this.#extents.plan(interval))
        tasks.push(...chunkTasks(step.extent, step, offset));
    }
    // Sizes claimed by a manifest are believed, and memory taken, only once the files are seen to have them.
    await mapLimit([...new Set(tasks.map((task) => task.extent.file))], READS_AT_ONCE, (file) =>
      this.#content.requireFile(file),
    );
    const target = new Uint8Array(4 * length);
    await mapLimit(tasks, READS_AT_ONCE, async (task) => {
      const { extent, chunk, from, to } = task;
      const place = target.subarray(task.target, task.target + to - from);
      // A chunk that is wanted whole goes straight to its place; the array is not handed out unless all are good.
      const bytes = this.#content.chunkLength(extent, chunk);
      const into = place.byteLength === bytes ? place : new Uint8Array(bytes);
      await this.#content.readChunk(extent, chunk, into);
      if (into !== place) place.set(into.subarray(from, to));
    });
    return new Float32Array(target.buffer);
  }
}

/** Elements [start, start + length) of a tensor, which one digest covers. */
export interface StoredChunk {
  extent: StoredExtent;
  chunk: number;
  start: number;
  length: number;
  bytes: number;
}

/** Chunks, in the order given, put together where they follow one another in a file and have at most so many bytes. */
export function runsOf<T extends { chunk: StoredChunk }>(chunks: readonly T[], bytesMax: number): T[][] {
  const runs: T[][] = [];
  let file = "";
  let [end, bytes] = [0, 0];
  for (const one of chunks) {
    const { extent, chunk, bytes: more } = one.chunk;
    const offset = extent.offset + chunk * CHUNK_BYTES;
    if (extent.file.name === file && offset === end && bytes + more <= bytesMax) {
      runs.at(-1)!.push(one);
      bytes += more;
    } else {
      runs.push([one]);
      file = extent.file.name;
      bytes = more;
    }
    end = offset + more;
  }
  return runs;
}

/** Bytes [from, to) of one chunk, and the byte of the result they go to. */
interface ChunkTask {
  extent: StoredExtent;
  chunk: number;
  from: number;
  to: number;
  target: number;
}

function chunkTasks(
  extent: StoredExtent,
  step: { extentOffset: number; length: number; targetOffset: number },
  offset: number,
): ChunkTask[] {
  const begin = 4 * step.extentOffset;
  const end = begin + 4 * step.length;
  const tasks: ChunkTask[] = [];
  for (let at = begin; at < end; ) {
    const chunk = Math.floor(at / CHUNK_BYTES);
    const until = Math.min(end, (chunk + 1) * CHUNK_BYTES);
    const target = 4 * (offset + step.targetOffset) + at - begin;
    tasks.push({ extent, chunk, from: at - chunk * CHUNK_BYTES, to: until - chunk * CHUNK_BYTES, target });
    at = until;
  }
  return tasks;
}

function few(what: string, names: readonly string[]): string | null {
  if (names.length === 0) return null;
  return `${names.length} ${names.length === 1 ? "tensor is" : "tensors are"} ${what} (${names.slice(0, 3).join(", ")}${names.length > 3 ? ", ..." : ""})`;
}
