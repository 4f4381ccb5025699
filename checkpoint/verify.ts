import { GokuError } from "../job/errors.js";
import { CheckpointContent, indexExtents, type StoredExtent } from "./content.js";
import { CHUNK_BYTES, chunkCount } from "./digest.js";
import { findCheckpoint, newestStep, openRoot } from "./load.js";
import type { CommitRecord, WriterManifest } from "./manifest.js";
import { mapLimit, READS_AT_ONCE } from "./map_limit.js";
import { checkpointFolder, dataName } from "./names.js";
import { type FoundRecord, readCommitRecords, readCommittedWriter } from "./records.js";
import type { StateName } from "./state.js";
import type { Storage } from "./storage/storage.js";

export interface BadChunk {
  /** File name inside the checkpoint's folder. */
  file: string;
  /** "<kind>/<parameter name>"; null where the bytes belong to no tensor (headers, manifests, missing files). */
  tensor: string | null;
  /** Number of the MiB within the interval of that tensor that the file holds; 0 where `tensor` is null. */
  chunk: number;
  /** Byte offset in the file. */
  offset: number;
  reason: string;
}

export interface VerifyReport {
  uri: string;
  /** Null when the commit record itself is unreadable. */
  state: StateName | null;
  /** Tensor data read and found as it was written. */
  bytes: number;
  chunkCount: number;
  /** Empty: every byte is as it was written. */
  bad: BadChunk[];
}

export type VerifyProgress = (progress: { bytesDone: number; bytesTotal: number }) => void;

/**
 * Reads every byte of a checkpoint (of the newest one, when given a run's root) and reports everything that is bad, where
 * reading for use stops at the first. NOT_FOUND when there is none.
 */
export async function verifyCheckpoint(
  uri: string | Storage,
  onProgress: VerifyProgress = () => {},
  chosen: number | null = null,
): Promise<VerifyReport> {
  const { storage, step: folder } = openRoot(uri);
  const step = folder ?? chosen ?? (await newestStep(storage)).step;
  const bad: BadChunk[] = [];
  const records = await readCommitRecords(storage, step, (file, error) => {
    bad.push({ file, tensor: null, chunk: 0, offset: 0, reason: error.message });
  });
  const found = records[0];
  if (found !== undefined) return new Verification(storage, found, bad, onProgress).run();
  if (bad.length === 0) await findCheckpoint(storage, step); // says why there is nothing
  return { uri: `${storage.uri}/${checkpointFolder(step)}`, state: null, bytes: 0, chunkCount: 0, bad };
}

class Verification {
  readonly #storage: Storage;
  readonly #recordName: string;
  readonly #record: CommitRecord;
  readonly #content: CheckpointContent;
  readonly #onProgress: VerifyProgress;
  readonly #bad: BadChunk[];
  /** Not in use at the moment. */
  readonly #buffers: Uint8Array[] = [];
  #bytesDone = 0;
  #bytesGood = 0;
  #chunkCount = 0;

  constructor(storage: Storage, found: FoundRecord, bad: BadChunk[], onProgress: VerifyProgress) {
    this.#storage = storage;
    this.#recordName = found.name;
    this.#record = found.record;
    this.#content = new CheckpointContent(storage, checkpointFolder(found.record.meta.state.step));
    this.#onProgress = onProgress;
    this.#bad = bad;
  }

  async run(): Promise<VerifyReport> {
    const record = this.#record;
    const writers = (
      await mapLimit(record.writers, READS_AT_ONCE, (_, writer) => this.#readWriter(writer))
    ).filter((each) => each !== null);
    // With every manifest at hand, they must also fit together.
    if (writers.length === record.writers.length)
      await this.#collect(this.#recordName, async () => void indexExtents(record, writers));
    for (const writer of writers) await this.#verifyWriter(writer);
    const order = (a: BadChunk, b: BadChunk) =>
      a.file < b.file ? -1 : a.file > b.file ? 1 : a.offset - b.offset;
    return {
      uri: `${this.#storage.uri}/${this.#content.folder}`,
      state: record.meta.state,
      bytes: this.#bytesGood,
      chunkCount: this.#chunkCount,
      bad: this.#bad.sort(order),
    };
  }

  async #readWriter(writer: number): Promise<WriterManifest | null> {
    let manifest: WriterManifest | null = null;
    const name = this.#record.writers[writer]!.manifest;
    await this.#collect(name, async () => {
      manifest = await readCommittedWriter(this.#storage, this.#record, writer);
    });
    return manifest;
  }

  async #verifyWriter({ file, intervals, generation, writer }: WriterManifest): Promise<void> {
    if (file === null) return;
    const name = dataName(generation, writer);
    const fault = await this.#collect(name, () => this.#content.requireFile(file));
    // A file that is missing or cut short has said everything; a changed header says nothing about the data.
    if (fault !== null && (await this.#storage.stat(`${this.#content.folder}/${name}`))?.bytes !== file.bytes)
      return;
    const chunks = intervals.flatMap((interval) => {
      const extent: StoredExtent = { ...interval, file };
      return Array.from({ length: chunkCount(interval.bytes) }, (_, chunk) => ({ extent, chunk }));
    });
    await mapLimit(chunks, READS_AT_ONCE, ({ extent, chunk }) => this.#verifyChunk(extent, chunk));
  }

  async #verifyChunk(extent: StoredExtent, chunk: number): Promise<void> {
    const length = this.#content.chunkLength(extent, chunk);
    const place = { tensor: extent.tensor, chunk, offset: this.#content.chunkOffset(extent, chunk) };
    const buffer = this.#buffers.pop() ?? new Uint8Array(CHUNK_BYTES);
    const read = () => this.#content.readChunk(extent, chunk, buffer.subarray(0, length));
    const fault = await this.#collect(extent.file.name, read, place);
    this.#buffers.push(buffer);
    this.#chunkCount++;
    if (fault === null) this.#bytesGood += length;
    this.#bytesDone += length;
    this.#onProgress({ bytesDone: this.#bytesDone, bytesTotal: this.#record.bytes });
  }

  /** Runs a check; what it finds corrupt, or cannot read, becomes part of the report. */
  async #collect(
    file: string,
    check: () => Promise<void>,
    place: { tensor: string | null; chunk: number; offset: number } = { tensor: null, chunk: 0, offset: 0 },
  ): Promise<GokuError | null> {
    try {
      await check();
      return null;
    } catch (error) {
      if (!(error instanceof GokuError)) throw error;
      this.#bad.push({ file, ...place, reason: error.message });
      return error;
    }
  }
}
