import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { crc32 } from "node:zlib";
import { GokuError } from "../job/errors.js";
import {
  headParts,
  parseSnapshotHead,
  type SnapshotExtent,
  type SnapshotHeader,
  sameSnapshot,
  snapshotChunks,
} from "./snapshot_page.js";

/**
 * A copy of a snapshot of another node, chunk by chunk, each checked before it is kept. The file holds nothing whole from
 * `open` to `seal`; a copy that was cut off goes on where it was, as long as this object lives.
 */
export class SnapshotCopy {
  readonly header: SnapshotHeader;
  readonly #head: Uint8Array;
  readonly #file: FileHandle;
  readonly #extents: readonly SnapshotExtent[];
  #count = 0;

  private constructor(header: SnapshotHeader, head: Uint8Array, file: FileHandle) {
    this.header = header;
    this.#head = head;
    this.#file = file;
    this.#extents = snapshotChunks(header);
  }

  /** Overwrites what is at `path`. SNAPSHOT_MISSING where the head is of no whole snapshot, NATIVE_IO without memory. */
  static async open(path: string, head: Uint8Array): Promise<SnapshotCopy> {
    const header = parseSnapshotHead(path, head);
    if (header === null)
      throw new GokuError("SNAPSHOT_MISSING", `Cannot copy a snapshot to ${path}: its head is damaged`);
    return asNativeIo(`Cannot copy a snapshot to ${path}`, async () => {
      const file = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600);
      try {
        await file.truncate(0); // before anything else, so that the old flag never stands over new bytes
        await file.truncate(header.bytes);
      } catch (error) {
        await file.close();
        throw error;
      }
      return new SnapshotCopy(header, head, file);
    });
  }

  isOf(head: Uint8Array): boolean {
    return sameSnapshot(this.#head, head);
  }

  /** Chunks from the first on that are here and checked. */
  get count(): number {
    return this.#count;
  }

  get complete(): boolean {
    return this.#count === this.#extents.length;
  }

  /** The next chunk. CHECKPOINT_CORRUPT where it differs from its checksum, ARGUMENT_INVALID where it is not the next. */
  async write(index: number, bytes: Uint8Array): Promise<void> {
    const extent = this.#extents[this.#count];
    const doing = `Cannot copy a snapshot to ${this.header.path}`;
    if (extent === undefined || index !== this.#count || bytes.byteLength !== extent.bytes) {
      const wanted = extent === undefined ? "none" : `chunk ${this.#count} of ${extent.bytes} bytes`;
      throw new GokuError(
        "ARGUMENT_INVALID",
        `${doing}: got chunk ${index} of ${bytes.byteLength} bytes, want ${wanted}`,
      );
    }
    if (crc32(bytes) !== this.header.checksums[index]) {
      throw new GokuError(
        "CHECKPOINT_CORRUPT",
        `${doing}: chunk ${index} differs from its checksum, send it again`,
      );
    }
    await asNativeIo(doing, () => writeAt(this.#file, bytes, extent.byteOffset));
    this.#count++;
  }

  /** Makes it whole. */
  async seal(): Promise<void> {
    if (!this.complete) throw new TypeError("SnapshotCopy: chunks are missing");
    await asNativeIo(`Cannot copy a snapshot to ${this.header.path}`, async () => {
      for (const { position, bytes } of headParts(this.#head)) await writeAt(this.#file, bytes, position);
    });
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

async function writeAt(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.byteLength - done, position + done);
    done += bytesWritten;
  }
}

async function asNativeIo<T>(doing: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw new GokuError("NATIVE_IO", `${doing}: ${(error as Error).message}`, { cause: error });
  }
}
