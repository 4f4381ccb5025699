import { open, readdir, rename, stat, unlink, utimes } from "node:fs/promises";
import { join } from "node:path";
import {
  type DataIndex,
  type IndexSettings,
  indexDirectory,
  readIndex,
  settingsDigest,
} from "./data_index.js";

/** Indexes kept for each set of settings, those opened last: a run whose data was indexed anew so often since cannot recover. */
const INDEXES_KEPT = 8;

export interface BuiltIndex {
  index: DataIndex;
  /** The media folder, absolute. */
  directory: string;
  indexPath: string;
  storePath: string;
  /** False when an index that was there is still right. */
  built: boolean;
}

/**
 * The indexes of a media folder under one set of settings, each with its store of encoded samples:
 *
 *   index-<settings>-<tree>-<digest>.json     latents-<settings>-<digest>.f32
 *
 * `tree` stands for names, sizes and times of the files as they were scanned, `digest` for what the samples hold. A new run
 * asks for the tree that it finds; one that goes on asks for the digest that its state pins, whatever has become of the files.
 */
export class IndexFolder {
  private constructor(
    readonly directory: string,
    readonly settings: IndexSettings,
    private readonly folder: string,
    private readonly name: string, // settings digest
  ) {}

  static async open(directory: string, settings: IndexSettings): Promise<IndexFolder> {
    return new IndexFolder(directory, settings, await indexDirectory(directory), settingsDigest(settings));
  }

  get lockPath(): string {
    return join(this.folder, `index-${this.name}.lock`);
  }

  get temporaryPath(): string {
    return join(this.folder, `index-${this.name}.${process.pid}.tmp`);
  }

  storeName(digest: string): string {
    return `latents-${this.name}-${short(digest)}.f32`;
  }

  /** The index of just these files, with its store. */
  async ofTree(treeDigest: string): Promise<BuiltIndex | null> {
    const found = await this.newest((tree) => tree === short(treeDigest));
    if (found?.index.treeDigest !== treeDigest) return null;
    const stored = found.index.samples.some(({ storeOffset }) => storeOffset >= 0);
    if (stored && !(await stat(found.storePath).catch(() => null))) return null; // someone removed the store
    return found;
  }

  /** The index with this digest; where its store has gone, media are decoded. */
  async ofDigest(digest: string): Promise<BuiltIndex | null> {
    const found = await this.newest((_tree, content) => content === short(digest));
    return found?.index.digest === digest ? found : null;
  }

  /** The store first, then the index that names it: whoever reads the index finds a whole store. */
  async publish(index: DataIndex, files: { temporary: string; storeTemporary: string }): Promise<BuiltIndex> {
    const indexPath = join(
      this.folder,
      `index-${this.name}-${short(index.treeDigest)}-${short(index.digest)}.json`,
    );
    const found = this.opened(index, indexPath);
    await rename(files.storeTemporary, found.storePath);
    const file = await open(files.temporary, "w");
    try {
      await file.writeFile(JSON.stringify(index));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(files.temporary, indexPath);
    await this.removeOld();
    return { ...found, built: true };
  }

  private opened(index: DataIndex, indexPath: string): BuiltIndex {
    return {
      index,
      directory: this.directory,
      indexPath,
      storePath: join(this.folder, index.store),
      built: false,
    };
  }

  private async newest(fits: (tree: string, digest: string) => boolean): Promise<BuiltIndex | null> {
    const found = (await this.list()).find(({ tree, digest }) => fits(tree, digest));
    const index = found ? await readIndex(found.path) : null;
    if (!found || !index) return null;
    const now = new Date();
    await utimes(found.path, now, now).catch(() => {}); // it is in use
    return this.opened(index, found.path);
  }

  /** Last used first. */
  private async list(): Promise<{ path: string; tree: string; digest: string; usedMs: number }[]> {
    const pattern = new RegExp(`^index-${this.name}-([0-9a-f]{16})-([0-9a-f]{16})\\.json$`);
    const found = [];
    for (const name of await readdir(this.folder)) {
      const [, tree, digest] = pattern.exec(name) ?? [];
      const path = join(this.folder, name);
      const usedMs = tree && (await stat(path).catch(() => null))?.mtimeMs;
      if (tree && digest && usedMs) found.push({ path, tree, digest, usedMs });
    }
    return found.sort((a, b) => b.usedMs - a.usedMs);
  }

  private async removeOld(): Promise<void> {
    const all = await this.list();
    const kept = new Set(all.slice(0, INDEXES_KEPT).map(({ digest }) => digest));
    for (const { path, digest } of all.slice(INDEXES_KEPT)) {
      await unlink(path).catch(() => {});
      if (!kept.has(digest)) await unlink(join(this.folder, this.storeName(digest))).catch(() => {});
    }
  }
}

/** As much of a digest as stands in a file's name. */
function short(digest: string): string {
  return digest.slice(0, 16);
}
