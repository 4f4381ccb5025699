/** Between looks at what answers slowly. */
const LOOK_MS = 1_000;

/** Looks until it is so, for tests of what takes long and is not ours to hasten. Throws what did not come. */
export async function untilIn(limitMs: number, what: string, isSo: () => boolean): Promise<void> {
  const endMs = performance.now() + limitMs;
  while (!isSo()) {
    if (performance.now() >= endMs) throw new Error(`In ${limitMs / 1000} s it did not come that ${what}`);
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}
