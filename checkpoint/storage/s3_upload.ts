import { GokuError } from "../../job/errors.js";

/** S3's own limit. */
export const PARTS_MAX = 10_000;
const MIB = 1 << 20;
/** Large enough that a request's overhead is nothing, small enough that four are no burden. */
const PART_BYTES = 16 * MIB;
/** With the one being filled, this bounds an upload's memory to four parts. */
const IN_FLIGHT_MAX = 3;

/** Part size for a key of about this size. All parts but the last are of one size, which some servers ask for. */
export function partBytesFor(bytesExpected: number): number {
  // A tenth of the parts is spare, for a key that turns out larger.
  return Math.max(PART_BYTES, Math.ceil(bytesExpected / (0.9 * PARTS_MAX) / MIB) * MIB);
}

/** Memory of an upload of about this size: the part being filled and those on their way. */
export function uploadMemoryBytes(bytesExpected: number): number {
  return Math.min(bytesExpected, (IN_FLIGHT_MAX + 1) * partBytesFor(bytesExpected));
}

/** The requests of one upload. `P` is what the server says of a part and wants to hear again at the end. */
export interface UploadRequests<P> {
  /** The whole key at once. */
  put(bytes: Uint8Array): Promise<void>;
  begin(): Promise<string>;
  /** `number` counts from 1. */
  putPart(id: string, number: number, bytes: Uint8Array, signal: AbortSignal): Promise<P>;
  /** Makes the key visible. */
  complete(id: string, parts: P[]): Promise<void>;
  /** Gives the parts' space back. */
  abort(id: string): Promise<void>;
}

/**
 * Sends a stream of unknown length: in one request when it fits into one part, else in parts, several at a time. Nothing
 * is visible before all of it was taken; whatever fails ends with the upload aborted. Returns the bytes sent.
 */
export async function upload<P>(
  requests: UploadRequests<P>,
  chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  partBytes: number,
): Promise<number> {
  let multipart: Multipart<P> | null = null;
  let bytes = 0;
  try {
    for await (const part of cutParts(chunks, partBytes)) {
      bytes += part.bytes.byteLength;
      if (part.last && multipart === null) {
        await requests.put(part.bytes);
        return bytes;
      }
      multipart ??= new Multipart(requests, await requests.begin());
      await multipart.send(part.bytes);
    }
    await multipart!.complete();
    return bytes;
  } catch (error) {
    await multipart?.abort();
    throw error;
  }
}

/**
 * Copies the stream into parts of one size; the last may be shorter, or empty where there is nothing at all. The copy is
 * needed: a producer fills its buffer again as soon as it is asked for more, while the part is still on its way.
 */
async function* cutParts(
  chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  partBytes: number,
): AsyncGenerator<{ bytes: Uint8Array; last: boolean }> {
  // Most keys are small: a part's buffer grows as it is filled.
  let buffer = new Uint8Array(Math.min(MIB, partBytes));
  let filled = 0;
  for await (const chunk of chunks) {
    for (let at = 0; at < chunk.byteLength; ) {
      if (filled === partBytes) {
        yield { bytes: buffer, last: false };
        buffer = new Uint8Array(partBytes);
        filled = 0;
      }
      const take = Math.min(chunk.byteLength - at, partBytes - filled);
      buffer = withRoom(buffer, filled + take, partBytes);
      buffer.set(chunk.subarray(at, at + take), filled);
      filled += take;
      at += take;
    }
  }
  yield { bytes: buffer.subarray(0, filled), last: true };
}

function withRoom(buffer: Uint8Array<ArrayBuffer>, want: number, most: number): Uint8Array<ArrayBuffer> {
  if (want <= buffer.byteLength) return buffer;
  const grown = new Uint8Array(Math.min(most, Math.max(want, 2 * buffer.byteLength)));
  grown.set(buffer);
  return grown;
}

class Multipart<P> {
  readonly #requests: UploadRequests<P>;
  readonly #id: string;
  readonly #parts: P[] = [];
  readonly #inFlight = new Set<Promise<void>>();
  readonly #stop = new AbortController();
  #sent = 0;
  #failure: { error: unknown } | null = null;

  constructor(requests: UploadRequests<P>, id: string) {
    this.#requests = requests;
    this.#id = id;
  }

  /** Resolves when there is room for the next part; throws what any part before has met. */
  async send(bytes: Uint8Array): Promise<void> {
    if (this.#sent === PARTS_MAX) {
      const size = Math.floor((this.#sent * bytes.byteLength) / 2 ** 30);
      throw new GokuError(
        "STORAGE_FAILED",
        `Cannot upload more than ${PARTS_MAX} parts: about ${size} GiB were sent and more follow, say how large the key will be`,
      );
    }
    const number = ++this.#sent;
    const sending = this.#requests
      .putPart(this.#id, number, bytes, this.#stop.signal)
      .then((part) => {
        this.#parts[number - 1] = part;
      })
      .catch((error: unknown) => {
        this.#failure ??= { error };
      })
      .finally(() => this.#inFlight.delete(sending));
    this.#inFlight.add(sending);
    if (this.#inFlight.size >= IN_FLIGHT_MAX) await Promise.race(this.#inFlight);
    this.#requireHealthy();
  }

  async complete(): Promise<void> {
    await Promise.all(this.#inFlight);
    this.#requireHealthy();
    await this.#requests.complete(this.#id, this.#parts);
  }

  /** A part that is still on its way when the upload is aborted may stay: those are ended first. Best effort. */
  async abort(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#inFlight);
    await this.#requests.abort(this.#id).catch(() => {});
  }

  #requireHealthy(): void {
    if (this.#failure !== null) throw this.#failure.error;
  }
}
