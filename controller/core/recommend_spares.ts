/** How long it takes until a lost node, or another in its place, is there again. */
const REPLACEMENT_HOURS = 1;
/** How sure it shall be that spares are left when a node is lost. */
const CONFIDENCE = 0.99;

/**
 * How many spare nodes the failures seen so far call for: the smallest s with
 *
 *   P(N <= s) >= 0.99,  N ~ Poisson(lambda * nodes * 1 h),  lambda = losses / node-hours,
 *
 * that is, so many that in 99 of 100 hours no more nodes are lost than spares are there, if a lost one is replaced within
 * the hour. (ByteRobust sizes its pool by the same quantile, arXiv 2509.16293.) Null: no node was lost yet, so that there
 * is no rate to go by.
 */
export function recommendSpares(seen: { losses: number; nodeHours: number; nodes: number }): number | null {
  const { losses, nodeHours, nodes } = seen;
  if (losses === 0 || nodeHours <= 0) return null;
  const mean = (losses / nodeHours) * nodes * REPLACEMENT_HOURS;
  let term = Math.exp(-mean);
  let sum = term;
  let spares = 0;
  // Of a rate so high that the terms vanish no number of spares helps: all nodes are lost each hour.
  while (sum < CONFIDENCE && spares < nodes) {
    spares += 1;
    term *= mean / spares;
    sum += term;
  }
  return spares;
}
