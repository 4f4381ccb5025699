/** Encoded samples that each rank keeps in memory, at most. */
export const SAMPLE_CACHE_BYTES = 256 * 2 ** 20;
