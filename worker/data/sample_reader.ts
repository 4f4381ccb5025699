import { type FileHandle, open, stat } from "node:fs/promises";
import { join } from "node:path";
import { WaveletCodec } from "./codec.js";
import { fileDigest } from "./file_digest.js";
import { fileVerdict } from "./file_verdict.js";
import type { CodecRecord, TokenGrid } from "./latents.js";
import { tokenGrid } from "./latents.js";
import { LruCache } from "./lru_cache.js";
import { type MediaKind, type MediaLimits, readMedia } from "./read_media.js";

/** A sample as the reader needs it. */
export interface SampleRequest {
  name: string;
  kind: MediaKind;
  bytes: number;
  mtimeMs: number;
  /** SHA-256 of the file that was indexed, hex. */
  content: string;
  grid: TokenGrid;
  storeOffset: number;
}

export interface SampleReaderOptions {
  directory: string;
  storePath: string;
  codec: CodecRecord;
  limits: MediaLimits;
  /** Memory for encoded samples, at most. */
  cacheBytes: number;
}

export type SampleResult = { latents: Float32Array } | { reason: string };

/**
 * Latents of samples: from memory, from the store of encoded samples beside the index, or decoded from the file.
 * A sample whose file is gone or has other bytes than the one that was indexed counts as unreadable, wherever its latents
 * lie, so that what is trained on does not depend on what happened to be cached. A copied or touched file is the same file.
 */
export class SampleReader {
  private readonly codec: WaveletCodec;
  private readonly cache: LruCache;
  private store: Promise<FileHandle | null> | null = null;
  /** Times of files that differ from the index's though the bytes do not. */
  private readonly sameAt = new Map<string, number>();

  constructor(private readonly options: SampleReaderOptions) {
    this.codec = new WaveletCodec(options.codec);
    this.cache = new LruCache(options.cacheBytes);
  }

  /** @throws GokuError STORAGE_FAILED when trying again may help */
  async read(sample: SampleRequest): Promise<SampleResult> {
    const path = join(this.options.directory, sample.name);
    try {
      if (!(await this.isSame(path, sample))) return { reason: "the file has changed since it was indexed" };
    } catch (error) {
      const verdict = fileVerdict(path, error);
      return { reason: verdict.startsWith("ENOENT") ? "the file is gone since it was indexed" : verdict };
    }
    const cached = this.cache.get(sample.name);
    if (cached) return { latents: cached };
    const result = (await this.readStored(sample)) ?? (await this.decode(path, sample));
    if ("latents" in result) this.cache.set(sample.name, result.latents);
    return result;
  }

  async close(): Promise<void> {
    const store = await this.store;
    await store?.close();
  }

  private async isSame(path: string, { name, bytes, mtimeMs, content }: SampleRequest): Promise<boolean> {
    const found = await stat(path);
    if (found.size !== bytes) return false;
    if (found.mtimeMs === mtimeMs || found.mtimeMs === this.sameAt.get(name)) return true;
    if ((await fileDigest(path)) !== content) return false;
    this.sameAt.set(name, found.mtimeMs);
    return true;
  }

  private async readStored(sample: SampleRequest): Promise<SampleResult | null> {
    if (sample.storeOffset < 0) return null;
    this.store ??= open(this.options.storePath, "r").catch(() => null); // gone: media can still be decoded
    const store = await this.store;
    if (!store) return null;
    const { patch, channels } = this.options.codec;
    const latents = new Float32Array(
      sample.grid.reduce((count, side, axis) => count * side * patch[axis]!, channels),
    );
    const bytes = new Uint8Array(latents.buffer);
    const { bytesRead } = await store.read(bytes, 0, bytes.length, sample.storeOffset * 4);
    return bytesRead === bytes.length ? { latents } : null;
  }

  private async decode(path: string, sample: SampleRequest): Promise<SampleResult> {
    const media = await readMedia(path, sample.kind, this.options.limits);
    if ("reason" in media) return media;
    const grid = tokenGrid(this.codec.latentShape(media.clip), this.options.codec.patch);
    // another version of a decoder may count frames differently; the packs are planned already
    if (grid.join() !== sample.grid.join())
      return { reason: `it has ${grid.join("x")} tokens, ${sample.grid.join("x")} when indexed` };
    return { latents: this.codec.encode(media.clip) };
  }
}
