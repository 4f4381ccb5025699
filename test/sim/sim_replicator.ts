import type { StateName } from "../../controller/core/contract.js";
import { backoffMs } from "../../worker/agent/backoff.js";
import * as messages from "../support/agent_messages.js";
import type { SimAgent } from "./sim_agent.js";
import type { SimRank } from "./sim_rank.js";
import type { SimWorld } from "./sim_world.js";

/** As `Replicator` has them. */
const RETRY = { firstMs: 250, longestMs: 10_000 };
const TOLD_ATTEMPTS = 5;
const HOPELESS_MS = 1_000;

interface Order {
  rank: SimRank;
  generation: number;
  state: StateName;
  /** What the keeper must not give up for it. */
  kept: StateName | null;
  keeperId: string;
  settled: (whole: boolean) => void;
}

/** Sends snapshots of this node's ranks to their keepers, and takes in those of others. */
export class SimReplicator {
  readonly #agent: SimAgent;
  readonly #world: SimWorld;

  constructor(agent: SimAgent, world: SimWorld) {
    this.#agent = agent;
    this.#world = world;
  }

  send(order: Order): void {
    this.#later(order, this.#agent.random.between(20, 600), () => this.#attempt(order, 0));
  }

  /** Unless the generation is over. */
  #later({ generation }: Order, delayMs: number, run: () => void): void {
    this.#world.scheduler.after(delayMs, () => {
      if (this.#agent.alive && this.#agent.generation === generation) run();
    });
  }

  #attempt(order: Order, attempt: number): void {
    const { rank, state, kept, keeperId, generation, settled } = order;
    const { node } = this.#agent;
    const copy = node.memory.findOwn(rank.set, state);
    if (copy === null || copy.damaged.size > 0) {
      this.#failing(order, copy === null ? "SNAPSHOT_MISSING" : "CHECKPOINT_CORRUPT");
      this.#later(order, HOPELESS_MS, () => settled(false));
      return;
    }
    const keeper = this.#world.node(keeperId).agent;
    const isThere = keeper?.alive && keeper.generation === generation;
    if (isThere && !this.#world.isCut(node, keeper.node)) {
      keeper.keepReplica(rank.set, copy.content, kept);
      settled(true);
      return;
    }
    if (attempt + 1 === TOLD_ATTEMPTS) this.#failing(order, "COMM_PEER_DIED");
    const waitMs = Math.ceil(backoffMs(attempt, this.#agent.random.unit(), RETRY));
    this.#later(order, waitMs, () => this.#attempt(order, attempt + 1));
  }

  #failing({ generation, rank: { rank }, state, keeperId }: Order, code: string): void {
    this.#agent.report(messages.replicaFailed({ generation, rank }, { state, keeperNodeId: keeperId, code }));
  }
}
