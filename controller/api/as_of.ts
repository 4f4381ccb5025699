/** Of answers from memory: their controller led when they were true, and does not lead at present. */
export interface AsOf {
  /** When it last led; nothing later is in the answers. */
  atMs: number;
  /** Since when its store has not answered; null: it answers, and nobody leads just now. */
  storeSilentMs: number | null;
}

/** Names of the header fields (REST) and metadata (gRPC) that such an answer carries. Each holds a time as in RFC 3339. */
export const AS_OF_HEADER = "goku-as-of";
export const STORE_SILENT_HEADER = "goku-store-silent-since";

/** None where the answers are of now. */
export function asOfHeaders(asOf: AsOf | null): Record<string, string> {
  if (asOf === null) return {};
  const { atMs, storeSilentMs } = asOf;
  return {
    [AS_OF_HEADER]: new Date(atMs).toISOString(),
    ...(storeSilentMs === null ? {} : { [STORE_SILENT_HEADER]: new Date(storeSilentMs).toISOString() }),
  };
}

/** The same, read; null where the answer is of now, or says what nobody can read. */
export function readAsOf(header: (name: string) => string | undefined): AsOf | null {
  const timeOf = (name: string) => Date.parse(header(name) ?? "");
  const atMs = timeOf(AS_OF_HEADER);
  const storeSilentMs = timeOf(STORE_SILENT_HEADER);
  if (Number.isNaN(atMs)) return null;
  return { atMs, storeSilentMs: Number.isNaN(storeSilentMs) ? null : storeSilentMs };
}
