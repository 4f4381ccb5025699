import { type FileHandle, link, mkdir, open, readdir, rename, rmdir, stat, unlink } from "node:fs/promises";
import { Turns } from "./turns.js";

/** An open file. Positions are bytes. */
export interface DiskFile {
  /** Writes all of `bytes` at `position`. */
  write(bytes: Uint8Array, position: number): Promise<void>;
  /** Fills `into` from `position`; the count is short only at the end of the file. */
  read(into: Uint8Array, position: number): Promise<number>;
  /** Makes what was written durable; the name is made durable by `Disk.syncFolder`. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

export interface DiskStat {
  kind: "file" | "folder" | "other";
  bytes: number;
  inode: bigint;
  links: number;
}

/**
 * The few system calls that file storage makes, with POSIX's meaning: a name may be lost until its folder is synced,
 * bytes until their file is. Errors carry the usual `code` ("ENOENT", "EEXIST", "ENOSPC"). Tests put a disk here that
 * logs every operation and forgets what was not synced.
 */
export interface Disk {
  /** A new file; EEXIST when the name is taken. */
  create(path: string): Promise<DiskFile>;
  openRead(path: string): Promise<DiskFile>;
  rename(from: string, to: string): Promise<void>;
  /** A second name for a file; EEXIST when the name is taken. */
  link(from: string, to: string): Promise<void>;
  unlink(path: string): Promise<void>;
  makeFolder(path: string): Promise<void>;
  removeFolder(path: string): Promise<void>;
  listFolder(path: string): Promise<{ name: string; folder: boolean }[]>;
  /** Null when nothing has that name. */
  stat(path: string): Promise<DiskStat | null>;
  syncFolder(path: string): Promise<void>;
}

/**
 * A sync keeps its thread until the disk has taken all, and reads and writes wait for one of the same four of libuv's:
 * were every rank's file synced at once, nothing would be left to fill the next blocks.
 */
const SYNCS_AT_ONCE = 2;
const syncTurns = new Turns(SYNCS_AT_ONCE);

/** The machine's own file system. */
export const nodeDisk: Disk = {
  create: async (path) => diskFile(await open(path, "wx", 0o644)),
  openRead: async (path) => diskFile(await open(path, "r")),
  rename,
  link,
  unlink,
  makeFolder: async (path) => {
    await mkdir(path);
  },
  removeFolder: rmdir,
  listFolder: async (path) => {
    const entries = await readdir(path, { withFileTypes: true });
    return entries.map((entry) => ({ name: entry.name, folder: entry.isDirectory() }));
  },
  stat: async (path) => {
    try {
      const found = await stat(path, { bigint: true });
      const kind = found.isFile() ? "file" : found.isDirectory() ? "folder" : "other";
      return { kind, bytes: Number(found.size), inode: found.ino, links: Number(found.nlink) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
      throw error;
    }
  },
  syncFolder: async (path) => {
    const handle = await open(path, "r");
    try {
      await handle.sync();
    } catch (error) {
      // Some network file systems cannot sync a folder: there the server makes names durable before it answers.
      if (!["EINVAL", "ENOTSUP", "EOPNOTSUPP"].includes((error as NodeJS.ErrnoException).code ?? ""))
        throw error;
    } finally {
      await handle.close();
    }
  },
};

export function diskFile(handle: FileHandle): DiskFile {
  return {
    write: async (bytes, position) => {
      for (let done = 0; done < bytes.byteLength; ) {
        done += (await handle.write(bytes, done, bytes.byteLength - done, position + done)).bytesWritten;
      }
    },
    read: async (into, position) => {
      let done = 0;
      while (done < into.byteLength) {
        const { bytesRead } = await handle.read(into, done, into.byteLength - done, position + done);
        if (bytesRead === 0) break;
        done += bytesRead;
      }
      return done;
    },
    sync: () => syncTurns.take(() => handle.sync()),
    close: () => handle.close(),
  };
}
