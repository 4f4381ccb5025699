import type { StateName } from "../../controller/core/contract.js";
import type { Job } from "../../job/job.js";
import type { Random } from "./random.js";
import type { Scheduler } from "./scheduler.js";
import type { SimAgent } from "./sim_agent.js";
import type { SimMemory } from "./sim_memory.js";
import type { SimProgram } from "./sim_program.js";
import type { SimRank } from "./sim_rank.js";
import type { SimStorage } from "./sim_storage.js";
import type { BadData } from "./train_numbers.js";

/** What the groups of one job share, and where the truth about it is kept. */
export interface SimJob {
  jobId: string;
  steps: number;
  saveEverySteps: number;
  stepMs: number;
  storage: SimStorage;
  /** Of a commit. */
  saveFailRate: number;
  /** Null: its ranks are ours. */
  program: SimProgram | null;
  /** As it was submitted; null: it brings a program of its own. */
  spec: Job | null;
  /** Highest step that any generation has computed. */
  stepHighest: number;
  /** Steps of which one pack is bad, whoever computes it: set before anybody has. */
  badSteps: Map<number, BadData>;
}

export interface Member {
  rank: SimRank;
  agent: SimAgent;
  /** What its node remembered when it became ready: another object since, when the machine went down. */
  memory: SimMemory;
}

export interface GroupOptions {
  generation: number;
  job: SimJob;
  worldSize: number;
  scheduler: Scheduler;
  random: Random;
}

/** The ranks of one generation, whatever they do. */
export abstract class SimGroup {
  readonly generation: number;
  readonly job: SimJob;
  readonly worldSize: number;
  readonly members: (Member | null)[];
  /** Something happened to a member, or to the network between members. */
  disturbed = false;
  /** Nothing is left to lose. */
  over = false;
  readonly readyRanks = new Set<number>();
  readonly connectedRanks = new Set<number>();
  readonly restored = new Map<number, StateName>();
  protected readonly scheduler: Scheduler;
  protected readonly random: Random;

  constructor(options: GroupOptions) {
    this.generation = options.generation;
    this.job = options.job;
    this.worldSize = options.worldSize;
    this.members = new Array<Member | null>(options.worldSize).fill(null);
    this.scheduler = options.scheduler;
    this.random = options.random;
  }

  get layout(): string {
    return this.members[0]!.rank.set.split("/")[0]!;
  }

  /** It does what it is there for, and nothing stands in its way. */
  abstract get goesOn(): boolean;

  join(rank: SimRank, agent: SimAgent): void {
    this.members[rank.rank] = { rank, agent, memory: agent.node.memory };
    rank.group = this;
    rank.pageGeneration = this.generation;
    rank.timedSteps = 0;
    rank.timedMs = 0;
    this.readyRanks.add(rank.rank);
  }

  abstract connect(rank: SimRank): void;
  /** Told to begin; a repeat changes nothing. */
  abstract run(rank: SimRank): void;

  /** Nodes were cut from each other. What programs of others' making say to each other is not simulated. */
  networkCut(): void {}
  abstract requestStop(rank: SimRank): void;
  abstract requestYield(): void;
  abstract requestSave(): void;
  /** A member process ended. */
  abstract memberDied(dead: SimRank): void;
  /** The connections of one member broke; all processes live on. */
  abstract breakOff(peer: number): void;
}
