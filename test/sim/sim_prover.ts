import * as messages from "../support/agent_messages.js";
import type { SimAgent } from "./sim_agent.js";
import type { SimWorld } from "./sim_world.js";

/** Of writing the file where all others look for it, and of the look. */
const WRITE_MS_MAX = 300;
const LOOK_MS_MAX = 20_000;

/** Shows that the folder of checkpoints is the one that all nodes of a generation have; now and then it cannot be written. */
export class SimProver {
  readonly #agent: SimAgent;
  readonly #world: SimWorld;

  constructor(agent: SimAgent, world: SimWorld) {
    this.#agent = agent;
    this.#world = world;
  }

  prove(generation: number, others: readonly string[]): void {
    const { jobId, random, node } = this.#agent;
    const { written } = this.#world.job(jobId!).storage;
    const fails = random.chance(0.05);
    this.#agent.later(random.between(5, WRITE_MS_MAX), () => {
      if (!fails) written.add(`${generation} ${node.nodeId}`);
    });
    this.#agent.later(random.between(WRITE_MS_MAX, LOOK_MS_MAX), () => {
      if (this.#agent.generation !== generation) return;
      const missing = others.filter((other) => !written.has(`${generation} ${other}`));
      const error = fails ? "EIO: i/o error" : "";
      this.#agent.report(messages.storageProof(generation, { written: !fails, missing, error }));
    });
  }
}
