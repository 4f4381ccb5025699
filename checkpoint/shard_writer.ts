import { GokuError } from "../job/errors.js";
import type { Layout } from "../job/layout.js";
import type { FlatUnit } from "../job/sharding.js";
import { CHUNK_BYTES, digestOf } from "./digest.js";
import type { SaveHook } from "./hooks.js";
import {
  type DataFile,
  decodeWriterManifest,
  encodeWriterManifest,
  MANIFEST_BYTES_MAX,
  metaDigest,
  type StoredInterval,
  type WriterManifest,
} from "./manifest.js";
import { checkpointFolder, dataName, writerManifestName } from "./names.js";
import { type PlannedInterval, writePlan } from "./plan.js";
import { readAhead } from "./read_ahead.js";
import { readCommitRecords } from "./records.js";
import { encodeSafetensorsHeader } from "./safetensors.js";
import { ShardBlock, type ShardChunk } from "./shard_block.js";
import type { StateMeta, StateName } from "./state.js";
import { sameState } from "./state_json.js";
import type { Storage } from "./storage/storage.js";

/** MiB of a writer under way: one that is filled, one that is written, and one whose hashing is late. */
const BLOCK_COUNT = 3;

/** Where the elements of a writer come from: a rank's snapshot, another checkpoint, imported weights. */
export interface ShardSource {
  readonly meta: StateMeta;
  /**
   * The elements of one planned interval as little-endian float32, in order, in parts of any whole number of bytes. A part may
   * be overwritten once the next is asked for. Intervals are asked for in the order of the plan.
   */
  read(interval: PlannedInterval): AsyncIterable<Uint8Array>;
  /** Throws when what was read meanwhile is of no state. */
  requireUnchanged(): void;
}

export interface ShardWriterOptions {
  /** World rank under `layout`. */
  rank: number;
  layout: Layout;
  units: readonly FlatUnit[];
  /** The generation that saves. */
  generation: string;
  hook?: SaveHook | null;
}

export interface WriterResult {
  state: StateName;
  writer: number;
  /** Key under the root; null where this rank has nothing to write. */
  file: string | null;
  /** Tensor data of this writer; 0 when the state had been committed before. */
  bytes: number;
  /** True: an earlier attempt had written it all, or the very state is committed already. */
  reused: boolean;
}

/** One attempt of one writer: its data file, then its manifest. Nothing becomes visible before commitCheckpoint. */
export class ShardWriter {
  readonly #storage: Storage;
  readonly #source: ShardSource;
  readonly #options: ShardWriterOptions;
  readonly #meta: StateMeta;
  readonly #manifestKey: string;
  readonly #dataKey: string;
  readonly #base: Omit<WriterManifest, "file" | "intervals">;
  readonly #planned: PlannedInterval[];

  constructor(storage: Storage, source: ShardSource, options: ShardWriterOptions) {
    const { rank, layout, units, generation } = options;
    this.#storage = storage;
    this.#source = source;
    this.#options = options;
    this.#meta = source.meta;
    const folder = checkpointFolder(this.#meta.state.step);
    this.#manifestKey = `${folder}/${writerManifestName(generation, rank)}`;
    this.#dataKey = `${folder}/${dataName(generation, rank)}`;
    const plan = writePlan(units, layout);
    this.#planned = plan.intervals(rank);
    const { state } = this.#meta;
    this.#base = {
      state,
      meta: metaDigest(this.#meta),
      generation,
      writer: rank,
      layout: layout.size,
      plan: plan.digest,
    };
  }

  /** What makes writing needless: this state is committed, or an earlier attempt got as far as its manifest. */
  async findEarlier(): Promise<WriterResult | null> {
    const { state, meta, generation } = this.#base;
    for (const { name, record } of await readCommitRecords(this.#storage, state.step)) {
      const same = sameState(record.meta.state, state);
      // Restored, perhaps into another layout, and saved again: the name says that it is the same.
      if (same && (record.generation !== generation || metaDigest(record.meta) === meta))
        return this.#result(null, true);
      // Writing on would replace files of a committed checkpoint.
      if (record.generation === generation) {
        throw new GokuError(
          "CONFLICT",
          `Cannot write ${this.#dataKey} under ${this.#storage.uri}: ${name} is of another run, give this job its own checkpoint.uri`,
        );
      }
    }
    if ((await this.#storage.stat(this.#manifestKey)) === null) return null;
    const found = await this.#readEarlier();
    if (
      found === null ||
      found.meta !== meta ||
      found.plan !== this.#base.plan ||
      found.writer !== this.#base.writer
    )
      return null;
    if (found.file !== null && (await this.#storage.stat(this.#dataKey))?.bytes !== found.file.bytes)
      return null;
    return this.#result(found, true);
  }

  /** Null where it cannot be read: it is then written anew. */
  async #readEarlier(): Promise<WriterManifest | null> {
    try {
      const bytes = await this.#storage.readFile(this.#manifestKey, MANIFEST_BYTES_MAX);
      return decodeWriterManifest(bytes, this.#manifestKey);
    } catch (error) {
      if (error instanceof GokuError && ["CHECKPOINT_CORRUPT", "NOT_FOUND"].includes(error.code)) return null;
      throw error;
    }
  }

  async write(): Promise<WriterResult> {
    const manifest: WriterManifest = { ...this.#base, file: null, intervals: [] };
    // A manifest of another run must not stand beside data that is being replaced. Where none does, no right to delete is needed.
    if ((await this.#storage.stat(this.#manifestKey)) !== null)
      await this.#storage.delete([this.#manifestKey]);
    try {
      if (this.#planned.length > 0) await this.#writeData(manifest);
      await this.#storage.writeFile(this.#manifestKey, [encodeWriterManifest(manifest)]);
    } catch (error) {
      // The space is needed more than the bytes; the commit record was never near.
      await this.#storage.delete([this.#manifestKey, this.#dataKey]).catch(() => {});
      throw error;
    }
    return this.#result(manifest, false);
  }

  async #writeData(manifest: WriterManifest): Promise<void> {
    const header = this.#header();
    manifest.file = this.#describeFile(header);
    let offset = header.byteLength;
    for (const { tensor, start, length } of this.#planned) {
      manifest.intervals.push({ tensor, start, length, offset, bytes: 4 * length, digests: [] });
      offset += 4 * length;
    }
    const written = await this.#storage.writeFile(
      this.#dataKey,
      this.#blocks(header, manifest.intervals),
      manifest.file.bytes,
    );
    this.#source.requireUnchanged();
    if (written.bytes !== manifest.file.bytes)
      throw new GokuError(
        "INTERNAL",
        `Cannot save ${this.#dataKey}: wrote ${written.bytes} bytes, planned ${manifest.file.bytes}`,
      );
  }

  #describeFile(header: Uint8Array): DataFile {
    const bytes = this.#planned.reduce((sum, item) => sum + 4 * item.length, header.byteLength);
    const name = dataName(this.#options.generation, this.#options.rank);
    return { name, bytes, headerBytes: header.byteLength, headerDigest: digestOf(header) };
  }

  /** Whole tensors keep their name and shape; an interval is a vector named "<tensor>@<start>". */
  #header(): Uint8Array {
    const isWhole = (item: PlannedInterval) => item.start === 0 && item.length === item.spec.count;
    const { state, generation, writer, layout } = this.#base;
    return encodeSafetensorsHeader(
      this.#planned.map((item) => ({
        name: isWhole(item) ? item.tensor : `${item.tensor}@${item.start}`,
        dtype: "F32",
        shape: isWhole(item) ? item.spec.shape : [item.length],
      })),
      {
        format: "goku-checkpoint-shard",
        state: `${state.generation}-${state.step}`,
        generation,
        writer: String(writer),
        layout: `${layout.dp_replicate}x${layout.dp_shard}x${layout.sp}`,
        // [tensor, start, length, shape of the tensor] for what is not whole here.
        intervals: JSON.stringify(
          this.#planned
            .filter((item) => !isWhole(item))
            .map((item) => [item.tensor, item.start, item.length, item.spec.shape]),
        ),
      },
    );
  }

  /** The file's bytes in blocks: while one is written, the next is filled and those before are hashed. */
  async *#blocks(header: Uint8Array, intervals: readonly StoredInterval[]): AsyncGenerator<Uint8Array> {
    const ring = Array.from({ length: BLOCK_COUNT }, () => new ShardBlock());
    let written = 0;
    try {
      for await (const block of readAhead(this.#fill(ring, header, intervals))) {
        await this.#announce(written);
        yield block.bytes;
        written += block.bytes.byteLength;
      }
    } finally {
      await Promise.all(ring.map((block) => block.hashed));
    }
  }

  /** Blocks take turns. One is filled again once the next but one is asked for: its bytes are written by then. */
  async *#fill(
    ring: readonly ShardBlock[],
    header: Uint8Array,
    intervals: readonly StoredInterval[],
  ): AsyncGenerator<ShardBlock, void> {
    let turn = 0;
    let block = ring[turn]!;
    for await (const { bytes, chunk } of this.#pieces(header, intervals)) {
      if (chunk !== null) {
        if (!block.hasRoom(chunk.bytes)) {
          yield block.seal();
          block = await ring[++turn % ring.length]!.empty();
        }
        block.begin(chunk);
      }
      block.append(bytes);
    }
    yield block.seal();
  }

  /** The file's bytes in order; a piece that begins a chunk says so, and none goes beyond its chunk. */
  async *#pieces(
    header: Uint8Array,
    intervals: readonly StoredInterval[],
  ): AsyncGenerator<{ bytes: Uint8Array; chunk: ShardChunk | null }, void> {
    for (let at = 0; at < header.byteLength; at += CHUNK_BYTES) {
      const bytes = header.subarray(at, at + CHUNK_BYTES);
      yield { bytes, chunk: { bytes: bytes.byteLength, digests: null } };
    }
    for (const [i, { tensor, bytes: wanted, digests }] of intervals.entries()) {
      let left = wanted;
      let leftOfChunk = 0;
      for await (const part of this.#source.read(this.#planned[i]!)) {
        if (part.byteLength > left)
          throw new GokuError("INTERNAL", `Cannot save ${tensor}: read more than ${wanted} bytes of it`);
        for (let at = 0; at < part.byteLength; ) {
          const begins = leftOfChunk === 0;
          if (begins) leftOfChunk = Math.min(CHUNK_BYTES, left);
          const bytes = part.subarray(at, at + leftOfChunk);
          yield { bytes, chunk: begins ? { bytes: leftOfChunk, digests } : null };
          at += bytes.byteLength;
          left -= bytes.byteLength;
          leftOfChunk -= bytes.byteLength;
        }
      }
    }
  }

  async #announce(bytes: number): Promise<void> {
    await this.#options.hook?.("save.write", {
      writer: this.#base.writer,
      step: this.#base.state.step,
      bytes,
    });
  }

  #result(manifest: WriterManifest | null, reused: boolean): WriterResult {
    return {
      state: this.#base.state,
      writer: this.#base.writer,
      file: manifest === null || manifest.file === null ? null : this.#dataKey,
      bytes: manifest?.intervals.reduce((sum, interval) => sum + interval.bytes, 0) ?? 0,
      reused,
    };
  }
}
