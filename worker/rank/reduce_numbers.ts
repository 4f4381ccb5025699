import { type CommId, DTYPE, type Native } from "../engine/native.js";

/** Operations of allReduceStart. */
export const REDUCE = { sum: 0, max: 1, min: 2 } as const;

/** The numbers of all members put together one by one; every member must call it with as many. Throws what collectives throw. */
export function reduceNumbers(
  native: Native,
  comm: CommId,
  numbers: Float64Array,
  op: (typeof REDUCE)[keyof typeof REDUCE],
): Float64Array {
  const buffer = native.tensorAlloc(DTYPE.f64, numbers.length);
  try {
    native.tensorWrite(buffer, 0, new Uint8Array(numbers.slice().buffer));
    native.commWait(native.allReduceStart(comm, buffer, op));
    const result = new Float64Array(numbers.length);
    native.tensorRead(buffer, 0, new Uint8Array(result.buffer));
    return result;
  } finally {
    native.tensorFree(buffer);
  }
}
