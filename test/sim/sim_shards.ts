import { modelConfig } from "../../job/job.js";
import { Layout } from "../../job/layout.js";
import { parameterSpecs } from "../../job/parameters.js";
import { flatUnits, shardRange } from "../../job/sharding.js";

/** Flat units of the model that every simulated job has. */
const UNITS = flatUnits(parameterSpecs(modelConfig({ model: { preset: "goku-nano" } })));
const needed = new Map<string, number[]>();

/** Shards that a layout cuts a state into. */
export function shardCount(layout: string): number {
  return Layout.parse(layout).shardGroupSize;
}

/** Shards of layout `from` that a rank of layout `to` needs: those that share an element with its own. */
export function shardsNeeded({ from, to, rank }: { from: string; to: string; rank: number }): number[] {
  const parts = shardCount(to);
  const index = rank % parts;
  if (from === to) return [index];
  const key = `${from} ${to} ${index}`;
  let found = needed.get(key);
  if (found === undefined) {
    const others = shardCount(from);
    const shares = (other: number) =>
      UNITS.some(({ count }) => {
        const own = shardRange({ count, parts, index });
        const held = shardRange({ count, parts: others, index: other });
        return held.start < own.start + own.length && own.start < held.start + held.length;
      });
    found = Array.from({ length: others }, (_, other) => other).filter(shares);
    needed.set(key, found);
  }
  return found;
}
