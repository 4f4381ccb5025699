/** Far above what a busy machine takes; a test that has failed by its own limit would keep its process for ever. */
const LIMIT_MS = 200_000;

/** Looks until it is so. Throws when it does not become so in 200 s. */
export async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  const endMs = performance.now() + LIMIT_MS;
  while (!(await isSo())) {
    if (performance.now() >= endMs) throw new Error(`Waited ${LIMIT_MS / 1000} s in vain for: ${isSo}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
