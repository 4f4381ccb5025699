import { type StateName, stateKey } from "../../checkpoint/state.js";

/** One slot file of a rank: a whole snapshot of `state`, or nothing whole. */
export interface Slot {
  index: number;
  state: StateName | null;
  /** Durable saves that read it; while there are any it must not be overwritten. */
  pins: number;
}

/** Two alternate; a third is there while a save pins one. */
export const SLOT_COUNT = 3;

/**
 * Book of a rank's snapshot slots. Two states matter: the one *agreed* (a vote found it whole on every rank) and the
 * *last* one written here, which the next vote agrees on. A slot is free when it is neither pinned nor needed.
 * Pure bookkeeping; the pages are SnapshotPages' business.
 */
export class SlotBook {
  readonly slots: readonly Slot[];
  private agreed: string | null = null;
  private last: string | null = null;
  private lastWhole = true;

  /** @param states what each slot file holds whole, by index */
  constructor(states: readonly (StateName | null)[]) {
    this.slots = states.map((state, index) => ({ index, state, pins: 0 }));
  }

  /** A generation starts from `state`, which every rank has, in a slot or from elsewhere. */
  restoredTo(state: StateName): void {
    this.agreed = stateKey(state);
    this.last = this.agreed;
    this.lastWhole = true;
  }

  /** What this rank says in the vote of the next step. */
  get flags(): { snapshotWhole: boolean; slotFree: boolean } {
    // Until the vote is counted, either the agreed or the last state may turn out to be the one to keep.
    const slotFree = this.freeSlots(this.last).length > 0 && this.freeSlots(this.agreed).length > 0;
    return { snapshotWhole: this.lastWhole, slotFree };
  }

  /**
   * The vote is counted. All ranks have their last snapshot whole: that state is now the agreed one, and what was agreed
   * before may be overwritten. Else the last one is of no use to anybody, and the agreed one stays.
   */
  voted(snapshotWhole: boolean): void {
    if (snapshotWhole) this.agreed = this.last;
    else this.last = this.agreed;
    this.lastWhole = true;
  }

  /** The slot to write next; null: none is free. It holds nothing whole until `written`. */
  take(): Slot | null {
    const slot = this.freeSlots(this.agreed)[0] ?? null;
    if (slot) slot.state = null;
    return slot;
  }

  written(slot: Slot, state: StateName): void {
    slot.state = state;
    this.last = stateKey(state);
    this.lastWhole = true;
  }

  /** The copy of the newest state failed here: the next vote says so. */
  failed(): void {
    this.lastWhole = false;
  }

  find(state: StateName): Slot | null {
    const key = stateKey(state);
    return this.slots.find((slot) => slot.state !== null && stateKey(slot.state) === key) ?? null;
  }

  /** Some slots were found damaged. `states`: what each holds whole now. */
  reread(states: readonly (StateName | null)[]): void {
    for (const slot of this.slots) {
      if (states[slot.index] !== null) continue;
      slot.state = null;
      slot.pins = 0; // the save that reads it fails
    }
  }

  /** Takes the slots of exactly these states, where there are any, as pinned, each once. */
  setPins(states: readonly StateName[]): void {
    for (const slot of this.slots) slot.pins = 0;
    for (const state of states) this.pin(state);
  }

  /** Keeps the slot of `state`, if there is one, until `unpin` was called as often. */
  pin(state: StateName): Slot | null {
    const slot = this.find(state);
    if (slot) slot.pins++;
    return slot;
  }

  unpin(state: StateName): void {
    const slot = this.find(state);
    if (slot && slot.pins > 0) slot.pins--;
  }

  /** Not pinned and not holding `kept`. Those once filled come first: their memory is there already. */
  private freeSlots(kept: string | null): Slot[] {
    const free = this.slots.filter(
      (slot) => slot.pins === 0 && (slot.state === null || stateKey(slot.state) !== kept),
    );
    return [...free.filter((slot) => slot.state !== null), ...free.filter((slot) => slot.state === null)];
  }
}
