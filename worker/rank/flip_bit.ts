import type { Native } from "../engine/native.js";
import type { StateTensors } from "../parallel/trainer.js";

/** Turns one bit of a state's weights, as bad memory does. */
export function flipBit(native: Native, state: readonly StateTensors[]): void {
  const { model } = state.find((unit) => unit.model.count > 0)!;
  const bytes = new Uint8Array(4);
  native.tensorRead(model.id, 0, bytes);
  bytes[2]! ^= 1 << 4;
  native.tensorWrite(model.id, 0, bytes);
}
