import type { StateName } from "../../controller/core/contract.js";
import { compareStates, sameState } from "../../controller/core/state_name.js";
import type { HeldState } from "../../controller/core/wire.js";
import { SLOT_COUNT_REPLICATED } from "../../worker/rank/slots.js";
import type { Content } from "./sim_content.js";

/** Checksummed pieces of a snapshot, of which each may be damaged by itself. */
export const CHUNK_COUNT = 4;
/** The replicated state and the one that is coming. */
const REPLICAS_COUNT_MAX = 2;

/** A snapshot that was whole when it was sealed. */
export interface Copy {
  content: Content;
  /** Chunks that do not match their checksums any more. */
  damaged: Set<number>;
}

/**
 * What a node's RAM holds of a job: per rank and layout a set of slot files, and replicas of ranks of other nodes. Which slot
 * is written next the rank's own book says. Outlives agents, not the machine.
 */
export class SimMemory {
  jobId: string | null = null;
  /** Newest state of the job that its ranks told to be in two places everywhere, as the node's record has it. */
  replicated: StateName | null = null;
  /** Grows when everything is freed. */
  epoch = 0;
  /** By set: one entry for each slot file; null holds nothing whole. */
  readonly #sets = new Map<string, (Copy | null)[]>();
  readonly #replicas = new Map<string, Copy[]>();

  /** What each slot file of a set holds whole; the files are made where they are not. */
  slots(set: string): readonly (Copy | null)[] {
    return this.#slots(set);
  }

  /** A slot is being written, or found damaged: it holds nothing whole. */
  spoil(set: string, index: number): void {
    const slots = this.#sets.get(set);
    if (slots !== undefined) slots[index] = null;
  }

  seal(set: string, index: number, content: Content): void {
    this.#slots(set)[index] = { content, damaged: new Set() };
  }

  /** In the slots of the rank itself. */
  findOwn(set: string, state: StateName): Copy | null {
    return this.#sets.get(set)?.find((copy) => copy !== null && sameState(copy.content.state, state)) ?? null;
  }

  findReplica(set: string, state: StateName): Copy | null {
    return this.#replicas.get(set)?.find(({ content }) => sameState(content.state, state)) ?? null;
  }

  /** There, or kept as a replica. */
  find(set: string, state: StateName): Copy | null {
    return this.findOwn(set, state) ?? this.findReplica(set, state);
  }

  /** Every copy of a shard, of any rank that holds it, own or kept. */
  copiesOf(wanted: { layout: string; isOfShard: (rank: number) => boolean; state: StateName }): Copy[] {
    const { layout, isOfShard, state } = wanted;
    const sets = [...new Set([...this.#sets.keys(), ...this.#replicas.keys()])].filter((set) => {
      const place = placeOf(set);
      return place.layout === layout && isOfShard(place.rank);
    });
    return sets.flatMap((set) => [this.findOwn(set, state) ?? [], this.findReplica(set, state) ?? []].flat());
  }

  /** Every copy there is, in a fixed order. */
  copies(): Copy[] {
    const own = [...this.#sets.values()].flat().filter((copy) => copy !== null);
    return [...own, ...[...this.#replicas.values()].flat()];
  }

  /** Takes in a replica in place of the older one; never of the one that must stay. */
  keepReplica(set: string, content: Content, kept: StateName | null): void {
    const others = (this.#replicas.get(set) ?? []).filter(
      (each) => !sameState(each.content.state, content.state),
    );
    const stays = ({ content: { state } }: Copy) => Number(kept !== null && sameState(state, kept));
    others.sort((a, b) => stays(b) - stays(a) || compareStates(b.content.state, a.content.state));
    this.#replicas.set(set, [{ content, damaged: new Set() }, ...others.slice(0, REPLICAS_COUNT_MAX - 1)]);
  }

  /** What is whole as far as headers tell: damage is found by whoever reads. */
  states(set: string): StateName[] {
    const own = (this.#sets.get(set) ?? []).flatMap((copy) => copy?.content.state ?? []);
    const kept = (this.#replicas.get(set) ?? []).map(({ content }) => content.state);
    return [...own, ...kept.filter((state) => !own.some((each) => sameState(each, state)))];
  }

  held(): HeldState[] {
    return [...new Set([...this.#sets.keys(), ...this.#replicas.keys()])].flatMap((set) =>
      this.states(set).map((state) => ({ state, ...placeOf(set) })),
    );
  }

  /** Frees every set of slots that is not wanted. */
  keepSets(wanted: (set: string) => boolean): void {
    for (const set of this.#sets.keys()) if (!wanted(set)) this.#sets.delete(set);
  }

  /** Frees every replica that is not of a wanted set. */
  keepReplicas(wanted: (set: string) => boolean): void {
    for (const set of this.#replicas.keys()) if (!wanted(set)) this.#replicas.delete(set);
  }

  clear(): void {
    this.epoch += 1;
    this.#sets.clear();
    this.#replicas.clear();
    this.jobId = null;
    this.replicated = null;
  }

  #slots(set: string): (Copy | null)[] {
    let slots = this.#sets.get(set);
    if (slots === undefined) {
      slots = Array.from({ length: SLOT_COUNT_REPLICATED }, () => null);
      this.#sets.set(set, slots);
    }
    return slots;
  }
}

function placeOf(set: string): { layout: string; rank: number } {
  const at = set.indexOf("/");
  return { layout: set.slice(0, at), rank: Number(set.slice(at + 1)) };
}
