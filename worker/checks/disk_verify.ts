import { createHash } from "node:crypto";
import {
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  openSync,
  readSync,
  rmSync,
  statfsSync,
  writeSync,
} from "node:fs";
import path from "node:path";
import type { Native } from "../engine/native.js";
import { failpoint } from "../failpoints.js";
import type { Finding } from "./finding.js";

/** Written a MiB at a time, until the budget is used or so much is there. */
const CHUNK_BYTES = 2 ** 20;
const CHUNK_COUNT_MAX = 256;
/** Type of a file system that lies in memory; statfs(2). */
const TMPFS = 0x01021994;
/** What must be left to others. */
const FREE_BYTES_MIN = 64 * 2 ** 20;

/**
 * Writes a file that has no name any more, syncs it, reads it back and compares digests: a disk that is full, read-only or
 * failing, and one that returns other bytes. Reads go past the page cache where the file system can do that (O_DIRECT).
 * The folder need not exist: its nearest parent that does is used, and nothing is created there.
 * @param folder what the file is written for
 */
export function checkDisk(
  native: Native,
  { folder, budgetMs, scratch }: { folder: string; budgetMs: number; scratch: string },
): Finding {
  const place = nearestFolder(folder);
  const page = `${path.join(scratch, "selfcheck")}.${process.pid}.page`;
  // Pages of the addon are aligned as direct reads want them.
  const buffer = native.pageMap(page, CHUNK_BYTES);
  rmSync(page, { force: true });
  let file: number | null = null;
  try {
    const room = statfsSync(place);
    const chunksFree = Math.floor((room.bavail * room.bsize - FREE_BYTES_MIN) / CHUNK_BYTES);
    if (chunksFree < 1)
      return failed(
        `${place} has ${mib(room.bavail * room.bsize)} MiB left, want more than ${mib(FREE_BYTES_MIN)}`,
      );
    file = openNameless(place);
    const written = write(file, buffer, Math.min(CHUNK_COUNT_MAX, chunksFree), budgetMs / 2);
    if (failpoint("selfcheck.disk") === "flip") flipBit(file, written.digests.length);
    const read = verify(file, buffer, written.digests);
    if (read.wrong !== null)
      return failed(
        `MiB ${read.wrong} of ${written.digests.length} written to ${place} came back with other bytes`,
      );
    const cached = read.direct ? "read past the page cache" : "read from the page cache";
    const how = room.type === TMPFS ? "in memory" : cached;
    const value = (written.digests.length * CHUNK_BYTES) / written.ms / 1e3;
    return {
      ok: true,
      value,
      unit: "MB/s",
      detail: `${written.digests.length} MiB in ${place}, synced, ${how}`,
    };
  } catch (error) {
    return failed(`${place}: ${(error as Error).message}`);
  } finally {
    if (file !== null) closeSync(file);
    native.pageUnmap(buffer);
  }
}

function failed(detail: string): Finding {
  return { ok: false, value: 0, unit: "MB/s", detail };
}

function mib(bytes: number): number {
  return Math.floor(bytes / 2 ** 20);
}

function nearestFolder(folder: string): string {
  let place = path.resolve(folder);
  while (!existsSync(place) && place !== path.dirname(place)) place = path.dirname(place);
  return place;
}

/** A checker that is killed leaves nothing behind. */
function openNameless(place: string): number {
  const file = path.join(place, `.goku-selfcheck-${process.pid}-${performance.now()}`);
  const handle = openSync(file, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
  rmSync(file);
  return handle;
}

/** Each chunk differs from the others. The time is that of the writes and the sync. */
function write(file: number, buffer: Uint8Array, chunksMax: number, budgetMs: number) {
  const words = new Uint32Array(buffer.buffer, buffer.byteOffset, buffer.byteLength / 4);
  const digests: string[] = [];
  const begunMs = performance.now();
  let ms = 0;
  const timed = (write: () => void) => {
    const startMs = performance.now();
    write();
    ms += performance.now() - startMs;
  };
  do {
    const salt = Math.imul(digests.length + 1, 0x9e3779b9);
    for (let i = 0; i < words.length; i++) words[i] = Math.imul(i ^ salt, 0x85ebca6b);
    digests.push(digestOf(buffer));
    timed(() => {
      for (let done = 0; done < CHUNK_BYTES; ) done += writeSync(file, buffer, done);
    });
  } while (digests.length < chunksMax && performance.now() - begunMs < budgetMs);
  timed(() => fsyncSync(file));
  return { digests, ms };
}

function verify(file: number, buffer: Uint8Array, digests: readonly string[]) {
  const { handle, direct } = openAgain(file);
  try {
    for (const [i, digest] of digests.entries()) {
      buffer.fill(0);
      const count = readSync(handle, buffer, 0, CHUNK_BYTES, i * CHUNK_BYTES);
      if (count !== CHUNK_BYTES || digestOf(buffer) !== digest) return { wrong: i, direct };
    }
    return { wrong: null, direct };
  } finally {
    closeSync(handle);
  }
}

/** A tmpfs, for example, has no direct reads: there memory is what is read in any case. */
function openAgain(file: number): { handle: number; direct: boolean } {
  const again = `/proc/self/fd/${file}`;
  try {
    return { handle: openSync(again, constants.O_RDONLY | constants.O_DIRECT), direct: true };
  } catch {
    return { handle: openSync(again, constants.O_RDONLY), direct: false };
  }
}

function flipBit(file: number, chunks: number): void {
  const at = (chunks - 1) * CHUNK_BYTES + 12_345;
  const byte = Buffer.alloc(1);
  readSync(file, byte, 0, 1, at);
  byte[0]! ^= 1;
  writeSync(file, byte, 0, 1, at);
  fsyncSync(file);
}

function digestOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
