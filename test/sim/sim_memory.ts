import type { StateName } from "../../controller/core/contract.js";
import { compareStates, sameState } from "../../controller/core/state_name.js";
import type { HeldState } from "../../controller/core/wire.js";

/** A training state as far as a simulation needs it: its name, and a digest of the packs it has consumed. */
export interface Content {
  state: StateName;
  /** Grows by one mix per step: two states of equal step agree only if they consumed the same packs. */
  digest: number;
}

/** Who must not lose a slot's content: a durable save, or the vote on replicas. */
type Pin = "save" | "replica";

interface Slot {
  content: Content | null;
  whole: boolean;
  pins: Set<Pin>;
}

/** Two alternate, one is for a save, two for the replicated state and the one that is being sent. */
const SLOT_COUNT = 5;
/** The replicated state and the one that is coming. */
const REPLICAS_COUNT_MAX = 2;

/**
 * What a node's RAM holds of a job: per rank and layout a set of snapshot slots, and replicas of ranks of other nodes.
 * Outlives agents, not the machine.
 */
export class SimMemory {
  jobId: string | null = null;
  /** Grows when everything is freed. */
  epoch = 0;
  readonly #sets = new Map<string, Slot[]>();
  readonly #replicas = new Map<string, Content[]>();
  /** Newest state that the rank of a set has known to be replicated. */
  readonly #replicated = new Map<string, StateName>();

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
      if (slot.pins.size > 0 || slot === kept) continue;
      if (chosen === null || age(slot) < age(chosen)) chosen = slot;
    }
    return chosen;
  }

  /** In the slots of the rank itself. */
  findOwn(set: string, state: StateName): Content | null {
    return this.#whole(set, state)?.content ?? null;
  }

  /** There, or kept as a replica. */
  find(set: string, state: StateName): Content | null {
    const replica = this.#replicas.get(set)?.find((content) => sameState(content.state, state));
    return this.findOwn(set, state) ?? replica ?? null;
  }

  /** Of any rank that holds that shard, own or kept. */
  findShard(wanted: {
    layout: string;
    isOfShard: (rank: number) => boolean;
    state: StateName;
  }): Content | null {
    const { layout, isOfShard, state } = wanted;
    for (const held of this.held()) {
      if (held.layout !== layout || !isOfShard(held.rank) || !sameState(held.state, state)) continue;
      return this.find(`${layout}/${held.rank}`, state);
    }
    return null;
  }

  pinForSave(set: string, state: StateName, pinned: boolean): void {
    const pins = this.#whole(set, state)?.pins;
    if (pinned) pins?.add("save");
    else pins?.delete("save");
  }

  /** What the vote said: the newest replicated state and the one that is being sent are not overwritten, others may be. */
  pinReplicated(set: string, replicated: StateName | null, sent: StateName | null): void {
    if (replicated !== null) this.#replicated.set(set, replicated);
    for (const { whole, content, pins } of this.#slots(set)) {
      if (whole && isOneOf(content!.state, [replicated, sent])) pins.add("replica");
      else pins.delete("replica");
    }
  }

  replicatedOf(set: string): StateName | null {
    return this.#replicated.get(set) ?? null;
  }

  /** Takes in a replica in place of the oldest. */
  keepReplica(set: string, content: Content): void {
    const others = (this.#replicas.get(set) ?? []).filter((each) => !sameState(each.state, content.state));
    const kept = [...others, content].sort((a, b) => compareStates(b.state, a.state));
    this.#replicas.set(set, kept.slice(0, REPLICAS_COUNT_MAX));
  }

  states(set: string): StateName[] {
    const own = (this.#sets.get(set) ?? []).flatMap((slot) => (slot.whole ? [slot.content!.state] : []));
    const kept = (this.#replicas.get(set) ?? []).map((content) => content.state);
    return [...own, ...kept.filter((state) => !own.some((each) => sameState(each, state)))];
  }

  held(): HeldState[] {
    return [...new Set([...this.#sets.keys(), ...this.#replicas.keys()])].flatMap((set) => {
      const at = set.indexOf("/");
      const layout = set.slice(0, at);
      const rank = Number(set.slice(at + 1));
      return this.states(set).map((state) => ({ state, rank, layout }));
    });
  }

  /** Frees every set of slots that is not wanted. */
  keepSets(wanted: (set: string) => boolean): void {
    for (const set of this.#sets.keys()) if (!wanted(set)) this.#sets.delete(set);
  }

  /** Frees every replica that is not of a wanted set. */
  keepReplicas(wanted: (set: string) => boolean): void {
    for (const set of this.#replicas.keys()) if (!wanted(set)) this.#replicas.delete(set);
  }

  /** Frees replicas of states that the vote does not speak of: what was being sent when a generation failed. */
  keepReplicasOf(replicated: StateName | null, sent: StateName): void {
    for (const [set, contents] of this.#replicas) {
      this.#replicas.set(
        set,
        contents.filter(({ state }) => isOneOf(state, [replicated, sent])),
      );
    }
  }

  clear(): void {
    this.epoch += 1;
    this.#sets.clear();
    this.#replicas.clear();
    this.#replicated.clear();
    this.jobId = null;
  }

  /** No process writes any more: what was being written stays torn, no save is under way. */
  settle(): void {
    this.endSaves();
    for (const slots of this.#sets.values()) for (const slot of slots) if (!slot.whole) slot.content = null;
  }

  endSaves(): void {
    for (const slots of this.#sets.values()) for (const slot of slots) slot.pins.delete("save");
  }

  #slots(set: string): Slot[] {
    let slots = this.#sets.get(set);
    if (slots === undefined) {
      slots = Array.from({ length: SLOT_COUNT }, () => ({
        content: null,
        whole: false,
        pins: new Set<Pin>(),
      }));
      this.#sets.set(set, slots);
    }
    return slots;
  }

  #whole(set: string, state: StateName): Slot | undefined {
    return this.#sets.get(set)?.find((slot) => slot.whole && compareStates(slot.content!.state, state) === 0);
  }
}

function isOneOf(state: StateName, states: readonly (StateName | null)[]): boolean {
  return states.some((each) => each !== null && sameState(each, state));
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
