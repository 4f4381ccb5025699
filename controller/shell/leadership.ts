import type { Clock } from "../store/clock.js";
import type { LeaseId, Store } from "../store/store.js";

export const LEADER_KEY = "goku/leader";
const LEASE_MS = 10_000;
/** The lease counts as lost this much before the store may give it away. */
const SAFETY_MS = 1_000;

export interface LeadershipCallbacks {
  /** `fence`: create revision of the leader key; every write compares it. */
  onGained(fence: bigint): Promise<void>;
  onLost(reason: string): void;
}

/**
 * Leader election over the store: whoever creates the leader key under its own lease leads until the lease ends.
 * The hard case is a lease that the store has ended while this process slept: leadership is given up by our own clock,
 * counted from before the last acknowledged renewal was sent, so that two controllers never both believe they lead.
 */
export class Leadership {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #id: string;
  readonly #callbacks: LeadershipCallbacks;
  #lease: LeaseId | null = null;
  #leading = false;
  #deadlineMs = 0;
  #stopped = false;
  #cancel: () => void = () => {};

  constructor(options: { store: Store; clock: Clock; controllerId: string; callbacks: LeadershipCallbacks }) {
    this.#store = options.store;
    this.#clock = options.clock;
    this.#id = options.controllerId;
    this.#callbacks = options.callbacks;
  }

  /** Tries at once and resolves when the first try is over; goes on by itself. */
  async start(): Promise<void> {
    await this.#turn();
  }

  /** Gives up leadership; it is taken up again by the usual way. */
  async resign(reason: string): Promise<void> {
    if (!this.#leading) return;
    this.#leading = false;
    this.#callbacks.onLost(reason);
    const lease = this.#lease;
    this.#lease = null;
    if (lease) await this.#store.leaseRevoke(lease).catch(() => {});
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancel();
    await this.resign("this controller stops");
  }

  async #turn(): Promise<void> {
    try {
      if (this.#leading) await this.#renew();
      else await this.#campaign();
    } catch (error) {
      if (this.#leading && this.#clock.now() >= this.#deadlineMs)
        await this.resign(`the store does not answer: ${(error as Error).message}`);
    }
    if (!this.#stopped) this.#cancel = this.#clock.after(LEASE_MS / 4, () => void this.#turn());
  }

  async #campaign(): Promise<void> {
    const sentMs = this.#clock.now();
    this.#lease ??= await this.#store.leaseGrant(LEASE_MS);
    if (!(await this.#store.leaseRenew(this.#lease))) {
      this.#lease = null;
      return;
    }
    const value = new TextEncoder().encode(this.#id);
    const outcome = await this.#store.transact(
      [{ key: LEADER_KEY, createRevision: 0n }],
      [{ kind: "put", key: LEADER_KEY, value, lease: this.#lease }],
    );
    // Unknown may have been applied: the key says.
    const entry = await this.#store.get(LEADER_KEY);
    if (outcome.kind === "refused" && entry?.lease !== this.#lease) return;
    if (!entry || new TextDecoder().decode(entry.value) !== this.#id) return;
    this.#leading = true;
    this.#deadlineMs = sentMs + LEASE_MS - SAFETY_MS;
    await this.#callbacks.onGained(entry.createRevision);
  }

  async #renew(): Promise<void> {
    const sentMs = this.#clock.now();
    const alive =
      sentMs < this.#deadlineMs && this.#lease !== null && (await this.#store.leaseRenew(this.#lease));
    if (alive) this.#deadlineMs = sentMs + LEASE_MS - SAFETY_MS;
    else await this.resign("its lease on leadership has ended");
  }
}
