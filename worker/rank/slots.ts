import { type StateName, stateKey } from "../../checkpoint/state.js";
import { compareGenerations } from "../../checkpoint/state_json.js";

/** One slot file of a rank: a whole snapshot of `state`, or nothing whole. */
export interface Slot {
  index: number;
  state: StateName | null;
  /** Durable saves that read it; while there are any it must not be overwritten, unless there is no other slot. */
  pins: number;
  /** A preview reads it: as one more pin, which is given up before that of a save. */
  previewed: boolean;
  /** The state is copied to other nodes, or was, or is being read from here: it is never overwritten. */
  holds: number;
}

/** Two are needed; two more are there while saves pin some, and keep older states meanwhile. */
export const SLOT_COUNT = 4;
/** The one that is being read, and the one that is due. */
const PREVIEWS_PINNED_MAX = 2;
/** One more where states are copied to other nodes: the one that is there and the one under way stay, too. */
export const SLOT_COUNT_REPLICATED = SLOT_COUNT + 1;

/**
 * Book of a rank's snapshot slots. The rank computes with the state where it lies: in the *live* slot. The optimizer
 * writes the next state into another one, and the old slot is a snapshot without a copy. Two states matter: the one
 * *agreed* (a vote found it whole on every rank) and the *last* one sealed here, which the next vote agrees on. A slot is
 * free when it is neither pinned nor needed; the live one, too, where its state is no snapshot.
 * Pure bookkeeping; the pages are SnapshotPages' business.
 */
export class SlotBook {
  readonly slots: readonly Slot[];
  /** Holds the state that the rank computes with; null before there is one. */
  live: Slot | null = null;
  private agreed: string | null = null;
  private last: string | null = null;
  private lastWhole = true;

  /** @param states what each slot file holds whole, by index */
  constructor(states: readonly (StateName | null)[]) {
    this.slots = states.map((state, index) => ({ index, state, pins: 0, previewed: false, holds: 0 }));
  }

  /** A generation starts from `state`, which every rank has; here it is in the live slot, whole or not yet. */
  restoredTo(state: StateName): void {
    this.agreed = stateKey(state);
    this.last = this.agreed;
    this.lastWhole = true;
  }

  /** What this rank says in the vote of the next step. */
  get flags(): { snapshotWhole: boolean; slotFree: boolean } {
    // Until the vote is counted, either the agreed or the last state may turn out to be the one to keep.
    const free = this.freeSlots(this.last).length > 0 && this.freeSlots(this.agreed).length > 0;
    // A save may pin the next snapshot, a copy to another node may begin with it, and the state after it needs a slot all
    // the same.
    const held = this.slots.filter(({ holds }) => holds > 0).length;
    const slotFree = free && this.slots.filter(isOpen).length > (held === 1 ? 2 : 1);
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

  /**
   * The slot that the next state goes to, live from now on; it holds nothing whole until `written`. Where none is free one
   * is taken from a save, which then fails: the live slot's, whose state some rank lacks, else the oldest. The agreed
   * state always stays.
   */
  take(): Slot {
    const free = this.freeSlots(this.agreed);
    const live = this.live !== null && !this.holds(this.live, this.agreed) ? this.live : null;
    const slot = live !== null && free.includes(live) ? live : (free[0] ?? live ?? this.oldest());
    slot.state = null;
    slot.pins = 0;
    slot.previewed = false;
    slot.holds = 0;
    this.live = slot;
    return slot;
  }

  /** The rank goes on with the state that this slot holds whole. */
  adopt(slot: Slot): void {
    this.live = slot;
  }

  /** The live slot was sealed. A slot of the same name, of another restore, must not be taken for it. */
  written(state: StateName): void {
    const same = this.find(state);
    if (same !== null && same !== this.live) same.state = null;
    this.live!.state = state;
    this.last = stateKey(state);
    this.lastWhole = true;
  }

  /** The newest state was to be a snapshot and could not be sealed here: the next vote says so. */
  failed(): void {
    this.lastWhole = false;
  }

  /** The state that the last vote found whole on every rank; null: none that is here. */
  get agreedState(): StateName | null {
    return this.slots.find((slot) => this.holds(slot, this.agreed))?.state ?? null;
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
      slot.previewed = false;
      slot.holds = 0;
    }
  }

  /** Takes the slots of exactly these states, where there are any, as pinned, each once; no preview reads any. */
  setPins(states: readonly StateName[]): void {
    for (const slot of this.slots) {
      slot.pins = 0;
      slot.previewed = false;
    }
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

  /**
   * Keeps the slot of `state` until a preview has been drawn from it or left out. One may still be read when the next is
   * due; of more than two the oldest was forgotten, by a controller that is gone.
   */
  pinPreview(state: StateName): void {
    const slot = this.find(state);
    if (slot) slot.previewed = true;
    this.forgetPreviews(PREVIEWS_PINNED_MAX);
  }

  /**
   * One is due, and left out, since some rank has no slot free. As if it were pinned: of two before it the older was forgotten, and
   * would stay for ever, since nothing is pinned while no slot is free.
   */
  previewLeftOut(): void {
    this.forgetPreviews(PREVIEWS_PINNED_MAX - 1);
  }

  private forgetPreviews(count: number): void {
    const kept = this.slots.filter(({ previewed }) => previewed).sort(byAge);
    for (const forgotten of kept.slice(0, -count)) forgotten.previewed = false;
  }

  /** Nobody reads it for a preview any more. */
  unpinPreview(state: StateName): void {
    const slot = this.find(state);
    if (slot) slot.previewed = false;
  }

  /** As `pin`, and it is not even taken when no other slot is left. Null: the state is not here. */
  hold(state: StateName): Slot | null {
    const slot = this.find(state);
    if (slot) slot.holds++;
    return slot;
  }

  letGo(state: StateName): void {
    const slot = this.find(state);
    if (slot && slot.holds > 0) slot.holds--;
  }

  /** Of those that are pinned; what no save reads goes first. */
  private oldest(): Slot {
    const takeable = (slot: Slot) => slot.holds === 0 && !this.holds(slot, this.agreed);
    const saved = ({ pins }: Slot) => Number(pins > 0);
    return this.slots.filter(takeable).sort((a, b) => saved(a) - saved(b) || byAge(a, b))[0]!;
  }

  private holds(slot: Slot, key: string | null): boolean {
    return slot.state !== null && stateKey(slot.state) === key;
  }

  /** Neither pinned nor held, and not that of `kept`; empty ones first, then the oldest, since any state may yet be restored from. */
  private freeSlots(kept: string | null): Slot[] {
    return this.slots.filter((slot) => isOpen(slot) && !this.holds(slot, kept)).sort(byAge);
  }
}

function isOpen({ pins, previewed, holds }: Slot): boolean {
  return pins === 0 && !previewed && holds === 0;
}

function byAge(a: Slot, b: Slot): number {
  if (a.state === null || b.state === null) return Number(a.state !== null) - Number(b.state !== null);
  return compareGenerations(a.state.generation, b.state.generation) || a.state.step - b.state.step;
}
