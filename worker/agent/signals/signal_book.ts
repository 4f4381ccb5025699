/** Of each kind, device and rank: told so often, then at every tenfold of it. */
const TOLD_FIRST = 3;
/** One that was not seen for so long counts anew. */
const FORGET_MS = 3600 * 1000;
/** Devices and ranks of a node are few; what a broken line may name is not. */
const KEYS_MAX = 1_000;

/** Counts what was seen, and says which of it is worth telling: a machine in trouble writes the same line without end. Pure. */
export class SignalBook {
  private readonly seen = new Map<string, { count: number; atMs: number }>();

  /** How often it was seen so far, where that is to be told; null: it is not. */
  count(key: string, nowMs: number): number | null {
    const known = this.seen.get(key);
    if (known === undefined && this.seen.size >= KEYS_MAX) this.forget(nowMs);
    if (known === undefined && this.seen.size >= KEYS_MAX) return null;
    const isOld = known === undefined || nowMs - known.atMs > FORGET_MS;
    const count = isOld ? 1 : known.count + 1;
    this.seen.set(key, { count, atMs: nowMs });
    return count <= TOLD_FIRST || isPowerOfTen(count) ? count : null;
  }

  /** What begins so counts anew. */
  clear(prefix: string): void {
    for (const key of this.seen.keys()) if (key.startsWith(prefix)) this.seen.delete(key);
  }

  private forget(nowMs: number): void {
    for (const [key, { atMs }] of this.seen) if (nowMs - atMs > FORGET_MS) this.seen.delete(key);
  }
}

function isPowerOfTen(count: number): boolean {
  return Number.isInteger(Math.log10(count));
}
