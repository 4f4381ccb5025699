import type { CheckPlace } from "../check_messages.js";
import { failpoint } from "../failpoints.js";
import type { Finding } from "./finding.js";

/** Larger than the caches of most processors, small enough to be had on every node. */
const BUFFER_BYTES = 64 * 2 ** 20;
/** Of short checks: a round must fit into a small budget. */
const BUFFER_BYTES_SHORT = 16 * 2 ** 20;
const BUDGET_MS_SHORT = 500;
/** Salt of the pattern that tells every address from every other. */
const ADDRESS = 0x9e3779b9;

/** The word that pattern number `n` has at word `i`: solid, checkered, one bit walking, address in address. */
function patternWord(n: number, i: number): number {
  if (n === 0) return 0;
  if (n === 1) return 0xffffffff;
  if (n === 2) return 0x55555555;
  if (n === 3) return 0xaaaaaaaa;
  if (n === 4) return Math.imul(i, ADDRESS) >>> 0;
  return (1 << ((i + n) & 31)) >>> 0; // neighbours differ, and each round moves every bit on
}

/**
 * Writes patterns over a buffer and reads them back, until the budget is used: cells that stick, neighbours that disturb
 * each other, and address lines that are short of one another. The first word that differs is told with its bits.
 */
export function checkMemory({ budgetMs }: Pick<CheckPlace, "budgetMs">): Finding {
  const words = new Uint32Array((budgetMs < BUDGET_MS_SHORT ? BUFFER_BYTES_SHORT : BUFFER_BYTES) / 4);
  const begunMs = performance.now();
  let round = 0;
  do {
    fill(words, round);
    if (failpoint("selfcheck.memory") === "flip") words[words.length >> 1]! ^= 1 << 7;
    const wrong = firstWrong(words, round);
    if (wrong !== null) return { ok: false, value: 0, unit: "MiB", detail: wrongText(words, round, wrong) };
    round += 1;
  } while (performance.now() - begunMs < budgetMs);
  const MiB = (round * words.byteLength) / 2 ** 20;
  return {
    ok: true,
    value: MiB,
    unit: "MiB",
    detail: `${round} patterns over ${words.byteLength / 2 ** 20} MiB`,
  };
}

function fill(words: Uint32Array, pattern: number): void {
  if (pattern < 4) words.fill(patternWord(pattern, 0));
  else for (let i = 0; i < words.length; i++) words[i] = patternWord(pattern, i);
}

function firstWrong(words: Uint32Array, pattern: number): number | null {
  for (let i = 0; i < words.length; i++) if (words[i] !== patternWord(pattern, i)) return i;
  return null;
}

function wrongText(words: Uint32Array, pattern: number, i: number): string {
  const hex = (word: number) => `0x${(word >>> 0).toString(16).padStart(8, "0")}`;
  const wanted = patternWord(pattern, i);
  return `pattern ${pattern}: word ${i} holds ${hex(words[i]!)}, want ${hex(wanted)}: bits ${hex(words[i]! ^ wanted)} differ`;
}
