import type { AgentMessage, Command } from "../../controller/core/contract.js";
import type { SelfCheckReport } from "../../gen/goku/v1/agent.pb.js";
import * as messages from "../support/agent_messages.js";
import type { SimAgent } from "./sim_agent.js";
import type { SimWorld } from "./sim_world.js";

type Value<K extends Command["$case"]> = Extract<Command, { $case: K }>["value"];

const PAIR_PORT = 7_100;

/** The self-checks of an agent: they take a moment, unless ranks work; a broken machine fails, and collectives with it. */
export class SimChecker {
  readonly #agent: SimAgent;
  readonly #world: SimWorld;
  readonly #say: (message: AgentMessage) => void;
  #checkId = 0n;
  /** What the last one that it did alone found. */
  last: SelfCheckReport | undefined;

  constructor(agent: SimAgent, world: SimWorld, say: (message: AgentMessage) => void) {
    this.#agent = agent;
    this.#world = world;
    this.#say = say;
  }

  begin({ checkId, checks }: Value<"selfCheck">): void {
    if ([...this.#agent.ranks.values()].some((rank) => rank.group !== null)) {
      this.#say(messages.checked(checkId, { broken: false, busy: "ranks work" }));
      return;
    }
    this.#checkId = checkId;
    const isPaired = checks.includes("collective");
    this.#say(messages.checkBegun(checkId, this.#world.scheduler.nowMs, isPaired ? PAIR_PORT : 0));
    if (isPaired) return;
    this.#finish(checkId, () => {
      const report = messages.checked(checkId, { broken: this.#agent.node.broken, busy: "" });
      this.last = report.value;
      this.#say(report);
    });
  }

  /** All members of its group listen. */
  connect({ checkId, members }: Value<"selfCheckConnect">): void {
    const nodes = members.map(({ nodeId }) => this.#world.node(nodeId));
    this.#finish(checkId, () => {
      const isThrough = nodes.every((node) => !node.broken && !this.#world.isCut(node, this.#agent.node));
      this.#say(messages.paired(checkId, isThrough));
    });
  }

  #finish(checkId: bigint, then: () => void): void {
    this.#agent.later(this.#agent.random.between(100, 800), () => {
      if (this.#checkId === checkId) then();
    });
  }
}
