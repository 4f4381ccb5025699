import type { Native, SnapshotTicket } from "../engine/native.js";
import { Arena, type Tensor } from "../engine/tensor.js";
import { CHECKSUM_ORDER } from "../parallel/sum_state.js";
import type { StateTarget, StateTensors } from "../parallel/trainer.js";
import { flipBit } from "./flip_bit.js";
import type { SnapshotPages } from "./snapshot_pages.js";
import type { StateMemory } from "./state_memory.js";

/**
 * The state lies in the device's memory and is changed there in place; slots get copies of it, which leave the device beside
 * the forward and backward passes of the next step.
 */
export class StateOnDevice implements StateMemory {
  private readonly native: Native;
  private readonly pages: SnapshotPages;
  private readonly arena: Arena;
  private readonly state: readonly StateTensors[];
  private readonly ids: Float64Array;
  /** No checksums: the copy brings them. */
  private readonly target: StateTarget;
  private underWay: SnapshotTicket | null = null;

  /** Throws NATIVE_OUT_OF_MEMORY. */
  constructor(native: Native, pages: SnapshotPages) {
    this.native = native;
    this.pages = pages;
    this.arena = new Arena(native);
    try {
      this.state = pages.tensors(0).map(({ model: { count } }) => {
        const run = () => this.arena.alloc("f32", count);
        return { model: run(), ema: run(), adam_m: run(), adam_v: run() };
      });
    } catch (error) {
      this.arena.freeAll();
      throw error;
    }
    this.ids = idsOf(this.state);
    this.target = { tensors: this.state, checksums: this.state.map(() => NONE) };
  }

  tensors(): readonly StateTensors[] {
    return this.state;
  }

  begin(index: number): StateTarget {
    this.pages.begin(index, false);
    this.holdBack();
    return this.target;
  }

  get copying(): boolean {
    return this.underWay !== null;
  }

  copyStart(index: number): void {
    this.abandon();
    this.underWay = this.native.snapshotStart(this.ids, idsOf(this.pages.tensors(index)));
  }

  copied(index: number): void {
    const ticket = this.underWay!;
    this.underWay = null;
    this.native.snapshotWait(ticket, this.pages.checksums(index));
  }

  load(index: number): Uint32Array {
    const { native, pages, state } = this;
    for (const [i, from] of pages.tensors(index).entries()) {
      for (const kind of CHECKSUM_ORDER)
        if (from[kind].count > 0) native.tensorCast(state[i]![kind].id, from[kind].id);
    }
    return pages.sum(index, state);
  }

  /** The slot's own bytes are another copy, which its checksums tell of whoever reads it. */
  damaged(index: number): number {
    return this.pages.damaged(index, this.state);
  }

  flipBit(): void {
    this.holdBack();
    flipBit(this.native, this.state);
  }

  close(): void {
    try {
      this.abandon();
    } catch {
      // A device that fails writes nothing any more.
    }
    this.arena.freeAll();
  }

  /** Kernels that write the state wait on the device for a copy that still reads it; this thread goes on. */
  private holdBack(): void {
    if (this.underWay !== null) this.native.snapshotFence(this.underWay);
  }

  /** Nobody asks for the copy under way any more; it must not go on where its memory is used again. */
  private abandon(): void {
    if (this.underWay === null) return;
    const ticket = this.underWay;
    this.underWay = null;
    this.native.snapshotWait(ticket, NONE);
  }
}

const NONE = new Uint32Array(0);

/** In the order of a slot's checksums. */
function idsOf(state: readonly StateTensors[]): Float64Array {
  return Float64Array.from(
    state.flatMap((unit) => CHECKSUM_ORDER.map((kind): Tensor => unit[kind])),
    ({ id }) => id,
  );
}
