import { createHash } from "node:crypto";
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { GokuError } from "../job/errors.js";
import type { Layout } from "../job/layout.js";
import { type FlatUnit, type ShardPiece, shardPieces, shardRange } from "../job/sharding.js";
import { CHUNK_BYTES, chunkCount } from "./digest.js";
import { Fields } from "./fields.js";
import { STATE_KINDS, type StateKind, type StateMeta } from "./state.js";
import { readStateMeta } from "./state_json.js";

/**
 * A snapshot is one tmpfs file, mapped by its rank and read by agents: a control block, the meta as JSON, a table of
 * checksums, then the rank's shards, which the rank computes with where they lie. A rank may die at any instruction, and
 * nobody may take a half-written file for whole: the flag is cleared before the first byte of data changes, and set after
 * everything else, and a digest in the control block covers meta, table, size and sequence number.
 *
 *   0     magic "GOKUSNAP"            40  u64 size of the file
 *   8     u32 format version          48  u32 rank
 *   12    u32 flag: WHOLE or 0        52  u32 checksums in the table
 *   16    u64 sequence begun          56  u32 bytes of JSON
 *   24    u64 sequence sealed         64  sha256 of bytes [0,12), [16,64), JSON and table
 *   4096  JSON     524288  CRC-32 of each MiB of each entry     1048576  data, every entry at a multiple of 64
 *
 * The header's area is large and mostly hole: tmpfs gives memory only to pages that were written.
 */
const MAGIC = 0x50414e53554b4f47n; // "GOKUSNAP", little-endian
const FORMAT = 2;
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

/** Bytes of one entry in a page. */
export interface SnapshotExtent {
  byteOffset: number;
  bytes: number;
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
      byteOffset = aligned(byteOffset + 4 * count);
    }
  }
  return { bytes: byteOffset, entries, pieces: shardPieces(units, layout, rank) };
}

function aligned(byteOffset: number): number {
  return Math.ceil(byteOffset / ALIGN_BYTES) * ALIGN_BYTES;
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
 * Declares the page whole, holding `meta.state` of `rank`. `checksums`: CRC-32 of each MiB of each entry, entry after
 * entry, by which a flipped bit is found when the snapshot is adopted, restored from or made durable.
 */
export function sealSnapshot(
  page: Uint8Array,
  content: { meta: StateMeta; rank: number; entries: readonly SnapshotEntry[]; checksums: Uint32Array },
): void {
  const { meta, rank, entries, checksums } = content;
  const { view, flag } = control(page);
  if (Atomics.load(flag, 0) !== 0 || view.getBigUint64(0, true) !== MAGIC)
    throw new TypeError("sealSnapshot: call beginSnapshot first");
  const wanted = entries.reduce((sum, { count }) => sum + chunkCount(4 * count), 0);
  const room = (SNAPSHOT_DATA_OFFSET - TABLE_OFFSET) / 4;
  if (checksums.length !== wanted || wanted > room)
    throw new RangeError(`sealSnapshot: ${checksums.length} checksums, want ${wanted}, at most ${room}`);
  const json = Buffer.from(JSON.stringify({ meta, entries: entries.map(({ count }) => 4 * count) }), "utf8");
  if (json.byteLength > TABLE_OFFSET - JSON_OFFSET) {
    throw new GokuError(
      "INTERNAL",
      `Cannot seal the snapshot of step ${meta.state.step}: its meta takes ${json.byteLength} bytes, room is for ${TABLE_OFFSET - JSON_OFFSET}`,
    );
  }
  page.set(json, JSON_OFFSET);
  for (const [i, checksum] of checksums.entries()) view.setUint32(TABLE_OFFSET + 4 * i, checksum, true);
  view.setBigUint64(AT.bytes, BigInt(page.byteLength), true);
  view.setUint32(AT.rank, rank, true);
  view.setUint32(AT.checksums, wanted, true);
  view.setUint32(AT.json, json.byteLength, true);
  view.setBigUint64(AT.sealed, view.getBigUint64(AT.begun, true), true);
  page.set(headerDigest(page, json, page.subarray(TABLE_OFFSET, TABLE_OFFSET + 4 * wanted)), AT.digest);
  Atomics.store(flag, 0, WHOLE);
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
  /** Where the data lie, kind by kind, unit by unit. */
  entries: readonly SnapshotExtent[];
  /** CRC-32 of each MiB of each entry, entry after entry. */
  checksums: Uint32Array;
}

/** Null: there is no such file, or it is not whole (never sealed, being written, cut short, of another format). */
export function readSnapshotHeader(path: string): SnapshotHeader | null {
  return withFile(path, (file) => readOpenHeader(path, file));
}

function withFile<T>(path: string, read: (file: number) => T): T | null {
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
    return read(file);
  } finally {
    closeSync(file);
  }
}

function readOpenHeader(path: string, file: number): SnapshotHeader | null {
  const head = readOpenHead(file);
  const header = head === null ? null : parseSnapshotHead(path, head);
  return header !== null && fstatSync(file).size === header.bytes ? header : null;
}

/** Null where it is not whole, as far as the control block tells. */
function readOpenHead(file: number): Buffer | null {
  const block = readAt(file, 0, CONTROL_BYTES);
  const sizes = block === null ? null : headSizes(block);
  if (block === null || sizes === null) return null;
  const json = readAt(file, JSON_OFFSET, sizes.json);
  const table = readAt(file, TABLE_OFFSET, sizes.table);
  // Its rank may have begun to overwrite it while it was read.
  if (json === null || table === null || readAt(file, 0, CONTROL_BYTES)?.equals(block) !== true) return null;
  return Buffer.concat([block, json, table]);
}

function headSizes(block: Buffer): { json: number; table: number } | null {
  if (block.length < CONTROL_BYTES || block.readBigUInt64LE(0) !== MAGIC) return null;
  if (block.readUInt32LE(AT.format) !== FORMAT || block.readUInt32LE(AT.flag) !== WHOLE) return null;
  if (block.readBigUInt64LE(AT.sealed) !== block.readBigUInt64LE(AT.begun)) return null;
  const json = block.readUInt32LE(AT.json);
  const table = 4 * block.readUInt32LE(AT.checksums);
  return json > TABLE_OFFSET - JSON_OFFSET || table > SNAPSHOT_DATA_OFFSET - TABLE_OFFSET
    ? null
    : { json, table };
}

/** A whole snapshot but for its data, as it travels to another node: control block, JSON, table. Null as readSnapshotHeader. */
export function readSnapshotHead(path: string): Buffer | null {
  return withFile(path, readOpenHead);
}

/** What a head says that was read here or came from elsewhere; null: it is of no whole snapshot. `path`: for messages. */
export function parseSnapshotHead(path: string, head: Uint8Array): SnapshotHeader | null {
  const block = Buffer.from(head.buffer, head.byteOffset, Math.min(head.byteLength, CONTROL_BYTES));
  const sizes = headSizes(block);
  if (sizes === null || head.byteLength !== CONTROL_BYTES + sizes.json + sizes.table) return null;
  const all = Buffer.from(head.buffer, head.byteOffset, head.byteLength);
  const json = all.subarray(CONTROL_BYTES, CONTROL_BYTES + sizes.json);
  const table = all.subarray(CONTROL_BYTES + sizes.json);
  if (!block.subarray(AT.digest, AT.digest + 32).equals(headerDigest(block, json, table))) return null;
  const bytes = Number(block.readBigUInt64LE(AT.bytes));
  const checksumCount = sizes.table / 4;
  const content = parseContent(path, json);
  if (content === null || !fits(content.entries, { bytes, checksumCount })) return null;
  return {
    path,
    ...content,
    rank: block.readUInt32LE(AT.rank),
    bytes,
    sequence: block.readBigUInt64LE(AT.begun),
    checksums: Uint32Array.from({ length: checksumCount }, (_, i) => table.readUInt32LE(4 * i)),
  };
}

/** Whether two heads are of equal snapshots; one that was sealed again has another sequence number. */
export function sameSnapshot(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a.subarray(CONTROL_BYTES), b.subarray(CONTROL_BYTES)) === 0;
}

/** The parts of a head and where a file has them, the one with the flag last: whoever reads before it sees nothing whole. */
export function headParts(head: Uint8Array): { position: number; bytes: Uint8Array }[] {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const json = CONTROL_BYTES + view.getUint32(AT.json, true);
  return [
    { position: JSON_OFFSET, bytes: head.subarray(CONTROL_BYTES, json) },
    { position: TABLE_OFFSET, bytes: head.subarray(json) },
    { position: 0, bytes: head.subarray(0, CONTROL_BYTES) },
  ];
}

/** What each checksum of a snapshot covers, in the order of its table. */
export function snapshotChunks({ entries }: Pick<SnapshotHeader, "entries">): SnapshotExtent[] {
  return entries.flatMap(({ byteOffset, bytes }) =>
    Array.from({ length: chunkCount(bytes) }, (_, i) => ({
      byteOffset: byteOffset + i * CHUNK_BYTES,
      bytes: Math.min(CHUNK_BYTES, bytes - i * CHUNK_BYTES),
    })),
  );
}

/** Null where a field lacks that we need: it was sealed by another version of the product. */
function parseContent(
  path: string,
  json: Buffer,
): { meta: StateMeta; entries: readonly SnapshotExtent[] } | null {
  try {
    const fields = Fields.of(JSON.parse(json.toString("utf8")), `snapshot ${path}`);
    let byteOffset = SNAPSHOT_DATA_OFFSET;
    const entries = fields.integers("entries").map((bytes) => {
      const entry = { byteOffset, bytes };
      byteOffset = aligned(byteOffset + bytes);
      return entry;
    });
    return { meta: readStateMeta(fields.object("meta")), entries };
  } catch {
    return null;
  }
}

function fits(
  entries: readonly SnapshotExtent[],
  { bytes, checksumCount }: { bytes: number; checksumCount: number },
): boolean {
  const last = entries.at(-1);
  const end = last === undefined ? SNAPSHOT_DATA_OFFSET : aligned(last.byteOffset + last.bytes);
  return end === bytes && checksumCount === entries.reduce((sum, entry) => sum + chunkCount(entry.bytes), 0);
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
