import { GokuError } from "../job/errors.js";
import { CHUNK_BYTES, digestOf } from "./digest.js";
import type { CommitRecord, DataFile, StoredInterval, WriterManifest } from "./manifest.js";
import { checkpointFolder } from "./names.js";
import { coverageFault } from "./plan.js";
import type { Storage } from "./storage/storage.js";

/** An interval with the file that holds it; one tensor's extents, sorted by start, cover it exactly once. */
export interface StoredExtent extends StoredInterval {
  file: DataFile;
}

/** Extents of every tensor. CHECKPOINT_CORRUPT unless the writers cover every element exactly once. */
export function indexExtents(
  record: CommitRecord,
  writers: readonly WriterManifest[],
): Map<string, StoredExtent[]> {
  const corrupt = (what: string) =>
    new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${checkpointFolder(record.meta.state.step)}: ${what}`);
  const extents = new Map<string, StoredExtent[]>();
  for (const { name } of record.parameters)
    for (const kind of record.kinds) extents.set(`${kind}/${name}`, []);
  let bytes = 0;
  for (const { writer, file, intervals } of writers) {
    for (const interval of intervals) {
      const known = extents.get(interval.tensor);
      if (known === undefined || file === null)
        throw corrupt(
          `writer ${writer} holds ${interval.tensor.slice(0, 200)}, which is none of its tensors`,
        );
      known.push({ ...interval, file });
      bytes += interval.bytes;
    }
  }
  for (const { name, count } of record.parameters) {
    for (const kind of record.kinds) {
      const own = extents.get(`${kind}/${name}`)!;
      const fault = coverageFault(own, count);
      if (fault !== null) throw corrupt(`of ${kind}/${name} ${fault}`);
      own.sort((a, b) => a.start - b.start);
    }
  }
  if (bytes !== record.bytes)
    throw corrupt(`its writers hold ${bytes} bytes, its commit record says ${record.bytes}`);
  return extents;
}

/** Reads the data files of one checkpoint. Nothing is handed out that was not compared with its digest. */
export class CheckpointContent {
  readonly folder: string;
  readonly #storage: Storage;
  readonly #sizes = new Map<string, Promise<void>>();
  readonly #headers = new Map<string, Promise<void>>();

  constructor(storage: Storage, folder: string) {
    this.#storage = storage;
    this.folder = folder;
  }

  /** Size and header of a data file, looked at once. CHECKPOINT_CORRUPT when they are not as they were written. */
  async requireFile(file: DataFile): Promise<void> {
    await this.requireSize(file);
    await once(this.#headers, file, () => this.#checkHeader(file));
  }

  /** The size alone. */
  requireSize(file: DataFile): Promise<void> {
    return once(this.#sizes, file, () => this.#checkSize(file));
  }

  async #checkSize(file: DataFile): Promise<void> {
    const key = `${this.folder}/${file.name}`;
    const found = (await this.#storage.stat(key))?.bytes ?? null;
    if (found === null) throw corrupt(key, "the file is missing, though it was committed");
    if (found !== file.bytes) throw corrupt(key, `the file has ${found} bytes, want ${file.bytes}`);
  }

  async #checkHeader(file: DataFile): Promise<void> {
    const key = `${this.folder}/${file.name}`;
    const header = new Uint8Array(file.headerBytes);
    await this.#storage.read(key, 0, header);
    if (digestOf(header) !== file.headerDigest) throw corrupt(key, "its header differs from its digest");
  }

  chunkOffset(extent: StoredExtent, chunk: number): number {
    return extent.offset + chunk * CHUNK_BYTES;
  }

  chunkLength(extent: StoredExtent, chunk: number): number {
    return Math.min(CHUNK_BYTES, extent.bytes - chunk * CHUNK_BYTES);
  }

  /** Fills `into` (of chunkLength bytes) with MiB `chunk` of an extent; CHECKPOINT_CORRUPT names file, tensor and chunk. */
  readChunk(extent: StoredExtent, chunk: number, into: Uint8Array): Promise<void> {
    return this.readRun([{ extent, chunk }], into);
  }

  /** The same for chunks that follow one another in a file, with one request. */
  async readRun(run: readonly { extent: StoredExtent; chunk: number }[], into: Uint8Array): Promise<void> {
    const first = run[0]!;
    const key = `${this.folder}/${first.extent.file.name}`;
    const begin = this.chunkOffset(first.extent, first.chunk);
    await this.#storage.read(key, begin, into);
    for (const { extent, chunk } of run) {
      const offset = this.chunkOffset(extent, chunk);
      const bytes = into.subarray(offset - begin, offset - begin + this.chunkLength(extent, chunk));
      if (digestOf(bytes) === extent.digests[chunk]) continue;
      throw corrupt(
        key,
        `MiB ${chunk} of ${extent.tensor} (bytes ${offset} to ${offset + bytes.byteLength}) differs from its digest`,
      );
    }
  }
}

function once(known: Map<string, Promise<void>>, file: DataFile, look: () => Promise<void>): Promise<void> {
  let looked = known.get(file.name);
  if (looked === undefined) {
    looked = look();
    known.set(file.name, looked);
  }
  return looked;
}

function corrupt(key: string, what: string): GokuError {
  return new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${key}: ${what}, restore from an older checkpoint`);
}
