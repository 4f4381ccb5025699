import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";

/** Copies an answer's body into the place chosen for it. Throws when the body is of another length or breaks off. */
export async function drainBody(body: unknown, choosePlace: () => Uint8Array): Promise<Uint8Array> {
  const stream = body as Readable;
  // One that nobody reads to its end would hold its connection.
  try {
    const into = choosePlace();
    let filled = 0;
    for await (const chunk of stream as AsyncIterable<Uint8Array>) {
      if (filled + chunk.byteLength > into.byteLength)
        throw Object.assign(new Error(`more than ${into.byteLength} bytes came`), { code: "BodyTooLong" });
      into.set(chunk, filled);
      filled += chunk.byteLength;
    }
    if (filled === into.byteLength) return into;
    throw Object.assign(new Error(`${filled} of ${into.byteLength} bytes came`), { code: "BodyTooShort" });
  } finally {
    stream.destroy();
  }
}

/** A pause that doubles with every try and is random, so that many who failed together do not come back together. */
export function pauseBefore(tries: number): Promise<void> {
  return sleep(Math.random() * 100 * 2 ** tries);
}
