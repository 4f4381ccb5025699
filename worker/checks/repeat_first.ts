import type { Native, TensorId } from "../engine/native.js";

/** Copies the first `unit` elements of a tensor over those after them, so that they are there `times` times. */
export function repeatFirst(
  native: Native,
  tensor: TensorId,
  { unit, times }: { unit: number; times: number },
): void {
  for (let done = 1; done < times; done *= 2) {
    const count = Math.min(done, times - done) * unit;
    native.copy2d(tensor, done * unit, count, tensor, 0, count, 1, count);
  }
}
