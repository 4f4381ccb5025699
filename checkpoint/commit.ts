import { setTimeout as sleep } from "node:timers/promises";
import { GokuError, toGokuError } from "../job/errors.js";
import type { Layout } from "../job/layout.js";
import type { FlatUnit } from "../job/sharding.js";
import { digestOf } from "./digest.js";
import type { SaveHook, SavePoint } from "./hooks.js";
import {
  type CommitRecord,
  decodeWriterManifest,
  encodeCommitRecord,
  MANIFEST_BYTES_MAX,
  metaDigest,
  type WriterManifest,
} from "./manifest.js";
import { mapLimit } from "./map_limit.js";
import { COMMIT_NAME, checkpointFolder, dataName, laterCommitName, writerManifestName } from "./names.js";
import { coverageFault, type Extent, planDigest } from "./plan.js";
import { pollPauseMs } from "./poll_pause.js";
import { readCommitRecords } from "./records.js";
import { STATE_KINDS, type StateMeta, type StateName } from "./state.js";
import { compareGenerations, sameState } from "./state_json.js";
import { openStorage, type Storage } from "./storage/storage.js";

export interface CommitOptions {
  uri: string | Storage;
  /** Meta of the state being saved, as in the header of any rank's snapshot of it (readSnapshotHeader(slotPath).meta). */
  meta: StateMeta;
  units: readonly FlatUnit[];
  /** The layout that saves: its world size is the number of writers. */
  layout: Layout;
  generation: string;
  /** How long to wait for the other writers. */
  waitMs: number;
  /** Gives up early, for example because the generation was aborted. */
  signal?: AbortSignal | null;
  hook?: SaveHook | null;
}

export interface CommitResult {
  state: StateName;
  /** The checkpoint's folder, for example file:///runs/a/checkpoint-40. */
  uri: string;
  /** Of tensor data, over all writers. */
  bytes: number;
  /** False: this very state had been committed before. */
  created: boolean;
}

/** Between the first looks for the manifests that are missing. */
const POLL_MS = 50;

/** Manifests read at once: one after another, thousands of writers would cost a minute of latency. S3's client has 50 sockets. */
const MANIFESTS_AT_ONCE = 32;

interface FoundWriter {
  manifest: WriterManifest;
  digest: string;
  bytes: number;
}

/**
 * Waits for every writer's manifest, checks that they cover every element exactly once, and creates the commit record:
 * one agent calls it, without the controller. Failing leaves nothing visible, or all of it where only the last look at the
 * files failed. Repeating it is harmless.
 *
 * A step that another generation has committed before keeps that record; ours becomes `manifest-g<generation>.json`
 * beside it and, being of a higher generation, is the one that readers take. A lower generation than one committed is
 * refused: its line was given up.
 * Throws STORAGE_FAILED (writers missing after waitMs), CHECKPOINT_CORRUPT, CHECKPOINT_MISMATCH, GENERATION_STALE,
 * CONFLICT (another run's state has this name), STORAGE_FULL.
 */
export async function commitCheckpoint(options: CommitOptions): Promise<CommitResult> {
  const storage = typeof options.uri === "string" ? openStorage(options.uri) : options.uri;
  const { meta } = options;
  const folder = checkpointFolder(meta.state.step);
  const result = (record: CommitRecord, created: boolean): CommitResult => ({
    state: meta.state,
    uri: `${storage.uri}/${folder}`,
    bytes: record.bytes,
    created,
  });
  const earlier = await findCommitted(storage, options);
  if (earlier !== null) return result(earlier, false);
  const writers = await waitForWriters(storage, folder, options);
  requireCoverage(writers, options);
  await requireDataFiles(storage, folder, writers);
  const record = commitRecord(writers, options);
  const detail = { writer: -1, step: meta.state.step, bytes: record.bytes };
  await announce(options, "save.commit", detail);
  const created = await createRecord(storage, folder, record);
  if ("rival" in created) return result(created.rival, false);
  await requireParts(storage, folder, { key: created.key, record, writers });
  await announce(options, "save.committed", detail);
  return result(record, true);
}

async function announce(
  { hook }: CommitOptions,
  point: SavePoint,
  detail: Parameters<SaveHook>[1],
): Promise<void> {
  try {
    await hook?.(point, detail);
  } catch (error) {
    throw toGokuError(error, "STORAGE_FAILED");
  }
}

/** The record of this very state, or null. Throws where the step belongs to a higher generation or to another run. */
async function findCommitted(
  storage: Storage,
  { meta, generation }: Pick<CommitOptions, "meta" | "generation">,
): Promise<CommitRecord | null> {
  const { state } = meta;
  const doing = `Cannot commit checkpoint ${state.step} of generation ${state.generation} under ${storage.uri}`;
  const records = (await readCommitRecords(storage, state.step)).map((found) => found.record);
  const same = records.find((record) => sameState(record.meta.state, state)) ?? null;
  // One generation of one run gives a state one meta. A later one may have restored it into another layout.
  if (same !== null && same.generation === generation && metaDigest(same.meta) !== metaDigest(meta)) {
    throw new GokuError(
      "CONFLICT",
      `${doing}: another run has committed a state of that name there, give this job its own checkpoint.uri`,
    );
  }
  const higher = records.find(
    (record) => compareGenerations(record.meta.state.generation, state.generation) > 0,
  );
  if (same === null && higher !== undefined) {
    throw new GokuError(
      "GENERATION_STALE",
      `${doing}: generation ${higher.meta.state.generation} has committed that step`,
    );
  }
  return same;
}

async function waitForWriters(
  storage: Storage,
  folder: string,
  options: CommitOptions,
): Promise<FoundWriter[]> {
  const { layout, generation, meta, waitMs } = options;
  const digests = { meta: metaDigest(meta), plan: planDigest(options.units, layout) };
  const found = new Map<number, FoundWriter>();
  const begun = performance.now();
  for (;;) {
    // Listing rather than asking by name: a network file system may remember for seconds that a name did not exist.
    const present = new Set((await storage.list(`${folder}/`)).map((entry) => entry.key));
    const keyOf = (writer: number) => `${folder}/${writerManifestName(generation, writer)}`;
    const fresh = missingWriters(found, layout).filter((writer) => present.has(keyOf(writer)));
    await mapLimit(fresh, MANIFESTS_AT_ONCE, async (writer) => {
      const manifest = await readWriter(storage, keyOf(writer), digests);
      if (manifest !== null) found.set(writer, manifest);
    });
    const missing = missingWriters(found, layout);
    if (missing.length === 0)
      return [...found.entries()].sort(([a], [b]) => a - b).map(([, writer]) => writer);
    const doing = `Cannot commit ${folder} under ${storage.uri}`;
    if (options.signal?.aborted)
      throw new GokuError(
        "COMM_ABORTED",
        `${doing}: given up while ${tally(missing, layout.worldSize)} had not finished`,
      );
    const waitedMs = performance.now() - begun;
    if (waitedMs >= waitMs) {
      const shared = storage.uri.startsWith("s3://")
        ? ""
        : "; if they say they wrote it, checkpoint.uri is not one folder shared by all nodes";
      throw new GokuError(
        "STORAGE_FAILED",
        `${doing}: ${tally(missing, layout.worldSize)} have not finished after ${waitMs} ms, the older checkpoint stays${shared}`,
      );
    }
    const pauseMs = Math.min(waitMs - waitedMs, pollPauseMs(waitedMs, POLL_MS));
    await sleep(pauseMs, undefined, options.signal ? { signal: options.signal } : {}).catch(() => {});
  }
}

function missingWriters(found: ReadonlyMap<number, FoundWriter>, { worldSize }: Layout): number[] {
  return Array.from({ length: worldSize }, (_, writer) => writer).filter((writer) => !found.has(writer));
}

function tally(missing: readonly number[], worldSize: number): string {
  return `writers ${missing.slice(0, 8).join(", ")}${missing.length > 8 ? ", ..." : ""} (${missing.length} of ${worldSize})`;
}

/** Null for a manifest that an earlier attempt of another run left under the name: its writer is about to replace it. */
async function readWriter(
  storage: Storage,
  key: string,
  want: { meta: string; plan: string },
): Promise<FoundWriter | null> {
  let bytes: Uint8Array;
  try {
    bytes = await storage.readFile(key, MANIFEST_BYTES_MAX);
  } catch (error) {
    if (error instanceof GokuError && error.code === "NOT_FOUND") return null; // replaced between listing and reading
    throw error;
  }
  const manifest = decodeWriterManifest(bytes, key);
  if (manifest.meta !== want.meta) return null;
  if (manifest.plan !== want.plan) {
    throw new GokuError(
      "CHECKPOINT_MISMATCH",
      `Cannot commit ${key}: its writer followed plan ${manifest.plan.slice(0, 12)}, this agent's is ${want.plan.slice(0, 12)}, run one version everywhere`,
    );
  }
  return { manifest, digest: digestOf(bytes), bytes: bytes.byteLength };
}

/** Every element of every tensor exactly once, whatever the plan promised. */
function requireCoverage(writers: readonly FoundWriter[], { units, meta }: CommitOptions): void {
  const extents = new Map<string, Extent[]>();
  for (const { spec } of units.flatMap((unit) => unit.parameters)) {
    for (const kind of STATE_KINDS) extents.set(`${kind}/${spec.name}`, []);
  }
  const doing = `Cannot commit checkpoint ${meta.state.step}`;
  for (const { manifest } of writers) {
    for (const interval of manifest.intervals) {
      const known = extents.get(interval.tensor);
      if (known === undefined)
        throw new GokuError(
          "CHECKPOINT_MISMATCH",
          `${doing}: writer ${manifest.writer} wrote ${interval.tensor}, which the model lacks`,
        );
      known.push(interval);
    }
  }
  for (const { spec } of units.flatMap((unit) => unit.parameters)) {
    for (const kind of STATE_KINDS) {
      const fault = coverageFault(extents.get(`${kind}/${spec.name}`)!, spec.count);
      if (fault !== null)
        throw new GokuError("CHECKPOINT_MISMATCH", `${doing}: of ${kind}/${spec.name} ${fault}`);
    }
  }
}

async function requireDataFiles(
  storage: Storage,
  folder: string,
  writers: readonly FoundWriter[],
): Promise<void> {
  const present = new Map((await storage.list(`${folder}/`)).map(({ key, bytes }) => [key, bytes]));
  for (const { manifest } of writers) {
    if (manifest.file === null) continue;
    const key = `${folder}/${dataName(manifest.generation, manifest.writer)}`;
    const found = present.get(key) ?? null;
    if (
      manifest.file.name !== dataName(manifest.generation, manifest.writer) ||
      found !== manifest.file.bytes
    ) {
      throw new GokuError(
        "CHECKPOINT_CORRUPT",
        `Cannot commit ${key}: found ${found ?? "no"} bytes, its manifest wants ${manifest.file.bytes}`,
      );
    }
  }
}

function commitRecord(writers: readonly FoundWriter[], options: CommitOptions): CommitRecord {
  const { meta, layout, generation, units } = options;
  return {
    meta,
    generation,
    committedAt: new Date().toISOString(),
    layout: layout.size,
    plan: planDigest(units, layout),
    kinds: STATE_KINDS,
    parameters: units.flatMap((unit) => unit.parameters.map(({ spec }) => spec)),
    writers: writers.map(({ digest, bytes }, writer) => ({
      manifest: writerManifestName(generation, writer),
      digest,
      bytes,
    })),
    bytes: writers.reduce(
      (sum, { manifest }) => sum + manifest.intervals.reduce((part, interval) => part + interval.bytes, 0),
      0,
    ),
  };
}

/** The key of our record; otherwise the record of the same state that another committer was first to create. */
async function createRecord(
  storage: Storage,
  folder: string,
  record: CommitRecord,
): Promise<{ key: string } | { rival: CommitRecord }> {
  const bytes = encodeCommitRecord(record);
  for (const name of [COMMIT_NAME, laterCommitName(record.meta.state.generation)]) {
    const key = `${folder}/${name}`;
    if (await createOrUndo(storage, key, bytes)) return { key };
    const rival = await findCommitted(storage, record);
    if (rival !== null) return { rival };
    if (name === COMMIT_NAME) await requireReadable(storage, folder);
  }
  throw new GokuError(
    "CONFLICT",
    `Cannot commit ${folder} under ${storage.uri}: its commit records keep changing, look for a second job with this checkpoint.uri`,
  );
}

/** Readers see no record of a folder without `manifest.json`: one beside it must not be taken for a commit. */
async function requireReadable(storage: Storage, folder: string): Promise<void> {
  if ((await storage.stat(`${folder}/${COMMIT_NAME}`)) !== null) return;
  throw new GokuError(
    "STORAGE_FAILED",
    `Cannot create ${COMMIT_NAME} of ${folder} under ${storage.uri}: the name is taken and no file has it, remove what has it and try again`,
  );
}

/**
 * A committer that stood still between its checks and its record may find its parts gone: a newer generation has
 * committed meanwhile and swept them as remains of a line that was given up. Then nothing of this is a checkpoint.
 */
async function requireParts(
  storage: Storage,
  folder: string,
  made: { key: string; record: CommitRecord; writers: readonly FoundWriter[] },
): Promise<void> {
  const present = new Set((await storage.list(`${folder}/`)).map((entry) => entry.key));
  const parts = [
    ...made.record.writers.map((writer) => writer.manifest),
    ...made.writers.flatMap(({ manifest }) => manifest.file?.name ?? []),
  ];
  const missing = parts.filter((name) => !present.has(`${folder}/${name}`));
  if (missing.length === 0) return;
  await storage.delete([made.key]);
  throw new GokuError(
    "GENERATION_STALE",
    `Cannot commit ${folder} under ${storage.uri}: ${missing.length} of its ${parts.length} files were removed meanwhile, as a newer generation does`,
  );
}

/** A create that fails half-way (made, but not known to be durable) is taken back: failing leaves nothing visible. */
async function createOrUndo(storage: Storage, key: string, bytes: Uint8Array): Promise<boolean> {
  try {
    return await storage.createExclusive(key, bytes);
  } catch (error) {
    const found = await storage.readFile(key, MANIFEST_BYTES_MAX).catch(() => null);
    if (found !== null && Buffer.from(found).equals(bytes)) await storage.delete([key]).catch(() => {});
    throw error;
  }
}
