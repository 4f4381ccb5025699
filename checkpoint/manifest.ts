import { Layout, type LayoutSize } from "../job/layout.js";
import type { ParameterSpec } from "../job/parameters.js";
import { canonicalJson } from "./canonical_json.js";
import { CHUNK_BYTES, chunkCount, digestOf } from "./digest.js";
import { Fields } from "./fields.js";
import { HEADER_BYTES_MAX } from "./safetensors.js";
import { decodeSealedJson, encodeSealedJson } from "./sealed_json.js";
import { STATE_KINDS, type StateKind, type StateMeta, type StateName } from "./state.js";
import { GENERATION, readStateMeta, readStateName } from "./state_json.js";

const WRITER_FORMAT = "goku-checkpoint-writer";
const COMMIT_FORMAT = "goku-checkpoint";
const VERSION = 2;
/** 1: states without the record of steps left out and of the numbers seen. */
const VERSIONS_READ: readonly unknown[] = [1, VERSION];
const SHA256 = /^[0-9a-f]{64}$/;

/** Larger manifests are refused before they are read. */
export const MANIFEST_BYTES_MAX = 512 * CHUNK_BYTES;

/** An interval of a tensor in a data file. */
export interface StoredInterval {
  tensor: string; // "<kind>/<parameter name>"
  start: number;
  length: number;
  /** Place in the file; 4 bytes an element. */
  offset: number;
  bytes: number;
  /** sha256 of each MiB of these bytes; the last may be shorter. */
  digests: string[];
}

/** The safetensors file of one writer. */
export interface DataFile {
  name: string;
  bytes: number;
  headerBytes: number;
  /** sha256 of the header. */
  headerDigest: string;
}

/** What one writer has made durable. */
export interface WriterManifest {
  state: StateName;
  /** metaDigest of the snapshot that was written: writers of one checkpoint agree on it. */
  meta: string;
  /** The generation that saved. */
  generation: string;
  writer: number;
  layout: LayoutSize;
  /** writePlan's digest. */
  plan: string;
  /** Null where the writer has nothing to write. */
  file: DataFile | null;
  /** In the order of their bytes. */
  intervals: StoredInterval[];
}

/** The commit record: who wrote what of which state, complete. */
export interface CommitRecord {
  meta: StateMeta;
  generation: string;
  committedAt: string;
  /** The layout that saved; its world size is the number of writers. */
  layout: LayoutSize;
  plan: string;
  kinds: readonly StateKind[];
  parameters: ParameterSpec[];
  /** In writer order. */
  writers: { manifest: string; digest: string; bytes: number }[];
  /** Of tensor data. */
  bytes: number;
}

/**
 * Two runs that were started apart may give their states the same name; what they are runs of tells them apart. Ranks whose
 * metas differ although they should not are found by it as well.
 */
export function metaDigest(meta: StateMeta): string {
  return digestOf(canonicalJson(meta));
}

/** Of all that a commit record says, in whatever version of the format it was written. */
export function recordDigest(record: CommitRecord): string {
  return digestOf(canonicalJson(record));
}

export function encodeWriterManifest(manifest: WriterManifest): Uint8Array {
  return encodeSealedJson({ format: WRITER_FORMAT, version: VERSION, ...manifest });
}

export function encodeCommitRecord(record: CommitRecord): Uint8Array {
  const parameters = record.parameters.map(({ name, shape }) => ({ name, shape }));
  return encodeSealedJson({ format: COMMIT_FORMAT, version: VERSION, ...record, parameters });
}

/** Checked as far as one file can be; CHECKPOINT_CORRUPT names the field. `source` is its key. */
export function decodeWriterManifest(bytes: Uint8Array, source: string): WriterManifest {
  const fields = opened(bytes, source, WRITER_FORMAT);
  const file = fields.objectOrNull("file");
  const manifest: WriterManifest = {
    state: readStateName(fields.object("state")),
    meta: fields.string("meta", SHA256),
    generation: fields.string("generation", GENERATION),
    writer: fields.integer("writer"),
    layout: readLayout(fields),
    plan: fields.string("plan", SHA256),
    file: file === null ? null : readDataFile(file),
    intervals: [],
  };
  let end = manifest.file?.headerBytes ?? 0;
  for (const item of fields.objects("intervals")) {
    const interval = readInterval(item);
    if (interval.offset !== end) item.fail("offset", `${end}, where the one before ends`);
    end += interval.bytes;
    manifest.intervals.push(interval);
  }
  if (end !== (manifest.file?.bytes ?? 0))
    fields.fail("intervals", `bytes up to ${manifest.file?.bytes ?? 0}, the end of the file`);
  return manifest;
}

function readDataFile(fields: Fields): DataFile {
  const bytes = fields.integer("bytes");
  return {
    name: fields.string("name", /^g\d{1,20}-w\d{1,10}\.safetensors$/),
    bytes,
    // Read at once, so bounded: what a safetensors file may have, with the length in front of it.
    headerBytes: fields.integer("headerBytes", { max: Math.min(bytes, 8 + HEADER_BYTES_MAX) }),
    headerDigest: fields.string("headerDigest", SHA256),
  };
}

function readInterval(fields: Fields): StoredInterval {
  const interval: StoredInterval = {
    tensor: fields.string("tensor"),
    start: fields.integer("start"),
    length: fields.integer("length", { min: 1, max: Number.MAX_SAFE_INTEGER / 8 }),
    offset: fields.integer("offset"),
    bytes: fields.integer("bytes"),
    digests: fields.strings("digests", SHA256),
  };
  if (!Number.isSafeInteger(interval.start + interval.length)) fields.fail("start", "an element that exists");
  if (interval.bytes !== 4 * interval.length)
    fields.fail("bytes", `${4 * interval.length} for ${interval.length} elements`);
  if (interval.digests.length !== chunkCount(interval.bytes))
    fields.fail("digests", `${chunkCount(interval.bytes)} of them`);
  return interval;
}

export function decodeCommitRecord(bytes: Uint8Array, source: string): CommitRecord {
  const fields = opened(bytes, source, COMMIT_FORMAT);
  const record: CommitRecord = {
    meta: readStateMeta(fields.object("meta")),
    generation: fields.string("generation", GENERATION),
    committedAt: fields.string("committedAt", /^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
    layout: readLayout(fields),
    plan: fields.string("plan", SHA256),
    kinds: fields.strings("kinds", new RegExp(`^(${STATE_KINDS.join("|")})$`)) as StateKind[],
    parameters: fields.objects("parameters").map(readParameter),
    writers: fields.objects("writers").map((item) => ({
      manifest: item.string("manifest", /^g\d{1,20}-w\d{1,10}\.json$/),
      digest: item.string("digest", SHA256),
      bytes: item.integer("bytes", { max: MANIFEST_BYTES_MAX }),
    })),
    bytes: fields.integer("bytes"),
  };
  const names = new Set(record.parameters.map((parameter) => parameter.name));
  if (names.size !== record.parameters.length) fields.fail("parameters", "each name once");
  if (new Set(record.kinds).size !== record.kinds.length) fields.fail("kinds", "each kind once");
  const worldSize = new Layout(record.layout).worldSize;
  if (record.writers.length !== worldSize) fields.fail("writers", `${worldSize} of them`);
  return record;
}

function readParameter(fields: Fields): ParameterSpec {
  const shape = fields.integers("shape");
  const count = shape.reduce((a, b) => a * b, 1);
  if (!Number.isSafeInteger(count * 8)) fields.fail("shape", "a tensor that can exist");
  return { name: fields.string("name", /^[^/]{1,500}$/), shape, count };
}

function readLayout(fields: Fields): LayoutSize {
  const layout = fields.object("layout");
  const limits = { min: 1, max: 1_000_000 };
  return {
    dp_replicate: layout.integer("dp_replicate", limits),
    dp_shard: layout.integer("dp_shard", limits),
    sp: layout.integer("sp", limits),
  };
}

function opened(bytes: Uint8Array, source: string, format: string): Fields {
  const fields = Fields.of(decodeSealedJson(bytes, source), source);
  if (fields.any("format") !== format) fields.fail("format", format);
  if (!VERSIONS_READ.includes(fields.any("version")))
    fields.fail("version", `${VERSIONS_READ.join(" or ")}, which this product reads`);
  return fields;
}
