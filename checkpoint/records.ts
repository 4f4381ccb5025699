import { GokuError } from "../job/errors.js";
import { digestOf } from "./digest.js";
import {
  type CommitRecord,
  decodeCommitRecord,
  decodeWriterManifest,
  MANIFEST_BYTES_MAX,
  type WriterManifest,
} from "./manifest.js";
import {
  COMMIT_NAME,
  checkpointFolder,
  dataName,
  isCommitName,
  laterCommitName,
  writerManifestName,
} from "./names.js";
import type { StateName } from "./state.js";
import { compareGenerations, sameState } from "./state_json.js";
import type { Storage } from "./storage/storage.js";

export interface FoundRecord {
  name: string;
  record: CommitRecord;
}

/**
 * The commit records of a step's folder, the highest state generation first; empty when it was never committed.
 * One that cannot be read, or belongs to another step, goes to `onCorrupt`, which may throw.
 */
export async function readCommitRecords(
  storage: Storage,
  step: number,
  onCorrupt: (name: string, error: GokuError) => void = rethrow,
): Promise<FoundRecord[]> {
  const folder = checkpointFolder(step);
  if ((await storage.stat(`${folder}/${COMMIT_NAME}`)) === null) return [];
  const names = (await storage.list(`${folder}/`))
    .map((entry) => entry.key.slice(folder.length + 1))
    .filter(isCommitName);
  const found: FoundRecord[] = [];
  for (const name of names) {
    try {
      found.push({ name, record: await readCommitRecord(storage, step, name) });
    } catch (error) {
      if (!(error instanceof GokuError) || error.code !== "CHECKPOINT_CORRUPT") throw error;
      onCorrupt(name, error);
    }
  }
  return found.sort((a, b) =>
    compareGenerations(b.record.meta.state.generation, a.record.meta.state.generation),
  );
}

/**
 * The commit record of one state; null when it is not committed, or not any more. Looks for two keys and lists nothing: at scale every
 * agent asks. CHECKPOINT_CORRUPT.
 */
export async function findCommitRecord(storage: Storage, state: StateName): Promise<CommitRecord | null> {
  for (const name of [COMMIT_NAME, laterCommitName(state.generation)]) {
    if ((await storage.stat(`${checkpointFolder(state.step)}/${name}`)) === null) continue;
    const record = await readCommitRecord(storage, state.step, name);
    if (sameState(record.meta.state, state)) return record;
  }
  return null;
}

function rethrow(_name: string, error: GokuError): never {
  throw error;
}

async function readCommitRecord(storage: Storage, step: number, name: string): Promise<CommitRecord> {
  const key = `${checkpointFolder(step)}/${name}`;
  const record = decodeCommitRecord(await storage.readFile(key, MANIFEST_BYTES_MAX), key);
  if (record.meta.state.step === step) return record;
  throw new GokuError(
    "CHECKPOINT_CORRUPT",
    `Cannot read ${key}: it is of step ${record.meta.state.step}, want ${step}`,
  );
}

/** One writer's manifest, checked against the commit record; CHECKPOINT_CORRUPT when it is not what was committed. */
export async function readCommittedWriter(
  storage: Storage,
  record: CommitRecord,
  writer: number,
): Promise<WriterManifest> {
  const expected = record.writers[writer]!;
  const name = writerManifestName(record.generation, writer);
  const key = `${checkpointFolder(record.meta.state.step)}/${name}`;
  const corrupt = (what: string) => new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${key}: ${what}`);
  if (expected.manifest !== name)
    throw corrupt(`the commit record names ${expected.manifest} for writer ${writer}`);
  const bytes = await readOrCorrupt(storage, key);
  if (bytes.byteLength !== expected.bytes || digestOf(bytes) !== expected.digest)
    throw corrupt("it differs from its digest in the commit record");
  const manifest = decodeWriterManifest(bytes, key);
  const fits =
    manifest.writer === writer &&
    manifest.generation === record.generation &&
    manifest.plan === record.plan &&
    sameState(manifest.state, record.meta.state) &&
    (manifest.file === null || manifest.file.name === dataName(record.generation, writer));
  if (!fits) throw corrupt(`it is not of writer ${writer} of generation ${record.generation}`);
  return manifest;
}

async function readOrCorrupt(storage: Storage, key: string): Promise<Uint8Array> {
  try {
    return await storage.readFile(key, MANIFEST_BYTES_MAX);
  } catch (error) {
    if (error instanceof GokuError && error.code === "NOT_FOUND") {
      throw new GokuError(
        "CHECKPOINT_CORRUPT",
        `Cannot read ${key}: it is missing, though it was committed`,
        { cause: error },
      );
    }
    throw error;
  }
}
