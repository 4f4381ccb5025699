import type { Native } from "../engine/native.js";
import type { StateTarget, StateTensors } from "../parallel/trainer.js";
import { flipBit } from "./flip_bit.js";
import type { SnapshotPages } from "./snapshot_pages.js";
import type { StateMemory } from "./state_memory.js";

/** The state lies in its slot: the optimizer writes the next one into another, and the old slot is a snapshot without a copy. */
export class StateInPages implements StateMemory {
  readonly copying = false;
  private readonly native: Native;
  private readonly pages: SnapshotPages;
  /** Slots whose checksums are made with their content. */
  private readonly summed = new Set<number>();

  constructor(native: Native, pages: SnapshotPages) {
    this.native = native;
    this.pages = pages;
  }

  tensors(index: number): readonly StateTensors[] {
    return this.pages.tensors(index);
  }

  begin(index: number, snapshot: boolean): StateTarget {
    if (snapshot) this.summed.add(index);
    else this.summed.delete(index);
    return this.pages.begin(index, snapshot);
  }

  copyStart(): void {}

  copied(index: number): void {
    if (!this.summed.has(index)) this.pages.sum(index);
  }

  load(index: number): Uint32Array {
    return this.pages.sum(index);
  }

  damaged(index: number): number {
    const damaged = this.pages.damaged(index);
    if (damaged > 0) this.pages.spoil(this.pages.slotPath(index));
    return damaged;
  }

  flipBit(index: number): void {
    flipBit(this.native, this.tensors(index));
  }

  close(): void {}
}
