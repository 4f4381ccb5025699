import { createHash } from "node:crypto";

/** Digests and checksums cover this many bytes each; the last one of a run may cover fewer. */
export const CHUNK_BYTES = 1 << 20;

/** sha256 in lower-case hexadecimal. */
export function digestOf(...parts: (Uint8Array | string)[]): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
}

export function chunkCount(bytes: number): number {
  return Math.ceil(bytes / CHUNK_BYTES);
}
