import { Worker } from "node:worker_threads";
import { entryPoint } from "../job/entry_points.js";
import { digestOf } from "./digest.js";

/** Bytes [start, end) of a buffer. */
export interface ByteRange {
  start: number;
  end: number;
}

export interface DigestRequest {
  buffer: SharedArrayBuffer;
  ranges: readonly ByteRange[];
}

interface Asked {
  request: DigestRequest;
  resolve: (digests: string[]) => void;
}

/** Less than this is hashed sooner than a message has gone to another thread and back. */
const BYTES_MIN = 128 << 10;

/**
 * Hashes on a thread of its own. Buffers are shared with it, for a copy, which crypto.subtle makes, costs almost half of
 * what hashing does. The thread begins with the first request, keeps the process alive only while one is unanswered, and
 * is never missed: where it cannot begin, or ends, the asking thread hashes.
 */
export class DigestThread {
  readonly #entry: string | URL;
  #worker: Worker | null = null;
  /** Oldest first: answers come in the order of the requests. */
  #asked: Asked[] = [];

  constructor(entry: string | URL = entryPoint("digest_thread")) {
    this.#entry = entry;
  }

  /** sha256 of each range, in lower-case hexadecimal; never rejects. The bytes must not change meanwhile. */
  digests(request: DigestRequest): Promise<string[]> {
    const bytes = request.ranges.reduce((sum, { start, end }) => sum + end - start, 0);
    if (bytes < BYTES_MIN) return Promise.resolve(rangeDigests(request));
    return new Promise((resolve) => {
      this.#asked.push({ request, resolve });
      try {
        this.#worker ??= this.#begin();
        this.#worker.ref();
        this.#worker.postMessage(request);
      } catch {
        this.#end(this.#worker);
      }
    });
  }

  #begin(): Worker {
    const worker = new Worker(this.#entry, {
      resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 4 },
    });
    worker.on("message", (digests: string[]) => {
      if (worker !== this.#worker) return; // answered here already
      this.#asked.shift()?.resolve(digests);
      if (this.#asked.length === 0) worker.unref();
    });
    worker.on("error", () => this.#end(worker));
    worker.on("exit", () => this.#end(worker));
    return worker;
  }

  /** Answers here what the thread has left; the next request begins another one. */
  #end(worker: Worker | null): void {
    if (worker !== this.#worker) return;
    this.#worker = null;
    void worker?.terminate();
    for (const { request, resolve } of this.#asked.splice(0)) resolve(rangeDigests(request));
  }
}

/** The one of this process: an agent saves all ranks of its node, whose cores are theirs. */
export const digestThread = new DigestThread();

export function rangeDigests({ buffer, ranges }: DigestRequest): string[] {
  return ranges.map(({ start, end }) => digestOf(new Uint8Array(buffer, start, end - start)));
}
