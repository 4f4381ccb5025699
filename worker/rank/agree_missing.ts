import type { Wanting } from "../../checkpoint/load_plan.js";
import { STATE_KINDS, type StateKind } from "../../checkpoint/state.js";
import type { Layout } from "../../job/layout.js";
import { type CommId, DTYPE, type Native } from "../engine/native.js";
import { REDUCE, reduceNumbers } from "./reduce_numbers.js";

export function missingKey(kind: StateKind, unit: string): string {
  return `${kind}/${unit}`;
}

/**
 * What any rank lacks of a state that all have read from memory, by kind and unit, as shards; null: nothing. Every rank of
 * the world calls it. One number of each rank is exchanged; only where that is not zero, a flag for each kind of a unit.
 * Throws what collectives throw.
 */
export function agreeMissing(
  native: Native,
  world: CommId | null,
  own: { layout: Layout; rank: number; units: readonly string[]; lacking: ReadonlySet<string> },
): Wanting {
  const { layout, units, lacking } = own;
  const most =
    world === null
      ? lacking.size
      : reduceNumbers(native, world, Float64Array.of(lacking.size), REDUCE.max)[0]!;
  if (most === 0) return null;
  const keys = STATE_KINDS.flatMap((kind) => units.map((unit) => missingKey(kind, unit)));
  const flags = Float32Array.from(keys, (key) => (lacking.has(key) ? 1 : 0));
  const all = world === null ? flags : gather(native, world, flags, layout.worldSize);
  const wanting = new Map(keys.map((key) => [key, new Set<number>()]));
  for (let rank = 0; rank < layout.worldSize; rank++) {
    for (const [i, key] of keys.entries())
      if (all[rank * keys.length + i] === 1) wanting.get(key)!.add(rank % layout.shardGroupSize);
  }
  return (kind, unit) => wanting.get(missingKey(kind, unit))!;
}

function gather(native: Native, world: CommId, own: Float32Array, members: number): Float32Array {
  const [input, output] = [
    native.tensorAlloc(DTYPE.f32, own.length),
    native.tensorAlloc(DTYPE.f32, members * own.length),
  ];
  try {
    native.tensorWrite(input, 0, new Uint8Array(own.buffer));
    const counts = new Float64Array(members).fill(own.length);
    native.commWait(native.allGatherStart(world, output, input, counts));
    const all = new Float32Array(members * own.length);
    native.tensorRead(output, 0, new Uint8Array(all.buffer));
    return all;
  } finally {
    native.tensorFree(input);
    native.tensorFree(output);
  }
}
