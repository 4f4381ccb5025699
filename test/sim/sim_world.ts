import type { StateName } from "../../controller/core/contract.js";
import type { Scheduler } from "./scheduler.js";
import type { SimAgent } from "./sim_agent.js";
import type { AgentLink, CommandFrame } from "./sim_controller.js";
import type { SimGroup, SimJob } from "./sim_group.js";
import type { SimNode } from "./sim_node.js";
import type { SimRank } from "./sim_rank.js";

/** What an agent needs of the world. */
export interface SimWorld {
  readonly scheduler: Scheduler;
  /** A new stream to the controller with this number; null: it cannot be reached. */
  connect(agent: SimAgent, controllerIndex: number): AgentLink | null;
  readonly controllerCount: number;
  group(generation: number, jobId: string, worldSize: number): SimGroup;
  /** No message passes between the two. */
  isCut(a: SimNode, b: SimNode): boolean;
  node(nodeId: string): SimNode;
  job(jobId: string): SimJob;
  /** A command was obeyed (not refused by a fence). */
  obeyed(agent: SimAgent, frame: CommandFrame): void;
  rankExited(agent: SimAgent, rank: SimRank): void;
  /** A checkpoint was committed. */
  committed(job: SimJob, state: StateName): void;
  /** A process that draws has begun, or found a part of its state gone. */
  previewBegun(agent: SimAgent, state: StateName): void;
  previewMissed(agent: SimAgent, state: StateName): void;
  /** A state turned out unreadable: a checkpoint, by `badCheckpoint`, or job@generation-step. */
  foundBad(key: string): void;
}

/** How a checkpoint is told of that turned out unreadable. */
export function badCheckpoint(uri: string, { generation, step }: StateName): string {
  return `${uri}@${generation}-${step}`;
}
