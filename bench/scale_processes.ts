import { type ChildProcess, fork } from "node:child_process";
import type { FleetOptions } from "../test/support/simulated_fleet.js";
import { nextMessage } from "./next_message.js";
import type { FromAgents, ToAgents } from "./scale_agents.js";

/** On a busy machine more of them get more of its time: agents that starve are taken for silent ones. */
const PROCESSES = 6;

/** Processes of simulated agents, asked together. */
export class AgentProcesses {
  readonly #children: ChildProcess[];
  readonly #counts: number[] = [];

  constructor() {
    const module = new URL("./scale_agents.js", import.meta.url);
    this.#children = Array.from({ length: PROCESSES }, () => fork(module));
  }

  start(options: Omit<FleetOptions, "first">): Promise<FromAgents[]> {
    const share = Math.ceil(options.count / PROCESSES);
    return this.ask((index) => {
      const first = index * share;
      const count = Math.min(share, options.count - first);
      this.#counts[index] = count;
      return { kind: "start", options: { ...options, first, count } };
    });
  }

  async ask(order: (index: number) => ToAgents): Promise<FromAgents[]> {
    const answers = Promise.all(this.#children.map((child) => nextMessage<FromAgents>(child)));
    for (const [index, child] of this.#children.entries()) child.send(order(index));
    return answers;
  }

  all(order: ToAgents): Promise<FromAgents[]> {
    return this.ask(() => order);
  }

  /** Until all are there; `spare`: the number of the one that holds no rank. */
  until(what: "welcomed"): Promise<FromAgents[]>;
  until(what: "prepared" | "running", after: number, spare: number): Promise<FromAgents[]>;
  until(what: "welcomed" | "prepared" | "running", after = 0, spare = 0): Promise<FromAgents[]> {
    return this.ask((index) => {
      const count = this.#counts[index]!;
      if (what === "welcomed") return { kind: "until", what, count };
      const isSpare = Math.floor(spare / Math.ceil(this.#total / PROCESSES)) === index;
      return { kind: "until", what, after, count: count - (isSpare ? 1 : 0) };
    });
  }

  get #total(): number {
    return this.#counts.reduce((sum, count) => sum + count, 0);
  }

  close(): void {
    for (const child of this.#children) child.kill("SIGKILL");
  }
}
