import type { Native } from "../engine/native.js";
import type { StateTensors } from "./sharded_unit.js";

/** The tensors of a unit's state, in the order of its checksums. */
export const CHECKSUM_ORDER = ["model", "ema", "adam_m", "adam_v"] as const satisfies (keyof StateTensors)[];

/** checksums = CRC-32 of each MiB of a unit's state, as adamwStep makes them of what it writes; empty: none. */
export function sumState(native: Native, state: StateTensors, checksums: Uint32Array): void {
  const count = checksums.length / CHECKSUM_ORDER.length;
  if (count === 0) return;
  for (const [k, kind] of CHECKSUM_ORDER.entries())
    native.tensorChecksums(state[kind].id, checksums.subarray(k * count, (k + 1) * count));
}
