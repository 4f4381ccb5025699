import { type FileHandle, open } from "node:fs/promises";
import { crc32 } from "node:zlib";
import { GokuError } from "../job/errors.js";
import { CHUNK_BYTES } from "./digest.js";
import {
  readSnapshotHeader,
  type SnapshotExtent,
  type SnapshotHeader,
  snapshotChunks,
} from "./snapshot_page.js";

/**
 * Reads a whole snapshot MiB by MiB, each checked against its checksum before any of it is handed on. Made for reading
 * from front to back: the chunk read last is kept, so neighbouring ranges cost one read.
 */
export class SnapshotReader {
  readonly header: SnapshotHeader;
  readonly #file: FileHandle;
  /** What each checksum covers. */
  readonly #chunks: readonly SnapshotExtent[];
  #chunk: { index: number; bytes: Promise<Uint8Array> } | null = null;
  #next: { index: number; bytes: Promise<Uint8Array> } | null = null;
  /** Chunks take turns in these: one is being used, one being read. */
  readonly #buffers = [new Uint8Array(CHUNK_BYTES), new Uint8Array(CHUNK_BYTES)];

  private constructor(header: SnapshotHeader, file: FileHandle) {
    this.header = header;
    this.#file = file;
    this.#chunks = snapshotChunks(header);
  }

  /** SNAPSHOT_MISSING when there is no whole snapshot at `path`. */
  static async open(path: string): Promise<SnapshotReader> {
    const header = readSnapshotHeader(path);
    if (header === null)
      throw new GokuError("SNAPSHOT_MISSING", `Cannot read snapshot ${path}: it is missing or not whole`);
    return new SnapshotReader(header, await open(path, "r"));
  }

  /**
   * Bytes [byteOffset, byteOffset+length) of the file, which lie in one entry, in parts of at most 1 MiB that lie inside
   * one chunk. A part is overwritten once another chunk is asked for.
   */
  async *read(byteOffset: number, length: number): AsyncGenerator<Uint8Array> {
    const end = byteOffset + length;
    for (let at = byteOffset, index = this.#chunkAt(byteOffset); at < end; index++) {
      const chunk = this.#chunks[index];
      if (chunk === undefined || at < chunk.byteOffset || at >= chunk.byteOffset + chunk.bytes)
        throw new RangeError(`read: bytes ${at} to ${end} are not of one entry`);
      const until = Math.min(end, chunk.byteOffset + chunk.bytes);
      yield (await this.#load(index)).subarray(at - chunk.byteOffset, until - chunk.byteOffset);
      at = until;
    }
  }

  /** Whole chunks, by their place in the table of checksums. One is overwritten once another is asked for. */
  async *chunks(indexes: Iterable<number>): AsyncGenerator<{ index: number; bytes: Uint8Array }> {
    for (const index of indexes) {
      if (this.#chunks[index] === undefined)
        throw new RangeError(`chunks: ${index} of ${this.#chunks.length}`);
      yield { index, bytes: await this.#load(index) };
    }
  }

  /** The last chunk that begins at this byte or before; -1: none. */
  #chunkAt(byteOffset: number): number {
    let [low, high] = [-1, this.#chunks.length];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.#chunks[middle]!.byteOffset <= byteOffset) low = middle;
      else high = middle;
    }
    return low;
  }

  /** Throws when the page was overwritten since it was opened, so that what was read is of no state. */
  requireUnchanged(): void {
    const now = readSnapshotHeader(this.header.path);
    if (now?.sequence === this.header.sequence) return;
    throw new GokuError(
      "SNAPSHOT_MISSING",
      `Cannot read snapshot ${this.header.path}: it was overwritten meanwhile, its slot must stay pinned`,
    );
  }

  async close(): Promise<void> {
    // A read ahead that nobody waits for must not outlive the file, nor become an unhandled rejection.
    await Promise.allSettled([this.#chunk?.bytes, this.#next?.bytes]);
    await this.#file.close();
  }

  /** Reads one chunk, and starts the next, so that reading overlaps with whatever the caller does with this one. */
  async #load(index: number): Promise<Uint8Array> {
    if (this.#chunk?.index !== index) {
      // A read ahead that turns out not to be wanted still owns its buffer until it ends.
      if (this.#next?.index !== index) await this.#next?.bytes.catch(() => {});
      this.#chunk = this.#next?.index === index ? this.#next : { index, bytes: this.#readChunk(index) };
      const ahead = index + 1;
      if (ahead < this.#chunks.length) {
        this.#next = { index: ahead, bytes: this.#readChunk(ahead) };
        this.#next.bytes.catch(() => {}); // reported when it is asked for
      } else this.#next = null;
    }
    return this.#chunk.bytes;
  }

  async #readChunk(index: number): Promise<Uint8Array> {
    const { path, bytes: fileBytes, checksums } = this.header;
    const chunk = this.#chunks[index]!;
    const start = chunk.byteOffset;
    const bytes = this.#buffers[index % 2]!.subarray(0, chunk.bytes);
    for (let done = 0; done < bytes.byteLength; ) {
      const { bytesRead } = await this.#file.read(bytes, done, bytes.byteLength - done, start + done);
      if (bytesRead === 0)
        throw new GokuError(
          "SNAPSHOT_MISSING",
          `Cannot read snapshot ${path}: it ends at byte ${start + done} of ${fileBytes}`,
        );
      done += bytesRead;
    }
    if (crc32(bytes) !== checksums[index]) {
      throw new GokuError(
        "CHECKPOINT_CORRUPT",
        `Cannot use snapshot ${path}: ${bytes.byteLength} bytes at ${start} differ from their checksum, take the state from elsewhere`,
      );
    }
    return bytes;
  }
}

/**
 * Reads the content against its checksums, for an agent that adopts a snapshot or a rank that restores from it.
 * Null: whole and unharmed; otherwise what is wrong, in one line.
 */
export async function verifySnapshot(path: string): Promise<string | null> {
  let reader: SnapshotReader | null = null;
  try {
    reader = await SnapshotReader.open(path);
    for (const { byteOffset, bytes } of reader.header.entries) {
      const data = reader.read(byteOffset, bytes);
      while (!(await data.next()).done);
    }
    reader.requireUnchanged();
    return null;
  } catch (error) {
    if (error instanceof GokuError) return error.message;
    return `Cannot read snapshot ${path}: ${(error as Error).message}`;
  } finally {
    await reader?.close();
  }
}
