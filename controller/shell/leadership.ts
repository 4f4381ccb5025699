import { GokuError } from "../../job/errors.js";
import type { Clock } from "../store/clock.js";
import type { LeaseId, Store } from "../store/store.js";

export const LEADER_KEY = "goku/leader";
const LEASE_MS = 10_000;
/** The lease counts as lost this much before the store may give it away. */
const SAFETY_MS = 1_000;

export interface LeadershipCallbacks<Known> {
  /** The election is won: reads what a leader must know. When it throws, leadership is given up and tried for again. */
  onWon(): Promise<Known>;
  /** Leads from now on. `fence`: create revision of the leader key; every write compares it. */
  onGained(fence: bigint, known: Known): void;
  onLost(reason: string): void;
  /** Electing or renewing failed this time; it is tried again. */
  onFailed(error: Error): void;
}

/**
 * Leader election over the store: whoever creates the leader key under its own lease leads until the lease ends.
 * The hard case is a lease that the store has ended while this process slept: leadership is given up by our own clock,
 * counted from before the last acknowledged renewal was sent, so that two controllers never both believe they lead.
 */
export class Leadership<Known> {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #id: string;
  readonly #callbacks: LeadershipCallbacks<Known>;
  #lease: LeaseId | null = null;
  #leading = false;
  #deadlineMs = 0;
  #stopped = false;
  #cancel: () => void = () => {};

  constructor(options: {
    store: Store;
    clock: Clock;
    controllerId: string;
    callbacks: LeadershipCallbacks<Known>;
  }) {
    this.#store = options.store;
    this.#clock = options.clock;
    this.#id = options.controllerId;
    this.#callbacks = options.callbacks;
  }

  /** Tries once, and goes on by itself. Throws what makes the first try fail; that another leads does not. */
  async start(): Promise<void> {
    await this.#campaign();
    this.#schedule();
  }

  /** Gives up leadership; it is taken up again by the usual way. */
  async resign(reason: string): Promise<void> {
    if (!this.#leading) return;
    this.#leading = false;
    this.#callbacks.onLost(reason);
    await this.#endLease();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancel();
    await this.resign("this controller stops");
  }

  #schedule(): void {
    if (!this.#stopped) this.#cancel = this.#clock.after(LEASE_MS / 4, () => void this.#turn());
  }

  async #turn(): Promise<void> {
    try {
      if (this.#leading) await this.#renew();
      else await this.#campaign();
    } catch (error) {
      this.#callbacks.onFailed(error as Error);
      if (this.#leading && this.#clock.now() >= this.#deadlineMs)
        await this.resign(`the store does not answer: ${(error as Error).message}`);
    }
    this.#schedule();
  }

  async #campaign(): Promise<void> {
    const sentMs = this.#clock.now();
    this.#lease ??= await this.#store.leaseGrant(LEASE_MS);
    if (!(await this.#store.leaseRenew(this.#lease))) {
      this.#lease = null;
      return;
    }
    const value = new TextEncoder().encode(this.#id);
    await this.#store.transact(
      [{ key: LEADER_KEY, createRevision: 0n }],
      [{ kind: "put", key: LEADER_KEY, value, lease: this.#lease }],
    );
    // However that ended (unknown may have been applied), the key says.
    const entry = await this.#store.get(LEADER_KEY);
    if (entry === null || entry.lease !== this.#lease) return;
    try {
      this.#gain(entry.createRevision, sentMs + LEASE_MS - SAFETY_MS, await this.#callbacks.onWon());
    } catch (error) {
      await this.#endLease();
      throw error;
    }
  }

  #gain(fence: bigint, deadlineMs: number, known: Known): void {
    if (this.#stopped || this.#clock.now() >= deadlineMs) {
      throw new GokuError(
        "STORE_UNAVAILABLE",
        "Cannot lead: the lease was over before the store had been read",
      );
    }
    this.#leading = true;
    this.#deadlineMs = deadlineMs;
    this.#callbacks.onGained(fence, known);
  }

  async #renew(): Promise<void> {
    const sentMs = this.#clock.now();
    const alive =
      sentMs < this.#deadlineMs && this.#lease !== null && (await this.#store.leaseRenew(this.#lease));
    if (alive) this.#deadlineMs = sentMs + LEASE_MS - SAFETY_MS;
    else await this.resign("its lease on leadership has ended");
  }

  async #endLease(): Promise<void> {
    const lease = this.#lease;
    this.#lease = null;
    if (lease !== null) await this.#store.leaseRevoke(lease).catch(() => {});
  }
}
