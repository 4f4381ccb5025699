import {
  parseSnapshotHead,
  readSnapshotHead,
  readSnapshotHeader,
  SnapshotCopy,
  sameSnapshot,
} from "../../checkpoint/snapshot.js";
import { type StateName, stateKey } from "../../checkpoint/state.js";
import type { ReplicaOffer, ReplicateResponse, SnapshotChunk } from "../../gen/goku/v1/peer.pb.js";
import { GokuError } from "../../job/errors.js";
import { Layout } from "../../job/layout.js";
import { compareStates } from "./snapshot_sets.js";
import type { SnapshotStore } from "./snapshot_store.js";
import { readLayout, readState } from "./wire.js";

/** What this node keeps in its present generation. */
export interface KeptScope {
  jobId: string;
  generation: bigint;
  layout: string;
  /** Ranks of other nodes. */
  ranks: readonly number[];
}

/** What a sender sends after its offer. */
export interface IncomingChunks {
  chunks: AsyncIterable<SnapshotChunk>;
  /** Ends `chunks`, also while the other side sends nothing: its connection may be dead, and nobody knows. */
  stop: () => void;
}

/** A sender hears how far it is after so many chunks. */
const ANSWER_EVERY = 16;

/**
 * The keeper's side of replicas: copies of snapshots that other nodes send. The newest state that is in two places
 * everywhere is never overwritten; what comes in takes the other slot. A copy that was cut off goes on where it was.
 */
export class KeptReplicas {
  private readonly store: SnapshotStore;
  private scope: KeptScope | null = null;
  /** By rank: what is coming in, or was cut off. */
  private readonly copies = new Map<number, SnapshotCopy>();
  /** By rank: who writes; a newer stream takes over. */
  private readonly writers = new Map<number, { cut: AbortController; ended: Promise<void> }>();
  /** Of the job: what must stay where a sender, which may be new, does not say it. */
  private safe: StateName | null = null;

  constructor(store: SnapshotStore) {
    this.store = store;
  }

  /** A generation begins, or the job is over here: what comes in for the old one ends. */
  begin(scope: KeptScope | null): void {
    if (scope?.jobId !== this.scope?.jobId) this.safe = null;
    this.scope = scope;
    for (const writer of this.writers.values()) writer.cut.abort();
    for (const [rank, copy] of this.copies) {
      this.copies.delete(rank);
      this.closeWhenIdle(rank, copy);
    }
  }

  /** Of a rank that does not say what is kept, copies of this state stay. */
  keepSafe(state: StateName): void {
    this.safe = state;
  }

  /**
   * Takes in one snapshot. Throws STATE_INVALID (not of this generation, not kept here, cut off), ARGUMENT_INVALID (not what
   * was offered), CHECKPOINT_CORRUPT (a chunk was damaged on the way), NATIVE_IO (no memory).
   */
  async receive(
    offer: ReplicaOffer,
    incoming: IncomingChunks,
    answer: (response: ReplicateResponse) => void,
  ): Promise<void> {
    this.requireScope(offer);
    requireHead(offer);
    const before = this.writers.get(offer.rank);
    before?.cut.abort();
    let ended = () => {};
    const cut = new AbortController();
    cut.signal.addEventListener("abort", incoming.stop);
    const writer = { cut, ended: new Promise<void>((resolve) => (ended = resolve)) };
    this.writers.set(offer.rank, writer);
    try {
      await before?.ended;
      await this.copyIn(offer, { chunks: incoming.chunks, answer, cut: cut.signal });
    } catch (error) {
      requireGoing(cut.signal, offer.rank); // whatever its end looked like from within
      throw error;
    } finally {
      if (this.writers.get(offer.rank) === writer) this.writers.delete(offer.rank);
      ended();
    }
  }

  private async copyIn(
    offer: ReplicaOffer,
    from: {
      chunks: AsyncIterable<SnapshotChunk>;
      answer: (response: ReplicateResponse) => void;
      cut: AbortSignal;
    },
  ): Promise<void> {
    const { chunks, answer, cut } = from;
    requireGoing(cut, offer.rank);
    const slots = this.store.replicaSlots(offer.jobId, offer.rank, readLayout(offer.layout).toString());
    if (slots.some((slot) => isOf(slot, offer.head))) {
      answer({ chunks: 0, whole: true });
      return;
    }
    const copy = await this.copyOf(offer, slots, cut);
    answer({ chunks: copy.count, whole: false });
    if (!copy.complete) {
      for await (const { index, data } of chunks) {
        requireGoing(cut, offer.rank);
        await copy.write(index, data);
        if (copy.complete) break;
        if (copy.count % ANSWER_EVERY === 0) answer({ chunks: copy.count, whole: false });
      }
    }
    requireGoing(cut, offer.rank);
    if (!copy.complete) return; // the sender broke off
    await copy.seal();
    this.copies.delete(offer.rank);
    await copy.close();
    answer({ chunks: copy.count, whole: true });
  }

  /** The copy that was cut off, if it is of the same snapshot; else a new one. */
  private async copyOf(
    offer: ReplicaOffer,
    slots: readonly string[],
    cut: AbortSignal,
  ): Promise<SnapshotCopy> {
    const found = this.copies.get(offer.rank);
    if (found?.isOf(offer.head)) return found;
    this.copies.delete(offer.rank);
    await found?.close();
    requireGoing(cut, offer.rank);
    const kept = offer.kept === undefined ? this.safe : readState(offer.kept);
    const copy = await SnapshotCopy.open(spareSlot(slots, kept), offer.head);
    if (cut.aborted) {
      await copy.close();
      requireGoing(cut, offer.rank);
    }
    this.copies.set(offer.rank, copy);
    return copy;
  }

  private requireScope(offer: ReplicaOffer): void {
    const { scope } = this;
    const layout = readLayout(offer.layout).toString();
    if (
      scope !== null &&
      scope.jobId === offer.jobId &&
      scope.generation === offer.generation &&
      scope.layout === layout &&
      scope.ranks.includes(offer.rank)
    )
      return;
    const keeps =
      scope === null
        ? "nothing"
        : `ranks ${scope.ranks.join(", ") || "none"} of generation ${scope.generation} of ${scope.jobId}`;
    throw new GokuError(
      "STATE_INVALID",
      `Cannot keep rank ${offer.rank} of generation ${offer.generation} of ${offer.jobId}: this node keeps ${keeps}`,
    );
  }

  private closeWhenIdle(rank: number, copy: SnapshotCopy): void {
    const idle = this.writers.get(rank)?.ended ?? Promise.resolve();
    idle.then(() => copy.close()).catch(() => {}); // its file is in memory: nothing is lost with the handle
  }
}

/** ARGUMENT_INVALID unless the head is of the snapshot that is offered. */
function requireHead(offer: ReplicaOffer): void {
  const doing = `Cannot keep rank ${offer.rank} of generation ${offer.generation}`;
  const header = parseSnapshotHead("offered", offer.head);
  if (header === null)
    throw new GokuError("ARGUMENT_INVALID", `${doing}: the head of what is offered is damaged`);
  const { meta, rank } = header;
  const layout = new Layout(meta.layout).toString();
  const same =
    rank === offer.rank &&
    layout === readLayout(offer.layout).toString() &&
    stateKey(meta.state) === stateKey(readState(offer.state));
  if (same) return;
  throw new GokuError(
    "ARGUMENT_INVALID",
    `${doing}: the head is of step ${meta.state.step} of rank ${rank} in layout ${layout}, not of what is offered`,
  );
}

function isOf(slot: string, head: Uint8Array): boolean {
  const held = readSnapshotHead(slot);
  return held !== null && parseSnapshotHead(slot, held) !== null && sameSnapshot(held, head);
}

function requireGoing(cut: AbortSignal, rank: number): void {
  if (!cut.aborted) return;
  throw new GokuError("STATE_INVALID", `Cannot go on with the copy of rank ${rank}: a newer one has begun`);
}

/** The slot that the next copy overwrites: one that holds nothing whole, else the older; never the one copy that is to stay. */
function spareSlot(slots: readonly string[], kept: StateName | null): string {
  const held = slots.map((path) => ({ path, state: readSnapshotHeader(path)?.meta.state ?? null }));
  const isKept = ({ state }: { state: StateName | null }) =>
    state !== null && kept !== null && stateKey(state) === stateKey(kept);
  const stays = held.find(isKept);
  return held.filter((slot) => slot !== stays).sort((a, b) => compareStates(a.state, b.state))[0]!.path;
}
