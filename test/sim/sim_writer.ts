import type { StateName } from "../../controller/core/contract.js";
import { compareStates, sameState } from "../../controller/core/state_name.js";
import type { ErrorCode } from "../../job/errors.js";
import { planRetry } from "../../worker/agent/plan_retry.js";
import type { Random } from "./random.js";
import type { SimAgent } from "./sim_agent.js";
import type { Content } from "./sim_content.js";
import type { SimJob } from "./sim_group.js";
import type { SimWorld } from "./sim_world.js";

/** How long a commit waits for the other writers. */
const WRITERS_WAIT_MS = 120_000;
const LOOK_MS = 250;

export interface SaveOrder {
  job: SimJob;
  rank: number;
  worldSize: number;
  /** The generation that saves. */
  generation: number;
  state: StateName;
  set: string;
  final: boolean;
}

/** `error`: it was the final one and can never be committed. */
export type Released = (error: ErrorCode | null) => void;

interface Saving {
  order: SaveOrder;
  /** Empty: the slot is not read any more. */
  released: Released[];
  /** Given up from outside. */
  stopped: boolean;
  /** A newer save of the same rank waits. */
  newer: boolean;
  /** Its slot is not read any more. */
  written: boolean;
  alarmed: boolean;
  /** Goes on at once where it waits between tries. */
  wake: (() => void) | null;
}

/** Durable saves of the ranks of a node, in the background, as `CheckpointWriter` makes them. */
export class SimWriter {
  /** Final saves begun so far. */
  finalCount = 0;
  readonly #agent: SimAgent;
  readonly #world: SimWorld;
  readonly #random: Random;
  readonly #saving: Saving[] = [];

  constructor(agent: SimAgent, world: SimWorld, random: Random) {
    this.#agent = agent;
    this.#world = world;
    this.#random = random;
  }

  get idle(): boolean {
    return this.#saving.length === 0;
  }

  save(order: SaveOrder, released: Released): void {
    if (order.final) this.finalCount += 1;
    const current = this.#saving.find(
      (each) => isSameWriter(each.order, order) && isSameState(each.order, order),
    );
    if (current !== undefined) {
      if (current.order.generation === order.generation && (current.order.final || !order.final)) {
        current.released.push(released);
        return;
      }
      this.#stop(current);
    }
    for (const other of this.#saving) {
      if (!isSameWriter(other.order, order) || compareSaves(order, other.order) <= 0) continue;
      other.newer = true;
      other.wake?.();
    }
    const saving: Saving = {
      order,
      released: [released],
      stopped: false,
      newer: false,
      written: false,
      alarmed: false,
      wake: null,
    };
    this.#saving.push(saving);
    this.#inTurn(saving);
  }

  /** States of this set that are still read. From now on `released` is called for each, and nobody else. */
  pinned(set: string, released: (state: StateName) => void): StateName[] {
    const found = this.#saving.filter((each) => each.order.set === set && each.released.length > 0);
    for (const { order, released: waiting } of found)
      waiting.splice(0, waiting.length, () => released(order.state));
    return found.map(({ order }) => order.state);
  }

  abandon(): void {
    for (const saving of [...this.#saving]) this.#stop(saving);
  }

  #stop(saving: Saving): void {
    saving.stopped = true;
    this.#end(saving, null);
  }

  #end(saving: Saving, error: ErrorCode | null): void {
    const at = this.#saving.indexOf(saving);
    if (at < 0) return;
    this.#saving.splice(at, 1);
    saving.written = true;
    for (const release of saving.released.splice(0)) release(error);
  }

  /** A rank's saves are written one after another. */
  #inTurn(saving: Saving): void {
    if (saving.stopped) return;
    const before = this.#saving.slice(0, this.#saving.indexOf(saving));
    if (before.some((other) => isSameWriter(other.order, saving.order) && !other.written))
      this.#later(LOOK_MS, () => this.#inTurn(saving));
    else this.#write(saving, 1);
  }

  #later(delayMs: number, run: () => void): void {
    this.#world.scheduler.after(delayMs, () => {
      if (this.#agent.alive) run();
    });
  }

  /** This rank's part: read from its slot, which the rank may have had to take meanwhile. */
  #write(saving: Saving, tries: number): void {
    const { order } = saving;
    this.#later(this.#random.between(100, 900), () => {
      if (saving.stopped) return;
      const { node } = this.#agent;
      const copy = node.memory.find(order.set, order.state);
      const damage: ErrorCode | null =
        copy === null ? "SNAPSHOT_MISSING" : copy.damaged.size > 0 ? "CHECKPOINT_CORRUPT" : null;
      const error = damage ?? node.disk;
      if (error !== null) {
        this.#failed(saving, error, tries, () => this.#write(saving, tries + 1));
        return;
      }
      order.job.storage.write(order.generation, order.state, order.rank);
      saving.written = true;
      if (!order.final) for (const release of saving.released.splice(0)) release(null);
      this.#conclude(saving, copy!.content, 1);
    });
  }

  /** Rank 0's agent commits once all parts are there; of a final save the others wait for that. */
  #conclude(saving: Saving, content: Content, tries: number): void {
    const { order } = saving;
    if (order.rank === 0) this.#commit(saving, content, { tries, untilMs: this.#nowMs + WRITERS_WAIT_MS });
    else if (order.final) this.#awaitCommit(saving);
    else this.#end(saving, null);
  }

  #awaitCommit(saving: Saving): void {
    const { order } = saving;
    if (saving.stopped || saving.newer) {
      this.#end(saving, null);
      return;
    }
    if (order.job.storage.find(order.state) === null) this.#later(LOOK_MS, () => this.#awaitCommit(saving));
    else this.#done(saving);
  }

  #commit(saving: Saving, content: Content, until: { tries: number; untilMs: number }): void {
    const { order } = saving;
    const { job, generation, state, worldSize, final } = order;
    if (saving.stopped) return;
    if (final && saving.newer) {
      this.#end(saving, null);
      return;
    }
    const isWhole = job.storage.isComplete(generation, state, worldSize);
    if (!isWhole && this.#nowMs < until.untilMs) {
      this.#later(LOOK_MS, () => this.#commit(saving, content, until));
      return;
    }
    const error: ErrorCode | null = !isWhole
      ? "STORAGE_FAILED"
      : this.#random.chance(job.saveFailRate)
        ? "STORAGE_FULL"
        : this.#agent.node.disk;
    if (error !== null) {
      this.#failed(saving, error, until.tries, () => this.#conclude(saving, content, until.tries + 1));
      return;
    }
    job.storage.commit(content);
    this.#world.committed(job, state);
    job.storage.prune();
    this.#done(saving);
  }

  #done(saving: Saving): void {
    const { order } = saving;
    this.#agent.reportCommitted(order.generation, order.state, order.job.storage.uriOf(order.state));
    if (!order.final) this.#agent.saveSettled();
    this.#end(saving, null);
  }

  #failed(saving: Saving, code: ErrorCode, tries: number, again: () => void): void {
    const { final, generation, state } = saving.order;
    const { newer: superseded } = saving;
    if (final && superseded) {
      this.#end(saving, null);
      return;
    }
    const plan = planRetry({ code, tries, final, superseded, chance: this.#random.unit() });
    const alarm = () => {
      saving.alarmed = true;
      this.#agent.reportSaveFailed(generation, state, code);
    };
    if (plan.kind === "giveUp" || (final && !saving.alarmed)) alarm();
    if (plan.kind === "giveUp") {
      this.#end(saving, final ? code : null);
      return;
    }
    const goOn = () => {
      if (saving.wake !== goOn) return;
      saving.wake = null;
      if (saving.stopped) return;
      if (!saving.newer) {
        again();
        return;
      }
      if (!final) alarm();
      this.#end(saving, null);
    };
    saving.wake = goOn;
    this.#later(Math.ceil(plan.waitMs), goOn);
  }

  get #nowMs(): number {
    return this.#world.scheduler.nowMs;
  }
}

function isSameWriter(a: SaveOrder, b: SaveOrder): boolean {
  return a.job === b.job && a.rank === b.rank;
}

function isSameState(a: SaveOrder, b: SaveOrder): boolean {
  return sameState(a.state, b.state);
}

function compareSaves(a: SaveOrder, b: SaveOrder): number {
  return a.generation - b.generation || compareStates(a.state, b.state);
}
