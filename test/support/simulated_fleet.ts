import { type AgentPhase, SimulatedAgent } from "./simulated_agent.js";

export interface FleetOptions {
  controller: string;
  /** Number of the first agent. */
  first: number;
  count: number;
  slots: number;
  /** Nodes that fail together. */
  nodesPerDomain: number;
}

const CONNECTING_MAX = 32;

/** Many simulated agents in one process, one connection each. */
export class SimulatedFleet {
  readonly agents = new Map<string, SimulatedAgent>();
  #step = 0;
  #answers = true;
  #waiters: { isReached: () => boolean; done: () => void }[] = [];
  #isLooking = false;

  constructor({ controller, first, count, slots, nodesPerDomain }: FleetOptions) {
    for (let number = first; number < first + count; number++) {
      const nodeId = nodeName(number);
      const agent = new SimulatedAgent({
        controller,
        nodeId,
        slots,
        host: `10.0.${number >> 8}.${number & 255}`,
        failureDomain: `rack-${Math.floor(number / nodesPerDomain)}`,
        step: () => this.#step,
        changed: () => this.#changed(),
        answers: () => this.#answers,
      });
      this.agents.set(nodeId, agent);
    }
  }

  /** Resolves when all have been welcomed; no more than `CONNECTING_MAX` are on their way at once. */
  async start(): Promise<void> {
    const agents = [...this.agents.values()];
    for (const [at, agent] of agents.entries()) {
      await this.until(() => this.countWelcomed() > at - CONNECTING_MAX);
      agent.start();
    }
    await this.until(() => this.countWelcomed() >= agents.length);
  }

  /** The last step that all ranks have applied. */
  set step(step: number) {
    this.#step = step;
    for (const agent of this.agents.values()) agent.stepped(step);
  }

  /** While false, ranks that are told to prepare do not become ready. */
  set answers(answers: boolean) {
    this.#answers = answers;
    if (answers) for (const agent of this.agents.values()) agent.answer();
  }

  /** The machine goes with all it holds. Returns its ranks. */
  lose(nodeId: string): number[] {
    const agent = this.agents.get(nodeId)!;
    const { ranks } = agent;
    agent.lose();
    return ranks;
  }

  /** Every rank that trains misses this one. */
  peerDied(peer: number): void {
    for (const agent of this.agents.values()) agent.peerDied(peer);
  }

  finish(step: number, uri: string): void {
    for (const agent of this.agents.values()) agent.finish(step, uri);
  }

  close(): void {
    for (const agent of this.agents.values()) agent.close();
  }

  countWelcomed(): number {
    return [...this.agents.values()].filter((agent) => agent.welcomed).length;
  }

  /** Agents in that phase, of a generation after `generation`. */
  countIn(phase: AgentPhase, generation = -1): number {
    const isThere = (agent: SimulatedAgent) => agent.phase === phase && agent.generation > generation;
    return [...this.agents.values()].filter(isThere).length;
  }

  /** Resolves as soon as that holds. */
  until(isReached: () => boolean): Promise<void> {
    return new Promise((done) => {
      this.#waiters.push({ isReached, done });
      this.#changed();
    });
  }

  /** Looks once for all that changed in one turn of the loop. */
  #changed(): void {
    if (this.#isLooking || this.#waiters.length === 0) return;
    this.#isLooking = true;
    setImmediate(() => {
      this.#isLooking = false;
      const waiters = this.#waiters;
      this.#waiters = waiters.filter(({ isReached }) => !isReached());
      for (const waiter of waiters) if (!this.#waiters.includes(waiter)) waiter.done();
    });
  }
}

export function nodeName(number: number): string {
  return `node-${String(number).padStart(5, "0")}`;
}
