import { type StateName, stateKey } from "../../checkpoint/state.js";
import type { SlotBook } from "./slots.js";

/** What a rank says in the vote about the state that is being copied to other nodes. */
export interface ReplicaFlags {
  /** This rank's copy of it is whole in another place (or it needs none). All must be. */
  replicated: boolean;
  /** This rank's copy cannot be made. One is enough: another state is chosen. */
  replicaLost: boolean;
}

/** What a vote means for the copies. */
export interface ReplicaNews {
  /** Found in two places for every rank; null: nothing new. */
  confirmed: StateName | null;
  /** To be copied from now on; null: none is begun. */
  copy: StateName | null;
}

/**
 * Which state all ranks copy to other nodes, and which one they have there. Copies of different states do not combine, so
 * one state is chosen by the vote, kept by every rank, and another follows once all copies of it are whole. What is chosen
 * follows from the votes of this generation alone, so that it is equal on every rank, also on one that has just come. The
 * states are held in the rank's slots: a copy helps only those whose own part of the same state is still there.
 */
export class ReplicaLedger {
  private readonly book: SlotBook;
  private enabled = false;
  /** Found in two places by a vote of this generation. */
  private confirmed: StateName | null = null;
  /** What an older generation had in two places; held until this one has something there. */
  private prior: StateName | null = null;
  private candidate: StateName | null = null;
  private outcome: "pending" | "done" | "lost" = "pending";

  constructor(book: SlotBook) {
    this.book = book;
  }

  /**
   * A generation has restored its state. What was under way is over. `prior`: what an older one had in two places, as far
   * as this node knows; it stays where this rank's part of it is still there.
   */
  begin(enabled: boolean, prior: StateName | null): void {
    this.end();
    this.enabled = enabled;
    this.prior = enabled && prior !== null && this.book.hold(prior) !== null ? prior : null;
  }

  /** Nothing is held any more. */
  end(): void {
    for (const state of [this.confirmed, this.prior, this.candidate]) if (state) this.book.letGo(state);
    this.confirmed = null;
    this.prior = null;
    this.candidate = null;
    this.enabled = false;
  }

  get flags(): ReplicaFlags {
    const waits = this.candidate !== null;
    return { replicated: !waits || this.outcome === "done", replicaLost: waits && this.outcome === "lost" };
  }

  /** The newest state that the other node must not give up for another one; null: none is known here. */
  get kept(): StateName | null {
    return this.confirmed ?? this.prior;
  }

  /** Step whose state this generation's votes found in two places; 0: none yet. */
  get step(): number {
    return this.confirmed?.step ?? 0;
  }

  /** This rank's copy is whole, or cannot be made. */
  settled(state: StateName, whole: boolean): void {
    if (this.candidate === null || stateKey(state) !== stateKey(this.candidate)) return;
    this.outcome = whole ? "done" : "lost";
  }

  /** The vote is counted, the book knows it. */
  voted(vote: ReplicaFlags & { snapshotWhole: boolean; slotFree: boolean }): ReplicaNews {
    if (!this.enabled) return { confirmed: null, copy: null };
    const { confirmed } = this;
    if (vote.replicaLost) this.drop();
    else if (vote.replicated) this.promote();
    const copy = this.candidate === null ? this.begun(vote) : null;
    return { confirmed: this.confirmed === confirmed ? null : this.confirmed, copy };
  }

  private begun(vote: { snapshotWhole: boolean; slotFree: boolean }): StateName | null {
    const { agreedState } = this.book;
    // A state that some rank lacks is none to copy; without a free slot everywhere, holding one more would cost a save.
    if (!vote.snapshotWhole || !vote.slotFree || agreedState === null) return null;
    if (this.confirmed !== null && stateKey(this.confirmed) === stateKey(agreedState)) return null;
    this.candidate = agreedState;
    this.outcome = "pending";
    this.book.hold(agreedState);
    return agreedState;
  }

  private drop(): void {
    if (this.candidate !== null) this.book.letGo(this.candidate);
    this.candidate = null;
  }

  private promote(): void {
    if (this.candidate === null) return;
    if (this.confirmed !== null) this.book.letGo(this.confirmed);
    if (this.prior !== null) this.book.letGo(this.prior);
    this.confirmed = this.candidate;
    this.prior = null;
    this.candidate = null;
  }
}
