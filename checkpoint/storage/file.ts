import { randomBytes } from "node:crypto";
import path from "node:path";
import { GokuError } from "../../job/errors.js";
import { mapLimit } from "../map_limit.js";
import { type Disk, type DiskFile, nodeDisk } from "./disk.js";
import { isKeySegment, keySegments, type Storage, type StorageEntry } from "./storage.js";

/** Names of unfinished writes: ".<target>.<unique>.tmp". Keys never begin with a dot. */
const UNFINISHED = /^\.(.+)\.[0-9a-f]+\.tmp$/;

/**
 * So much is handed to the disk while the next is made: else all of a large file would wait in memory for its end, and its
 * writer for the disk.
 */
const SYNC_BYTES = 32 << 20;

/** Sizes asked for at once in a listing: on a network file system each is a round trip. */
const STATS_AT_ONCE = 16;

/** What link() answers where there are no hard links, for example on FAT. */
const NO_LINKS = new Set(["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK"]);

/**
 * Storage in a folder of a local or shared file system. A key is written under an unfinished name, synced, and then
 * renamed (writeFile) or linked (createExclusive, because link refuses a taken name and rename does not); the folder is
 * synced last. Each write has its own unfinished name: two processes that write one key never mix their bytes.
 */
export class FileStorage implements Storage {
  readonly uri: string;
  readonly #root: string;
  readonly #disk: Disk;

  /** @param root folder, absolute or relative to the working directory; made by the first write. */
  constructor(root: string, uri: string, disk: Disk = nodeDisk) {
    this.uri = uri;
    this.#root = path.resolve(root);
    this.#disk = disk;
  }

  async writeFile(
    key: string,
    chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  ): Promise<StorageEntry> {
    const target = this.#path(key);
    return this.#guard("write", key, async () => {
      const { unfinished, bytes } = await this.#writeUnfinished(target, chunks, { makeFolder: true });
      try {
        await this.#disk.rename(unfinished, target);
      } catch (error) {
        await this.#discard(unfinished);
        throw error;
      }
      await this.#disk.syncFolder(path.dirname(target));
      return { key, bytes };
    });
  }

  async createExclusive(key: string, bytes: Uint8Array): Promise<boolean> {
    const target = this.#path(key);
    const folder = path.dirname(target);
    return this.#guard("create", key, async () => {
      // A folder that is gone was pruned with what this key is to name: it must not come back for the key alone.
      const { unfinished } = await this.#writeUnfinished(target, [bytes], { makeFolder: false });
      try {
        // What others have written may be visible without being durable yet; the new key must never outlive it.
        for (let up = folder; up !== path.dirname(this.#root); up = path.dirname(up))
          await this.#disk.syncFolder(up);
        await this.#disk.syncFolder(path.dirname(this.#root));
        return await this.#linkNew(unfinished, target);
      } finally {
        await this.#discard(unfinished);
        await this.#disk.syncFolder(folder);
      }
    });
  }

  async read(key: string, offset: number, into: Uint8Array): Promise<void> {
    await this.#withFile(key, async (file) => {
      const count = await file.read(into, offset);
      if (count === into.byteLength) return;
      const ends = `it ends at byte ${offset + count}, want ${offset + into.byteLength}`;
      throw new GokuError("STORAGE_FAILED", `Cannot read ${key} under ${this.uri}: ${ends}`);
    });
  }

  async readFile(key: string, bytesMax: number): Promise<Uint8Array> {
    const found = await this.stat(key);
    if (found === null) throw this.#error("read", key, { code: "ENOENT" });
    if (found.bytes > bytesMax) {
      throw new GokuError(
        "STORAGE_FAILED",
        `Cannot read ${key} under ${this.uri}: ${found.bytes} bytes, want at most ${bytesMax}`,
      );
    }
    const bytes = new Uint8Array(found.bytes);
    await this.read(key, 0, bytes);
    return bytes;
  }

  async list(prefix: string): Promise<StorageEntry[]> {
    const found: StorageEntry[] = [];
    const visit = async (within: string): Promise<void> => {
      const entries = (await this.#folder(within)).filter(({ name }) => isKeySegment(name));
      await mapLimit(entries, STATS_AT_ONCE, async ({ name, folder }) => {
        const file = folder ? null : await this.stat(within + name);
        if (file !== null) found.push(file);
      });
      for (const { name, folder } of entries) if (folder) await visit(`${within}${name}/`);
    };
    await visit(prefix);
    return found.sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  async folders(prefix: string): Promise<string[]> {
    const entries = await this.#folder(prefix);
    return entries
      .filter((entry) => entry.folder && isKeySegment(entry.name))
      .map((entry) => entry.name)
      .sort();
  }

  async stat(key: string): Promise<StorageEntry | null> {
    const target = this.#path(key);
    return this.#guard("look up", key, async () => {
      const found = await this.#disk.stat(target);
      return found?.kind === "file" ? { key, bytes: found.bytes } : null;
    });
  }

  async delete(keys: readonly string[]): Promise<void> {
    const folders = new Set<string>();
    for (const key of keys) {
      const target = this.#path(key);
      if (await this.#guard("delete", key, () => this.#unlink(target))) folders.add(path.dirname(target));
    }
    for (const folder of folders) await this.#guard("delete", keys[0]!, () => this.#disk.syncFolder(folder));
  }

  async removeFolder(prefix: string): Promise<void> {
    const folder = this.#path(prefix.replace(/\/$/, ""));
    await this.#guard("delete", prefix, async () => {
      await ignoring(["ENOENT", "ENOTEMPTY", "EEXIST"], () => this.#disk.removeFolder(folder));
      await ignoring(["ENOENT"], () => this.#disk.syncFolder(path.dirname(folder)));
    });
  }

  async removeUnfinished(prefix: string, choose: (target: string) => boolean): Promise<number> {
    let count = 0;
    for (const entry of await this.#folder(prefix)) {
      const target = UNFINISHED.exec(entry.name)?.[1];
      if (target === undefined || entry.folder || !choose(prefix + target)) continue;
      const gone = await this.#guard("delete", prefix + entry.name, () =>
        this.#unlink(path.join(this.#root, prefix, entry.name)),
      );
      if (gone) count++;
    }
    return count;
  }

  #path(key: string): string {
    return path.join(this.#root, ...keySegments(key));
  }

  /** Entries of a folder under the root; empty when it is not there. */
  #folder(prefix: string): Promise<{ name: string; folder: boolean }[]> {
    const folder = prefix === "" ? this.#root : this.#path(prefix.replace(/\/$/, ""));
    return this.#guard("list", prefix, () => this.#listOrEmpty(folder));
  }

  async #listOrEmpty(folder: string): Promise<{ name: string; folder: boolean }[]> {
    try {
      return await this.#disk.listFolder(folder);
    } catch (error) {
      if (["ENOENT", "ENOTDIR"].includes(errno(error))) return [];
      throw error;
    }
  }

  /** Makes a folder and what is missing above it; each new name is durable before anything is put inside. */
  async #ensureFolder(folder: string): Promise<void> {
    if ((await this.#disk.stat(folder)) !== null) return;
    const above = path.dirname(folder);
    await this.#ensureFolder(above);
    await ignoring(["EEXIST"], () => this.#disk.makeFolder(folder));
    await this.#disk.syncFolder(above);
  }

  async #writeUnfinished(
    target: string,
    chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
    { makeFolder }: { makeFolder: boolean },
  ): Promise<{ unfinished: string; bytes: number }> {
    const unique = randomBytes(8).toString("hex");
    const unfinished = path.join(path.dirname(target), `.${path.basename(target)}.${unique}.tmp`);
    const file = makeFolder
      ? await this.#createIn(path.dirname(target), unfinished)
      : await this.#disk.create(unfinished);
    let bytes = 0;
    let synced = 0;
    let syncing = Promise.resolve();
    try {
      try {
        for await (const chunk of chunks) {
          await file.write(chunk, bytes);
          bytes += chunk.byteLength;
          if (bytes - synced < SYNC_BYTES) continue;
          await syncing;
          synced = bytes;
          syncing = file.sync();
          syncing.catch(() => {}); // told by the next wait
        }
        await syncing;
        await file.sync();
      } finally {
        await syncing.catch(() => {}); // the file must stay open for it
        await file.close();
      }
    } catch (error) {
      await this.#discard(unfinished);
      throw error;
    }
    return { unfinished, bytes };
  }

  /** Twice, because a folder that is empty may be swept away between its making and its use. */
  async #createIn(folder: string, unfinished: string): Promise<DiskFile> {
    await this.#ensureFolder(folder);
    try {
      return await this.#disk.create(unfinished);
    } catch (error) {
      if (errno(error) !== "ENOENT") throw error;
      await this.#ensureFolder(folder);
      return this.#disk.create(unfinished);
    }
  }

  /** False when the name is taken. A repeated request may answer EEXIST for our own success (NFS): the inode tells. */
  async #linkNew(unfinished: string, target: string): Promise<boolean> {
    try {
      await this.#disk.link(unfinished, target);
      return true;
    } catch (error) {
      if (NO_LINKS.has(errno(error))) {
        const doing = `Cannot commit under ${this.uri}`;
        const what = `its file system has no hard links (${errno(error)}), put checkpoint.uri on one that has`;
        throw new GokuError("STORAGE_FAILED", `${doing}: ${what}`, { cause: error });
      }
      if (errno(error) !== "EEXIST") throw error;
      const [ours, theirs] = await Promise.all([this.#disk.stat(unfinished), this.#disk.stat(target)]);
      return ours !== null && theirs !== null && ours.links > 1 && ours.inode === theirs.inode;
    }
  }

  /** Best effort: an unfinished name that stays is swept with its folder. */
  async #discard(unfinished: string): Promise<void> {
    try {
      await this.#disk.unlink(unfinished);
    } catch {
      // The disk that refused the write may refuse this as well; the first error is the one to report.
    }
  }

  async #unlink(target: string): Promise<boolean> {
    try {
      await this.#disk.unlink(target);
      return true;
    } catch (error) {
      if (errno(error) === "ENOENT") return false;
      throw error;
    }
  }

  async #withFile<T>(key: string, use: (file: DiskFile) => Promise<T>): Promise<T> {
    const target = this.#path(key);
    return this.#guard("read", key, async () => {
      const file = await this.#disk.openRead(target);
      try {
        return await use(file);
      } finally {
        await file.close();
      }
    });
  }

  async #guard<T>(action: string, key: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw this.#error(action, key, error);
    }
  }

  #error(action: string, key: string, error: unknown): GokuError {
    if (error instanceof GokuError) return error;
    const doing = `Cannot ${action} ${key} under ${this.uri}`;
    const code = errno(error);
    switch (code) {
      case "ENOSPC":
      case "EDQUOT":
        return new GokuError(
          "STORAGE_FULL",
          `${doing}: no space left (${code}), free some there or lower checkpoint.keep_last`,
          {
            cause: error,
          },
        );
      case "ENOENT":
        return new GokuError("NOT_FOUND", `${doing}: there is no such file, check the path`, {
          cause: error,
        });
      case "EACCES":
      case "EPERM":
      case "EROFS":
        return new GokuError(
          "STORAGE_FAILED",
          `${doing}: not permitted (${code}), check the owner and the mount of the folder`,
          {
            cause: error,
          },
        );
      default:
        return new GokuError(
          "STORAGE_FAILED",
          `${doing}: ${code || String(error)}, check the disk or the mount`,
          { cause: error },
        );
    }
  }
}

function errno(error: unknown): string {
  return (error as NodeJS.ErrnoException | null)?.code ?? "";
}

async function ignoring(codes: readonly string[], work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!codes.includes(errno(error))) throw error;
  }
}
