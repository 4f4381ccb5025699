import type { StateName } from "../../controller/core/contract.js";
import { compareStates } from "../../controller/core/state_name.js";
import type { HeldState } from "../../controller/core/wire.js";

/** A training state as far as a simulation needs it: its name, and a digest of the packs it has consumed. */
export interface Content {
  state: StateName;
  /** Grows by one mix per step: two states of equal step agree only if they consumed the same packs. */
  digest: number;
}

interface Slot {
  content: Content | null;
  whole: boolean;
  pinned: boolean;
}

const SLOT_COUNT = 3;

/** What a node's RAM holds of a job: per rank and layout three snapshot slots. Outlives agents, not the machine. */
export class SimMemory {
  jobId: string | null = null;
  readonly #sets = new Map<string, Slot[]>();

  /**
   * Takes a slot to write `content` into: never a pinned one, never that of `keep`, the state that was voted on last.
   * Null: none is free.
   */
  begin(set: string, content: Content, keep: StateName | null): { finish: () => void } | null {
    const slot = this.#free(set, keep);
    if (slot === null) return null;
    slot.content = content;
    slot.whole = false;
    return {
      finish: () => {
        if (slot.content === content) slot.whole = true;
      },
    };
  }

  hasFree(set: string, keep: StateName | null): boolean {
    return this.#free(set, keep) !== null;
  }

  #free(set: string, keep: StateName | null): Slot | null {
    const kept = keep === null ? undefined : this.#whole(set, keep);
    let chosen: Slot | null = null;
    for (const slot of this.#slots(set)) {
      if (slot.pinned || slot === kept) continue;
      if (chosen === null || age(slot) < age(chosen)) chosen = slot;
    }
    return chosen;
  }

  find(set: string, state: StateName): Content | null {
    return this.#whole(set, state)?.content ?? null;
  }

  pin(set: string, state: StateName, pinned: boolean): void {
    const slot = this.#whole(set, state);
    if (slot) slot.pinned = pinned;
  }

  states(set: string): StateName[] {
    const states: StateName[] = [];
    for (const slot of this.#sets.get(set) ?? []) if (slot.whole) states.push(slot.content!.state);
    return states;
  }

  held(): HeldState[] {
    const held: HeldState[] = [];
    for (const [set, slots] of this.#sets) {
      const at = set.indexOf("/");
      const layout = set.slice(0, at);
      const rank = Number(set.slice(at + 1));
      for (const slot of slots) if (slot.whole) held.push({ state: slot.content!.state, rank, layout });
    }
    return held;
  }

  /** Frees everything but these sets. */
  keepOnly(sets: ReadonlySet<string>): void {
    for (const set of this.#sets.keys()) if (!sets.has(set)) this.#sets.delete(set);
  }

  clear(): void {
    this.#sets.clear();
    this.jobId = null;
  }

  /** No process writes any more: what was being written stays torn, nothing is pinned. */
  settle(): void {
    this.unpinAll();
    for (const slots of this.#sets.values()) for (const slot of slots) if (!slot.whole) slot.content = null;
  }

  unpinAll(): void {
    for (const slots of this.#sets.values()) for (const slot of slots) slot.pinned = false;
  }

  #slots(set: string): Slot[] {
    let slots = this.#sets.get(set);
    if (slots === undefined) {
      slots = Array.from({ length: SLOT_COUNT }, () => ({ content: null, whole: false, pinned: false }));
      this.#sets.set(set, slots);
    }
    return slots;
  }

  #whole(set: string, state: StateName): Slot | undefined {
    return this.#sets.get(set)?.find((slot) => slot.whole && compareStates(slot.content!.state, state) === 0);
  }
}

/** Torn and empty slots go first, then the oldest state. */
function age(slot: Slot): number {
  if (!slot.whole) return -1;
  return slot.content!.state.generation * 1e6 + slot.content!.state.step;
}

/** Digest after consuming the packs of one more step. */
export function mixStep(digest: number, step: number): number {
  return (Math.imul(digest ^ step, 0x01000193) + step) >>> 0;
}
