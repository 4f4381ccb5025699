import { GokuError, toGokuError } from "../../job/errors.js";
import type { CommId, Native, Ticket } from "../engine/native.js";
import { failpoint } from "../failpoints.js";
import { type CollectiveWaits, noWaits, type WaitKind } from "../progress.js";
import { abortGroups, type Groups } from "./groups.js";

/**
 * The collectives of one rank with their bookkeeping: which are in flight, and how long this rank waited for others.
 * Buffers of a collective must live until `wait` has returned, hence `abandon` before freeing after an error.
 */
export class Collectives {
  readonly native: Native;
  /** Replaced when a new generation is formed. */
  groups: Groups;
  /** Seconds spent inside `wait`. */
  waitSeconds = 0;
  /** The same, by what was waited for. */
  waits: CollectiveWaits = noWaits();
  private readonly flying = new Map<Ticket, WaitKind | null>();

  constructor(native: Native, groups: Groups) {
    this.native = native;
    this.groups = groups;
  }

  /** Remembers a collective that was started; null: one that no step waits for. */
  started(kind: WaitKind | null, ticket: Ticket): Ticket {
    this.flying.set(ticket, kind);
    return ticket;
  }

  /** Blocks until done; throws GokuError COMM_*. */
  wait(ticket: Ticket): void {
    failpoint("collective.entered");
    const begun = performance.now();
    const kind = this.flying.get(ticket);
    this.flying.delete(ticket);
    try {
      this.native.commWait(ticket);
    } catch (error) {
      throw toGokuError(error);
    } finally {
      const seconds = (performance.now() - begun) / 1000;
      this.waitSeconds += seconds;
      if (kind) this.waits[kind] += seconds;
    }
  }

  /** A step begins: nothing was waited for yet. */
  forgetWaits(): void {
    this.waitSeconds = 0;
    this.waits = noWaits();
  }

  /** The group, where there must be one. */
  require(group: keyof Groups): CommId {
    const comm = this.groups[group];
    if (comm === null)
      throw new GokuError("INTERNAL", `Cannot communicate: the ${group} group of this rank is not connected`);
    return comm;
  }

  /** After an error: aborts the groups and waits until nothing touches a buffer any more. */
  abandon(): void {
    if (this.flying.size === 0) return;
    abortGroups(this.native, this.groups);
    for (const ticket of this.flying.keys()) {
      try {
        this.native.commWait(ticket);
      } catch {
        // The first error is already on its way to the caller; these are its echoes.
      }
    }
    this.flying.clear();
  }
}
