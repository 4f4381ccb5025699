import type { CheckPlace } from "../check_messages.js";
import { failpoint } from "../failpoints.js";
import type { Finding } from "./finding.js";
import { BUDGET_MS_SHORT, fillPattern, firstWrong, patternWord, wrongText } from "./patterns.js";

/** Larger than the caches of most processors, small enough to be had on every node. */
const BUFFER_BYTES = 64 * 2 ** 20;
const BUFFER_BYTES_SHORT = 16 * 2 ** 20;

/**
 * Writes patterns over a buffer and reads them back, until the budget is used: cells that stick, neighbours that disturb
 * each other, and address lines that are short of one another. The first word that differs is told with its bits.
 */
export function checkMemory({ budgetMs }: Pick<CheckPlace, "budgetMs">): Finding {
  const words = new Uint32Array((budgetMs < BUDGET_MS_SHORT ? BUFFER_BYTES_SHORT : BUFFER_BYTES) / 4);
  const begunMs = performance.now();
  let round = 0;
  do {
    fillPattern(words, round);
    if (failpoint("selfcheck.memory") === "flip") words[words.length >> 1]! ^= 1 << 7;
    const word = firstWrong(words, round);
    if (word !== null) {
      const detail = wrongText({
        pattern: round,
        word,
        held: words[word]!,
        wanted: patternWord(round, word),
      });
      return { ok: false, value: 0, unit: "MiB", detail };
    }
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
