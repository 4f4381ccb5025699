import type { Command, StateName } from "../../controller/core/contract.js";
import { sameState } from "../../controller/core/state_name.js";
import * as messages from "../support/agent_messages.js";
import type { SimAgent } from "./sim_agent.js";
import { shardCount } from "./sim_shards.js";
import type { SimWorld } from "./sim_world.js";

/** Draws previews beside the training, in a process of its own. */
export class SimPreviewer {
  readonly #agent: SimAgent;
  readonly #world: SimWorld;
  /** State whose preview its process draws; null: none runs. */
  drawing: StateName | null = null;
  /** Of the preview begun last. */
  #last: StateName | null = null;

  constructor(agent: SimAgent, world: SimWorld) {
    this.#agent = agent;
    this.#world = world;
  }

  end(): void {
    this.drawing = null;
  }

  /** Reads the shards of the first shard group, here and at the places told, then draws for a while; a repeat changes nothing. */
  draw({ state: wire, places }: Extract<Command, { $case: "drawPreview" }>["value"]): void {
    const agent = this.#agent;
    const state = messages.plain(wire!);
    const { generation, layout, random } = agent;
    if (this.#last !== null && sameState(this.#last, state)) return;
    this.#world.previewBegun(agent, state);
    this.#last = state;
    this.drawing = state;
    const later = (delayMs: number, run: () => void) =>
      this.#world.scheduler.after(delayMs, () => {
        if (agent.alive && this.drawing === state && agent.generation === generation) run();
      });
    later(random.between(20, 3_000), () => {
      const shards = Array.from({ length: shardCount(layout) }, (_, rank) => rank);
      const read = shards.map((rank) => {
        const place = places.find((one) => one.rank === rank);
        const node = place === undefined ? agent.node : this.#world.node(place.nodeId);
        return node.agent?.alive ? node.memory.find(`${layout}/${rank}`, state) : null;
      });
      if (read.some((copy) => copy === null || copy.damaged.size > 0)) {
        if (read.some((copy) => copy === null)) this.#world.previewMissed(agent, state);
        this.#ended(generation, state, "failed");
        return;
      }
      agent.report(messages.preview("previewRead", generation, state));
      later(random.between(50, 15_000), () => this.#ended(generation, state, "drawn"));
    });
  }

  #ended(generation: number, state: StateName, how: "drawn" | "failed"): void {
    this.drawing = null;
    this.#agent.report(messages.previewEnded(generation, state, how));
  }
}
