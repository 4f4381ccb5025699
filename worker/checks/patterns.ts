/** Patterns that memory is examined with, of 32-bit words. */

/** A check with less time looks at less memory: a round must fit into a small budget. */
export const BUDGET_MS_SHORT = 250;
/** Salt of the pattern that tells every address from every other. */
const ADDRESS = 0x9e3779b9;

/** A word that no other index has. */
export function addressWord(i: number): number {
  return Math.imul(i, ADDRESS) >>> 0;
}

/** The word that pattern number `n` has at word `i`: solid, checkered, one bit walking, address in address. */
export function patternWord(n: number, i: number): number {
  if (n === 0) return 0;
  if (n === 1) return 0xffffffff;
  if (n === 2) return 0x55555555;
  if (n === 3) return 0xaaaaaaaa;
  if (n === 4) return addressWord(i);
  return (1 << ((i + n) & 31)) >>> 0; // neighbours differ, and each round moves every bit on
}

export function fillPattern(words: Uint32Array, pattern: number): void {
  if (pattern < 4) words.fill(patternWord(pattern, 0));
  else for (let i = 0; i < words.length; i++) words[i] = patternWord(pattern, i);
}

/** The first word that is not the pattern's; null: all are. */
export function firstWrong(words: Uint32Array, pattern: number): number | null {
  for (let i = 0; i < words.length; i++) if (words[i] !== patternWord(pattern, i)) return i;
  return null;
}

/** For people. */
export function wrongText(at: { pattern: number; word: number; held: number; wanted: number }): string {
  const { pattern, word, held, wanted } = at;
  const hex = (bits: number) => `0x${(bits >>> 0).toString(16).padStart(8, "0")}`;
  return `pattern ${pattern}: word ${word} holds ${hex(held)}, want ${hex(wanted)}: bits ${hex(held ^ wanted)} differ`;
}
