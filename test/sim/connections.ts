import * as messages from "../support/agent_messages.js";
import type { Random } from "./random.js";
import type { Scheduler } from "./scheduler.js";
import type { Member, SimGroup } from "./sim_group.js";
import type { SimNode } from "./sim_node.js";
import type { SimRank } from "./sim_rank.js";

/** How long a rank tries to reach a peer's machine. */
const REACH_MS = 8_000;

/** How the ranks of a generation connect, in a first collective: everybody must be there. */
export class Connections {
  /** Rank that the others have lost; null: none. */
  failedPeer: number | null = null;
  readonly #group: SimGroup;
  readonly #scheduler: Scheduler;
  readonly #random: Random;
  readonly #isCut: (a: SimNode, b: SimNode) => boolean;
  readonly #connecting = new Set<number>();

  constructor(
    group: SimGroup,
    options: { scheduler: Scheduler; random: Random; isCut: (a: SimNode, b: SimNode) => boolean },
  ) {
    this.#group = group;
    this.#scheduler = options.scheduler;
    this.#random = options.random;
    this.#isCut = options.isCut;
  }

  connect(rank: SimRank): void {
    if (this.#connecting.has(rank.rank)) return;
    rank.enter("forming");
    rank.entered = 1;
    this.#connecting.add(rank.rank);
    if (this.failedPeer !== null) {
      rank.later(5, () => this.#leaves(rank, { code: "COMM_PEER_DIED", peer: this.failedPeer! }));
      return;
    }
    rank.later(REACH_MS, () => this.#missPeer(rank));
    if (this.#connecting.size === this.#group.worldSize) this.#connectAll();
  }

  #connectAll(): void {
    const { members, connectedRanks } = this.#group;
    if (this.failedPeer !== null || members.some((member) => member!.rank.group !== this.#group)) return;
    if (this.cutPair() !== null) {
      this.#scheduler.after(200, () => this.#connectAll());
      return;
    }
    for (const member of members) {
      const { rank, agent } = member!;
      rank.later(this.#random.between(2, 30), () => {
        rank.completed = 1;
        rank.enter("forming");
        connectedRanks.add(rank.rank);
        agent.report(messages.connected(rank));
      });
    }
  }

  /** The first two members that hear nothing of each other, the lower rank first. */
  cutPair(of: SimRank | null = null): [Member, Member] | null {
    const { members } = this.#group;
    for (const high of members) {
      if (high === null || (of !== null && high.rank !== of)) continue;
      for (const low of members.slice(0, high.rank.rank))
        if (low !== null && this.#isCut(low.agent.node, high.agent.node)) return [low, high];
    }
    return null;
  }

  /** The higher rank of a pair is the one that connects, and has no answer. */
  #missPeer(rank: SimRank): void {
    const pair = this.cutPair(rank);
    if (rank.group !== this.#group || this.#group.connectedRanks.has(rank.rank) || pair === null) return;
    const peer = pair[0].rank.rank;
    this.failedPeer = peer;
    this.#leaves(rank, { code: "COMM_TIMEOUT", peer, operation: "connect" });
  }

  #leaves(rank: SimRank, failure: { code: string; peer: number; operation?: string }): void {
    if (rank.group !== this.#group) return;
    const { agent } = this.#group.members[rank.rank]!;
    rank.completed = rank.entered;
    rank.enter("idle");
    rank.turnAway();
    agent.report(messages.failed(rank, { operation: "all_reduce", ...failure }));
  }
}
