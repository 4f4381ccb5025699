import { CHUNK_BYTES } from "./digest.js";
import { type ByteRange, digestThread } from "./digest_thread.js";

/** Bytes that one digest is of, at most 1 MiB. */
export interface ShardChunk {
  bytes: number;
  /** The digest is put behind those that are here, by the time that `ShardBlock.hashed` resolves; null: there is none. */
  digests: string[] | null;
}

/**
 * A piece of a data file on its way, of at most 1 MiB: filled, then hashed and written at the same time, then filled
 * again. Chunks lie whole inside one block, so that each is hashed at once.
 */
export class ShardBlock {
  readonly #buffer = new SharedArrayBuffer(CHUNK_BYTES);
  readonly #all = new Uint8Array(this.#buffer);
  #filled = 0;
  #hashing: { range: ByteRange; digests: string[]; index: number }[] = [];
  #hashed: Promise<void> = Promise.resolve();

  get bytes(): Uint8Array {
    return this.#all.subarray(0, this.#filled);
  }

  hasRoom(bytes: number): boolean {
    return this.#filled + bytes <= CHUNK_BYTES;
  }

  /** What is appended next is of this chunk, for which there is room. */
  begin({ bytes, digests }: ShardChunk): void {
    if (digests === null) return;
    const range = { start: this.#filled, end: this.#filled + bytes };
    this.#hashing.push({ range, digests, index: digests.push("") - 1 });
  }

  append(bytes: Uint8Array): void {
    this.#all.set(bytes, this.#filled);
    this.#filled += bytes.byteLength;
  }

  /** It is full: hashing begins, and nothing is appended before `empty`. */
  seal(): this {
    const chunks = this.#hashing;
    this.#hashed = digestThread
      .digests({ buffer: this.#buffer, ranges: chunks.map(({ range }) => range) })
      .then((found) => {
        for (const [i, { digests, index }] of chunks.entries()) digests[index] = found[i]!;
      });
    return this;
  }

  /** Resolves when nothing of it is being hashed; never rejects. */
  get hashed(): Promise<void> {
    return this.#hashed;
  }

  /** For a block that is written: makes room for what comes. */
  async empty(): Promise<this> {
    await this.#hashed;
    this.#filled = 0;
    this.#hashing = [];
    return this;
  }
}
