import { Layout } from "./layout.js";

/**
 * Every layout of `nodes` equal nodes whose sequence groups stay inside a node and leave no rank without a head: fewest replicas
 * first, then the shortest sequence groups.
 */
export function feasibleLayouts({
  nodes,
  slots,
  heads,
}: {
  nodes: number;
  slots: number;
  heads: number;
}): Layout[] {
  const ranks = nodes * slots;
  const layouts: Layout[] = [];
  for (const dp_replicate of divisors(ranks)) {
    for (const sp of divisors(ranks / dp_replicate)) {
      if (slots % sp !== 0 || sp > heads) continue;
      layouts.push(new Layout({ dp_replicate, dp_shard: ranks / dp_replicate / sp, sp }, ranks));
    }
  }
  return layouts;
}

function divisors(value: number): number[] {
  return Array.from({ length: value }, (_, i) => i + 1).filter((part) => value % part === 0);
}
