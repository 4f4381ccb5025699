import { GokuError } from "../../job/errors.js";
import type { LeaderAddresses } from "../api/not_leader_error.js";
import type { Clock } from "../store/clock.js";
import type { LeaseId, Store, StoreEntry, StoreEvent, StoreWatch } from "../store/store.js";
import { decodeLeader, encodeLeader, type LeaderRecord } from "./leader_record.js";

export const LEADER_KEY = "goku/leader";
const TOO_LATE = "the store has not renewed its lease on leadership in time";

export interface LeadershipCallbacks<Known> {
  /** The election is won: reads what a leader must know. When it throws, leadership is given up and tried for again. */
  onWon(): Promise<Known>;
  /** Leads from now on. `fence`: create revision of the leader key; every write compares it. */
  onGained(fence: bigint, known: Known): void;
  onLost(reason: string): void;
  /** Electing or renewing failed this time; it is tried again. */
  onFailed(error: Error): void;
  /** The store has answered: this controller leads, or another one does. */
  onAnswered(): void;
  /** What the store says of who leads, while this controller does not; null: nobody. */
  onOther(leader: LeaderRecord | null): void;
}

/**
 * Leader election over the store: whoever creates the leader key under its own lease leads until the lease ends.
 * The hard case is a lease that the store has ended while this process slept or could not reach it: leadership is given
 * up by our own clock, counted from before the last acknowledged renewal was sent, so that two controllers never both
 * believe they lead. Renewals go out at their pace, whether or not the one before has been answered.
 */
export class Leadership<Known> {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #id: string;
  readonly #leaseMs: number;
  readonly #callbacks: LeadershipCallbacks<Known>;
  #lease: LeaseId | null = null;
  #leading = false;
  #deadlineMs = 0;
  #stopped = false;
  #failed = false;
  /** When what the store has answered was sent, at the latest. */
  #answeredMs = Number.NEGATIVE_INFINITY;
  /** The turn under way; another one was asked for meanwhile. */
  #turning: Promise<void> | null = null;
  #hurried = false;
  #cancelTurn: () => void = () => {};
  #cancelDeadline: () => void = () => {};
  /** While another leads: the end of its key is learnt at once. */
  #watch: StoreWatch | null = null;
  #holder: string | null = null;
  #addresses: LeaderAddresses | null = null;

  constructor(options: {
    store: Store;
    clock: Clock;
    controllerId: string;
    /** How long the store keeps the leadership of one who has gone. */
    leaseMs: number;
    callbacks: LeadershipCallbacks<Known>;
  }) {
    this.#store = options.store;
    this.#clock = options.clock;
    this.#id = options.controllerId;
    this.#leaseMs = options.leaseMs;
    this.#callbacks = options.callbacks;
  }

  /** The lease counts as lost this much before the store may give it away. */
  get #safetyMs(): number {
    return this.#leaseMs / 8;
  }

  /**
   * Tries once, and goes on by itself. Throws what makes the first try fail; that another leads does not.
   * @param addresses where the others shall find this controller when it leads; null: they are not told
   */
  async start(addresses: LeaderAddresses | null): Promise<void> {
    this.#addresses = addresses;
    const first = this.#campaign().then(() => this.#watchOther());
    // Counts as a turn: what it learns meanwhile must not begin another one beside it.
    this.#turning = first.catch(() => {});
    await first;
    this.#turning = null;
    this.#schedule();
  }

  /** Gives up leadership; it is taken up again by the usual way. */
  async resign(reason: string): Promise<void> {
    if (!this.#leading) return;
    this.#leading = false;
    this.#deadlineMs = 0;
    this.#cancelDeadline();
    this.#callbacks.onLost(reason);
    await this.#endLease();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancelTurn();
    this.#closeWatch();
    const resigned = this.resign("this controller stops");
    await this.#turning; // may just be winning
    await resigned;
    await this.#endLease();
  }

  /** Often as a leader, so that most of its lease is left when an election among etcd's members begins. */
  #schedule(): void {
    if (this.#stopped) return;
    const part = this.#leading || this.#failed ? 16 : 4;
    const pauseMs = this.#hurried ? 0 : this.#leaseMs / part;
    this.#cancelTurn = this.#clock.after(pauseMs, () => this.#begin());
  }

  #begin(): void {
    const turn = this.#turn().finally(() => {
      this.#turning = null;
      this.#schedule();
    });
    this.#turning = turn;
  }

  async #turn(): Promise<void> {
    this.#hurried = false;
    if (this.#leading && this.#clock.now() >= this.#deadlineMs) void this.resign(TOO_LATE);
    if (this.#leading) void this.#told(() => this.#renew());
    else
      await this.#told(async () => {
        await this.#campaign();
        await this.#watchOther();
      });
  }

  async #told(work: () => Promise<void>): Promise<void> {
    const sentMs = this.#clock.now();
    try {
      await work();
      this.#failed = false;
      this.#answeredMs = Math.max(this.#answeredMs, sentMs);
      this.#callbacks.onAnswered();
    } catch (error) {
      if (sentMs < this.#answeredMs) return; // of an outage that is over
      this.#failed = true;
      this.#callbacks.onFailed(error as Error);
    }
  }

  /** The leader key has gone, so it is worth a try now. */
  #hurry(): void {
    this.#hurried = true;
    if (this.#turning !== null || this.#stopped) return;
    this.#cancelTurn();
    this.#begin();
  }

  async #campaign(): Promise<void> {
    const sentMs = this.#clock.now();
    this.#lease ??= await this.#store.leaseGrant(this.#leaseMs);
    if (!(await this.#store.leaseRenew(this.#lease))) {
      this.#lease = null;
      this.#hurried = true;
      return;
    }
    const entry = (await this.#store.get(LEADER_KEY)) ?? (await this.#claim(this.#lease));
    if (entry === null) return;
    if (entry.lease !== this.#lease) {
      const leader = decodeLeader(entry.value);
      if (leader.controllerId === this.#id) await this.#removeOld(entry.createRevision);
      else this.#tell(leader);
      return;
    }
    try {
      this.#gain(entry.createRevision, sentMs, await this.#callbacks.onWon());
    } catch (error) {
      await this.#endLease();
      throw error;
    }
  }

  async #claim(lease: LeaseId): Promise<StoreEntry | null> {
    const value = encodeLeader({ controllerId: this.#id, addresses: this.#addresses });
    await this.#store.transact(
      [{ key: LEADER_KEY, createRevision: 0n }],
      [{ kind: "put", key: LEADER_KEY, value, lease }],
    );
    return this.#store.get(LEADER_KEY); // however that ended (unknown may have been applied), the key says
  }

  /** Of an earlier leadership of this process, whose lease could not be ended when it was given up. */
  async #removeOld(createRevision: bigint): Promise<void> {
    await this.#store.transact([{ key: LEADER_KEY, createRevision }], [{ kind: "delete", key: LEADER_KEY }]);
    this.#hurried = true;
  }

  #gain(fence: bigint, sentMs: number, known: Known): void {
    if (this.#stopped || this.#clock.now() >= sentMs + this.#leaseMs - this.#safetyMs) {
      throw new GokuError(
        "STORE_UNAVAILABLE",
        "Cannot lead: the lease was over before the store had been read",
      );
    }
    this.#leading = true;
    this.#closeWatch();
    this.#holdFrom(sentMs);
    this.#callbacks.onGained(fence, known);
  }

  /**
   * One of several under way: on a machine that is short of time an answer may take longer than the next renewal waits,
   * and still prove that the lease was alive when it was sent.
   */
  async #renew(): Promise<void> {
    const sentMs = this.#clock.now();
    const lease = this.#lease!;
    const alive = await this.#store.leaseRenew(lease);
    if (!this.#leading || this.#lease !== lease) return; // given up while the answer was under way
    if (alive) this.#holdFrom(sentMs);
    else await this.resign("its lease on leadership has ended");
  }

  /** Leads until its lease may be over, counted from when a renewal that the store has acknowledged was sent. */
  #holdFrom(sentMs: number): void {
    const deadlineMs = sentMs + this.#leaseMs - this.#safetyMs;
    if (deadlineMs <= this.#deadlineMs) return;
    this.#deadlineMs = deadlineMs;
    this.#cancelDeadline();
    this.#cancelDeadline = this.#clock.after(deadlineMs - this.#clock.now(), () => {
      void this.resign(TOO_LATE);
    });
  }

  async #watchOther(): Promise<void> {
    if (this.#leading || this.#stopped || this.#watch !== null) return;
    const onLost = () => {
      this.#watch = null;
    };
    const watch = await this.#store.watch(LEADER_KEY, (events) => this.#look(events), onLost);
    if (this.#leading || this.#stopped) watch.close();
    else this.#watch = watch;
  }

  #look(events: readonly StoreEvent[]): void {
    const last = events.findLast(({ key }) => key === LEADER_KEY);
    if (last === undefined) return;
    const before = this.#holder;
    const leader = last.value === null ? null : decodeLeader(last.value);
    this.#holder = leader?.controllerId ?? null;
    this.#tell(leader?.controllerId === this.#id ? null : leader);
    // After its own resignation the others come first.
    if (last.kind === "delete" && before !== this.#id) this.#hurry();
  }

  #tell(leader: LeaderRecord | null): void {
    if (!this.#leading && !this.#stopped) this.#callbacks.onOther(leader);
  }

  #closeWatch(): void {
    this.#watch?.close();
    this.#watch = null;
  }

  async #endLease(): Promise<void> {
    const lease = this.#lease;
    this.#lease = null;
    if (lease !== null) await this.#store.leaseRevoke(lease).catch(() => {});
  }
}
