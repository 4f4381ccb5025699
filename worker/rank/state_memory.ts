import type { Native } from "../engine/native.js";
import type { StateTarget, StateTensors } from "../parallel/trainer.js";
import type { SnapshotPages } from "./snapshot_pages.js";
import { StateInPages } from "./state_in_pages.js";
import { StateOnDevice } from "./state_on_device.js";

/**
 * Where a rank's training state lies while the rank computes with it, and how it comes into a slot of its pages and back. The slot
 * that is live is the one that holds the state, or is to hold it.
 */
export interface StateMemory {
  /** The state's tensors while this slot is live, unit by unit. */
  tensors(index: number): readonly StateTensors[];
  /**
   * Where the next state is to be written, to become that of this slot, which holds nothing whole from here to its seal.
   * `snapshot`: it will be sealed; what is written then comes with the checksums that the target asks for.
   */
  begin(index: number, snapshot: boolean): StateTarget;
  /** The state is written, and is to be copied to the slot, unless it lies there. Nothing waits for that. */
  copyStart(index: number): void;
  /** A copy was started that nobody has waited for. */
  readonly copying: boolean;
  /** Waits until the slot holds the state that was written, and its checksums are known: it may be sealed. */
  copied(index: number): void;
  /** The state that lies in the slot becomes that of `tensors`. Returns the checksums found there, in the order of the file. */
  load(index: number): Uint32Array;
  /**
   * Chunks of the state that do not hold what was copied to the slot, or loaded from it. Reads the whole state. A slot whose own
   * bytes are damaged is whole no more.
   */
  damaged(index: number): number;
  /** Turns one bit of the weights, as bad memory does; for failpoints. */
  flipBit(index: number): void;
  /** Frees what is not the pages', after the last copy. */
  close(): void;
}

/** In the pages themselves where the backend computes in the machine's memory, else on its device. Throws NATIVE_OUT_OF_MEMORY. */
export function stateMemory(native: Native, pages: SnapshotPages): StateMemory {
  return native.devices().length > 0 ? new StateOnDevice(native, pages) : new StateInPages(native, pages);
}
