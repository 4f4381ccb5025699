import { createHash } from "node:crypto";
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { crc32 } from "node:zlib";
import { GokuError } from "../job/errors.js";
import type { Layout } from "../job/layout.js";
import { type FlatUnit, type ShardPiece, shardPieces, shardRange } from "../job/sharding.js";
import { CHUNK_BYTES, chunkCount } from "./digest.js";
import { Fields } from "./fields.js";
import { STATE_KINDS, type StateKind, type StateMeta } from "./state.js";
import { readStateMeta } from "./state_json.js";

/**
 * A snapshot is one tmpfs file, mapped by its rank and read by agents: a control block, the meta as JSON, a table of
 * checksums, then the rank's shards. A rank may die at any instruction, or a copy may stop half-way, and nobody may
 * take the file for whole: the flag is cleared before the first byte of data changes, and set after everything else,
 * and a digest in the control block covers meta, table, size and sequence number.
 *
 *   0     magic "GOKUSNAP"            40  u64 size of the file
 *   8     u32 format version          48  u32 rank
 *   12    u32 flag: WHOLE or 0        52  u32 checksums in the table
 *   16    u64 sequence begun          56  u32 bytes of JSON
 *   24    u64 sequence sealed         64  sha256 of bytes [0,12), [16,64), JSON and table
 *   4096  JSON     524288  CRC-32 of each MiB of data     1048576  data, every entry at a multiple of 64
 *
 * The header's area is large and mostly hole: tmpfs gives memory only to pages that were written.
 */
const MAGIC = 0x50414e53554b4f47n; // "GOKUSNAP", little-endian
const FORMAT = 1;
const WHOLE = 0x454c4857; // "WHLE"
const AT = {
  format: 8,
  flag: 12,
  begun: 16,
  sealed: 24,
  bytes: 40,
  rank: 48,
  checksums: 52,
  json: 56,
  digest: 64,
} as const;
const CONTROL_BYTES = 96;
const JSON_OFFSET = 4096;
const TABLE_OFFSET = 524_288;
const ALIGN_BYTES = 64;
export const SNAPSHOT_DATA_OFFSET = 1_048_576;

export interface SnapshotEntry {
  kind: StateKind;
  unit: string;
  /** From the start of the page; a multiple of 64. */
  byteOffset: number;
  /** f32 elements; 0 where the rank holds nothing of the unit. */
  count: number;
}

export interface SnapshotLayout {
  /** Size of the page: header and data. */
  bytes: number;
  /** Kind by kind in the order of STATE_KINDS, unit by unit in canonical order. */
  entries: SnapshotEntry[];
  /** What of which parameter lies where in a unit's shard. */
  pieces: ShardPiece[];
}

/** Where everything lies in the snapshot of one rank. Pure. */
export function snapshotLayout(units: readonly FlatUnit[], layout: Layout, rank: number): SnapshotLayout {
  const parts = layout.shardGroupSize;
  const entries: SnapshotEntry[] = [];
  let byteOffset = SNAPSHOT_DATA_OFFSET;
  for (const kind of STATE_KINDS) {
    for (const unit of units) {
      const count = shardRange({ count: unit.count, parts, index: rank % parts }).length;
      entries.push({ kind, unit: unit.name, byteOffset, count });
      byteOffset += Math.ceil((4 * count) / ALIGN_BYTES) * ALIGN_BYTES;
    }
  }
  return { bytes: byteOffset, entries, pieces: shardPieces(units, layout, rank) };
}

/** Call before the first byte of a new state is copied into the page: from here to the seal it is not whole. */
export function beginSnapshot(page: Uint8Array): void {
  const { view, flag } = control(page);
  Atomics.store(flag, 0, 0);
  const begun = view.getBigUint64(0, true) === MAGIC ? view.getBigUint64(AT.begun, true) : 0n;
  view.setBigUint64(0, MAGIC, true);
  view.setUint32(AT.format, FORMAT, true);
  view.setBigUint64(AT.begun, begun + 1n, true);
}

/**
 * Declares the page whole, holding `meta.state` of `rank`. `checksum` (default true) adds a CRC-32 of each MiB, at about
 * 3 GB/s on the calling thread, by which a flipped bit is found when the snapshot is adopted or made durable.
 */
export function sealSnapshot(
  page: Uint8Array,
  content: { meta: StateMeta; rank: number; checksum?: boolean },
): void {
  const { view, flag } = control(page);
  if (Atomics.load(flag, 0) !== 0 || view.getBigUint64(0, true) !== MAGIC)
    throw new TypeError("sealSnapshot: call beginSnapshot first");
  const json = Buffer.from(JSON.stringify(content.meta), "utf8");
  if (json.byteLength > TABLE_OFFSET - JSON_OFFSET) {
    throw new GokuError(
      "INTERNAL",
      `Cannot seal the snapshot of step ${content.meta.state.step}: its meta takes ${json.byteLength} bytes, room is for ${TABLE_OFFSET - JSON_OFFSET}`,
    );
  }
  page.set(json, JSON_OFFSET);
  const checksums = content.checksum === false ? 0 : writeChecksums(page, view);
  view.setBigUint64(AT.bytes, BigInt(page.byteLength), true);
  view.setUint32(AT.rank, content.rank, true);
  view.setUint32(AT.checksums, checksums, true);
  view.setUint32(AT.json, json.byteLength, true);
  view.setBigUint64(AT.sealed, view.getBigUint64(AT.begun, true), true);
  page.set(headerDigest(page, json, page.subarray(TABLE_OFFSET, TABLE_OFFSET + 4 * checksums)), AT.digest);
  Atomics.store(flag, 0, WHOLE);
}

function writeChecksums(page: Uint8Array, view: DataView): number {
  const count = chunkCount(page.byteLength - SNAPSHOT_DATA_OFFSET);
  if (TABLE_OFFSET + 4 * count > SNAPSHOT_DATA_OFFSET) {
    throw new RangeError(
      `sealSnapshot: ${count} MiB of data, checksums are for at most ${(SNAPSHOT_DATA_OFFSET - TABLE_OFFSET) / 4}`,
    );
  }
  for (let i = 0; i < count; i++) {
    const start = SNAPSHOT_DATA_OFFSET + i * CHUNK_BYTES;
    view.setUint32(TABLE_OFFSET + 4 * i, crc32(page.subarray(start, start + CHUNK_BYTES)), true);
  }
  return count;
}

function control(page: Uint8Array): { view: DataView; flag: Int32Array } {
  if (page.byteLength < SNAPSHOT_DATA_OFFSET || page.byteOffset % 4 !== 0) {
    throw new RangeError(
      `A snapshot page has at least ${SNAPSHOT_DATA_OFFSET} bytes and is aligned, found ${page.byteLength}`,
    );
  }
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  return { view, flag: new Int32Array(page.buffer, page.byteOffset + AT.flag, 1) };
}

/** sha256 over the control block without flag and digest, the JSON and the table. */
function headerDigest(controlBlock: Uint8Array, json: Uint8Array, table: Uint8Array): Uint8Array {
  const hash = createHash("sha256");
  hash.update(controlBlock.subarray(0, AT.flag)).update(controlBlock.subarray(AT.begun, AT.digest));
  return hash.update(json).update(table).digest();
}

export interface SnapshotHeader {
  path: string;
  meta: StateMeta;
  rank: number;
  bytes: number;
  /** Counts the fillings of the page; a change means that it was overwritten. */
  sequence: bigint;
  /** CRC-32 of each MiB of data, or null when sealed without. */
  checksums: Uint32Array | null;
}

/** Null: there is no such file, or it is not whole (never sealed, being written, cut short, of another format). */
export function readSnapshotHeader(path: string): SnapshotHeader | null {
  let file: number;
  try {
    file = openSync(path, "r");
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return null;
    throw new GokuError("NATIVE_IO", `Cannot read snapshot ${path}: ${(error as Error).message}`, {
      cause: error,
    });
  }
  try {
    return readOpenHeader(path, file);
  } finally {
    closeSync(file);
  }
}

function readOpenHeader(path: string, file: number): SnapshotHeader | null {
  const block = readAt(file, 0, CONTROL_BYTES);
  if (block === null || block.readBigUInt64LE(0) !== MAGIC || block.readUInt32LE(AT.format) !== FORMAT)
    return null;
  const sequence = block.readBigUInt64LE(AT.begun);
  if (block.readUInt32LE(AT.flag) !== WHOLE || block.readBigUInt64LE(AT.sealed) !== sequence) return null;
  const bytes = Number(block.readBigUInt64LE(AT.bytes));
  const jsonBytes = block.readUInt32LE(AT.json);
  const checksumCount = block.readUInt32LE(AT.checksums);
  if (jsonBytes > TABLE_OFFSET - JSON_OFFSET || 4 * checksumCount > SNAPSHOT_DATA_OFFSET - TABLE_OFFSET)
    return null;
  const json = readAt(file, JSON_OFFSET, jsonBytes);
  const table = readAt(file, TABLE_OFFSET, 4 * checksumCount);
  if (json === null || table === null || fstatSync(file).size !== bytes) return null;
  if (!block.subarray(AT.digest, AT.digest + 32).equals(headerDigest(block, json, table))) return null;
  // Its rank may have begun to overwrite it while it was read.
  if (readAt(file, 0, CONTROL_BYTES)?.equals(block) !== true) return null;
  const meta = parseMeta(path, json);
  if (meta === null) return null;
  const checksums = Uint32Array.from({ length: checksumCount }, (_, i) => table.readUInt32LE(4 * i));
  return {
    path,
    meta,
    rank: block.readUInt32LE(AT.rank),
    bytes,
    sequence,
    checksums: checksumCount > 0 ? checksums : null,
  };
}

/** Null where the meta lacks a field that we need: it was sealed by another version of the product. */
function parseMeta(path: string, json: Buffer): StateMeta | null {
  try {
    return readStateMeta(Fields.of(JSON.parse(json.toString("utf8")), `snapshot ${path}`));
  } catch {
    return null;
  }
}

function readAt(file: number, position: number, length: number): Buffer | null {
  const bytes = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const count = readSync(file, bytes, done, length - done, position + done);
    if (count === 0) return null;
    done += count;
  }
  return bytes;
}
