import type { CheckPlace } from "../check_messages.js";
import { failpoint } from "../failpoints.js";
import type { Finding } from "./finding.js";

/** Larger than the caches that one core has for itself. */
const BUFFER_BYTES = 32 * 2 ** 20;

/**
 * The pace at which one core copies memory, bytes copied by second, best of all rounds: what disturbs a round only makes
 * it slower. A channel of memory that fell out, or a processor held back, shows here.
 */
export function checkCopy({ budgetMs }: Pick<CheckPlace, "budgetMs">): Finding {
  failpoint("selfcheck.copy");
  const from = Buffer.alloc(BUFFER_BYTES, 0x5a);
  const to = Buffer.allocUnsafe(BUFFER_BYTES);
  from.copy(to); // its pages are made here, so that no round pays for that
  const begunMs = performance.now();
  let fastestMs = Number.POSITIVE_INFINITY;
  let rounds = 0;
  do {
    const startMs = performance.now();
    from.copy(to);
    fastestMs = Math.min(fastestMs, performance.now() - startMs);
    rounds += 1;
  } while (performance.now() - begunMs < budgetMs);
  const value = BUFFER_BYTES / fastestMs / 1e6;
  return {
    ok: true,
    value,
    unit: "GB/s",
    detail: `best of ${rounds} copies of ${BUFFER_BYTES / 2 ** 20} MiB`,
  };
}
