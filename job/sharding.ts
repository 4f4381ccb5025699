import type { Layout } from "./layout.js";
import type { ParameterSpec } from "./parameters.js";

/** Shard boundaries fall on multiples of this many elements, so that vector loads stay aligned. */
export const SHARD_GRAIN = 16;

/** One FSDP unit: parameters that are gathered together, one after another in a flat buffer. */
export interface FlatUnit {
  name: string; // "root" or "blocks.<i>"
  parameters: { spec: ParameterSpec; offset: number }[];
  count: number; // elements, without padding
}

/** Groups parameters into units: one per block, everything else in "root" (first). Canonical order inside. */
export function flatUnits(specs: readonly ParameterSpec[]): FlatUnit[] {
  const units = new Map<string, FlatUnit>([["root", { name: "root", parameters: [], count: 0 }]]);
  for (const spec of specs) {
    const block = /^blocks\.\d+/.exec(spec.name)?.[0] ?? "root";
    let unit = units.get(block);
    if (!unit) {
      unit = { name: block, parameters: [], count: 0 };
      units.set(block, unit);
    }
    unit.parameters.push({ spec, offset: unit.count });
    unit.count += spec.count;
  }
  return [...units.values()];
}

/** Elements [start, start+length) of a unit that member `index` of a shard group of `parts` holds; may be empty. */
export function shardRange(options: { count: number; parts: number; index: number }): {
  start: number;
  length: number;
} {
  const perPart = elementsPerPart(options);
  const start = Math.min(options.count, options.index * perPart);
  return { start, length: Math.min(options.count, start + perPart) - start };
}

/** Members of a shard group of `parts` that hold any of the elements [start, end) of a unit; start < end. */
export function shardIndexes(options: {
  count: number;
  parts: number;
  start: number;
  end: number;
}): number[] {
  const perPart = elementsPerPart(options);
  const first = Math.floor(options.start / perPart);
  return Array.from({ length: Math.floor((options.end - 1) / perPart) - first + 1 }, (_, i) => first + i);
}

/** Shards of layout `from` that hold any element of shard `index` of layout `to`, ascending. */
export function overlappingShards(
  units: readonly FlatUnit[],
  { from, to, index }: { from: Layout; to: Layout; index: number },
): number[] {
  const shards = new Set<number>();
  for (const { count } of units) {
    const { start, length } = shardRange({ count, parts: to.shardGroupSize, index });
    if (length === 0) continue;
    const held = { count, parts: from.shardGroupSize, start, end: start + length };
    for (const shard of shardIndexes(held)) shards.add(shard);
  }
  return [...shards].sort((a, b) => a - b);
}

function elementsPerPart({ count, parts }: { count: number; parts: number }): number {
  return Math.ceil(Math.ceil(count / SHARD_GRAIN) / parts) * SHARD_GRAIN;
}

/** A piece of one parameter inside one rank's shard. */
export interface ShardPiece {
  parameter: string;
  /** Elements [start, start+length) of the parameter. */
  start: number;
  length: number;
  unit: string;
  /** Where the piece begins in the rank's shard of that unit. */
  shardOffset: number;
}

/** Everything rank `rank` holds, unit by unit; the same on every replica. Pure: each rank derives anyone's plan. */
export function shardPieces(units: readonly FlatUnit[], layout: Layout, rank: number): ShardPiece[] {
  const pieces: ShardPiece[] = [];
  for (const unit of units) {
    const range = shardRange({
      count: unit.count,
      parts: layout.shardGroupSize,
      index: rank % layout.shardGroupSize,
    });
    for (const { spec, offset } of unit.parameters) {
      const start = Math.max(range.start, offset);
      const end = Math.min(range.start + range.length, offset + spec.count);
      if (start >= end) continue;
      pieces.push({
        parameter: spec.name,
        start: start - offset,
        length: end - start,
        unit: unit.name,
        shardOffset: start - range.start,
      });
    }
  }
  return pieces;
}
