import { constants, type FileHandle, open } from "node:fs/promises";
import { type Disk, type DiskFile, diskFile, nodeDisk } from "./disk.js";
import { Turns } from "./turns.js";

/** What direct reads begin and end at, in the file and in memory: the largest block of disks and file systems. */
const BLOCK_BYTES = 4096;
/** WebAssembly's. */
const PAGE_BYTES = 65_536;
/** What is read at once: a MiB of a file, wherever it begins. */
const WINDOW_BYTES = 2 ** 20 + PAGE_BYTES;

/** What file systems without direct reads answer, at the open or at the first read. */
const NO_DIRECT = new Set(["EINVAL", "ENOTSUP", "EOPNOTSUPP"]);

/**
 * The machine's file system with reads that go past its page cache (O_DIRECT): they return what the disk, or the server of a network
 * file system, has, where others return for hours what this machine has written. Where that cannot be, reads are as everywhere.
 * Slower than others, and one at a time: for reading back, not for loading.
 */
export function directDisk(): Disk {
  const turns = new Turns(1);
  let window: Uint8Array | null = null;
  const read = (path: string, handle: FileHandle): DiskFile["read"] => {
    return (into, position) =>
      turns.take(async () => {
        window ??= alignedMemory(WINDOW_BYTES);
        try {
          return await readThrough(window, handle, into, position);
        } catch (error) {
          if (!isNoDirect(error)) throw error;
        }
        const file = await nodeDisk.openRead(path);
        try {
          return await file.read(into, position);
        } finally {
          await file.close();
        }
      });
  };
  const openRead = async (path: string): Promise<DiskFile> => {
    try {
      const handle = await open(path, constants.O_RDONLY | constants.O_DIRECT);
      return { ...diskFile(handle), read: read(path, handle) };
    } catch (error) {
      if (!isNoDirect(error)) throw error;
      return nodeDisk.openRead(path);
    }
  };
  return { ...nodeDisk, openRead };
}

/** What of it is used here: its types come with a browser's, which this is none of. */
const { Memory } = (
  globalThis as unknown as {
    WebAssembly: { Memory: new (pages: { initial: number; maximum: number }) => { buffer: ArrayBuffer } };
  }
).WebAssembly;

/** Buffers of Node lie anywhere; the memory of WebAssembly begins with a page of the machine's. */
function alignedMemory(bytes: number): Uint8Array {
  const pages = Math.ceil(bytes / PAGE_BYTES);
  return new Uint8Array(new Memory({ initial: pages, maximum: pages }).buffer);
}

/** Fills `into` from `position`; the count is short only at the end of the file. */
async function readThrough(
  window: Uint8Array,
  handle: FileHandle,
  into: Uint8Array,
  position: number,
): Promise<number> {
  let done = 0;
  while (done < into.byteLength) {
    const skip = (position + done) % BLOCK_BYTES;
    const wanted = Math.ceil((skip + into.byteLength - done) / BLOCK_BYTES) * BLOCK_BYTES;
    const length = Math.min(window.byteLength, wanted);
    const { bytesRead } = await handle.read(window, 0, length, position + done - skip);
    const bytes = window.subarray(skip, Math.min(bytesRead, skip + into.byteLength - done));
    if (bytes.byteLength === 0) break;
    into.set(bytes, done);
    done += bytes.byteLength;
  }
  return done;
}

function isNoDirect(error: unknown): boolean {
  return NO_DIRECT.has((error as NodeJS.ErrnoException).code ?? "");
}
