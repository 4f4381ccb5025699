import * as messages from "../support/agent_messages.js";
import type { SimAgent } from "./sim_agent.js";
import { INITIAL } from "./sim_content.js";
import { type GroupOptions, SimGroup } from "./sim_group.js";
import type { SimRank } from "./sim_rank.js";

/** What the program of a job does that brings its own. */
export interface SimProgram {
  heartbeat: "optional" | "required";
  /** It tells its steps. One that does not is never seen to hang. */
  beats: boolean;
  /** Its ranks wait for each other in every step, as programs with collectives do. */
  coupled: boolean;
  /** How often, over the whole job, one of its ranks still exits with an error, and how often one still hangs. */
  crashes: number;
  hangs: number;
  /** Step of its own checkpoint, from which it starts. */
  saved: number;
}

type Fate = "crashes" | "hangs";

/**
 * The programs of one generation: each is started by Run, tells its steps if it tells anything, and ends. They hold
 * nothing that we know of, so nothing is restored or saved here.
 */
export class ProgramGroup extends SimGroup {
  /** Programs that ended well, and whether they were told to. */
  readonly ended = new Map<number, "steps" | "stop">();
  /** Of ranks whose program stands still, though nothing happened to its process. */
  readonly hung = new Set<number>();
  readonly #started = new Set<number>();
  readonly #asked = new Set<number>();
  readonly #arrived = new Set<number>();
  #broken = false;
  /** What one of its programs does of its own accord, and in which step. */
  #fate: { kind: Fate; rank: number; step: number } | null = null;

  constructor(options: GroupOptions) {
    super(options);
    const left = (["crashes", "hangs"] as const).filter((kind) => this.#program[kind] > 0);
    if (left.length === 0) return;
    const kind = this.random.pick(left);
    const rank = this.random.between(0, options.worldSize - 1);
    this.#fate = { kind, rank, step: this.#program.saved + this.random.between(1, 12) };
  }

  get #program(): SimProgram {
    return this.job.program!;
  }

  get goesOn(): boolean {
    return this.#started.size === this.worldSize && !this.disturbed && !this.over;
  }

  /** Nothing to connect, and nobody to wait for: the programs find each other. */
  connect(rank: SimRank): void {
    if (this.connectedRanks.has(rank.rank)) return;
    rank.enter("forming");
    this.connectedRanks.add(rank.rank);
    this.#agentOf(rank).report(messages.connected(rank));
  }

  run(rank: SimRank): void {
    if (this.#started.has(rank.rank) || !this.restored.has(rank.rank)) return;
    this.#started.add(rank.rank);
    rank.content = this.#contentAt(this.#program.saved);
    rank.beats = 0;
    rank.enter("program");
    if (this.#asked.has(rank.rank)) this.#end(rank, "stop");
    else if (this.#broken) rank.later(this.random.between(100, 2_000), () => this.#fail(rank));
    else this.#compute(rank);
  }

  #compute(rank: SimRank): void {
    if (rank.content!.state.step >= this.job.steps) {
      rank.later(this.random.between(1, 300), () => this.#end(rank, "steps"));
      return;
    }
    const { slowness } = this.#agentOf(rank).node;
    const ms = Math.ceil(this.job.stepMs * slowness * (0.7 + 0.6 * rank.random.unit()));
    rank.later(ms, () => this.#computed(rank, ms));
  }

  #computed(rank: SimRank, ms: number): void {
    const fate = this.#fate;
    if (fate !== null && fate.rank === rank.rank && fate.step <= rank.content!.state.step) {
      this.#fate = null;
      this.#program[fate.kind] -= 1;
      if (fate.kind === "hangs") this.hang(rank);
      else this.#fail(rank);
      return;
    }
    if (!this.#program.coupled) {
      this.#step(rank, ms);
      return;
    }
    this.#arrived.add(rank.rank);
    if (this.#arrived.size < this.worldSize || this.#broken) return;
    this.#arrived.clear();
    for (const member of this.members)
      member!.rank.later(this.random.between(0, 4), () => this.#step(member!.rank, ms));
  }

  /** Its program stands still from now on. */
  hang(rank: SimRank): void {
    this.disturbed = true;
    this.hung.add(rank.rank);
    rank.stopWork();
  }

  #step(rank: SimRank, ms: number): void {
    const step = rank.content!.state.step + 1;
    rank.content = this.#contentAt(step);
    if (this.#program.beats) {
      rank.beats += 1;
      rank.enter("program");
      if (rank.rank === 0)
        this.#agentOf(rank).report(
          messages.step(this.generation, step, { stepSeconds: ms / 1000, replicatedStep: 0 }),
        );
    }
    if (rank.rank === 0 && step % this.job.saveEverySteps === 0) this.#program.saved = step;
    this.#compute(rank);
  }

  #contentAt(step: number) {
    return { ...INITIAL, state: { generation: this.generation, step }, parent: null, digest: 0 };
  }

  #end(rank: SimRank, reason: "steps" | "stop"): void {
    this.hung.delete(rank.rank);
    this.ended.set(rank.rank, reason);
    if (this.ended.size === this.worldSize) this.over = true;
    rank.stopWork();
    rank.enter("finished");
    this.#agentOf(rank).report(messages.finished(rank, rank.content!.state, reason));
    if (reason === "stop") this.#peerGone(rank.rank);
  }

  /** Its program exits with an error. */
  #fail(rank: SimRank): void {
    if (rank.group !== this || this.ended.has(rank.rank)) return;
    if (this.#asked.has(rank.rank)) {
      this.#end(rank, "stop");
      return;
    }
    this.disturbed = true;
    this.hung.delete(rank.rank);
    const agent = this.#agentOf(rank);
    rank.enter("idle");
    rank.turnAway();
    agent.report(messages.failed(rank, { code: "PROGRAM_FAILED", operation: "program" }));
    this.#peerGone(rank.rank);
  }

  /** Whoever waits for it fails some time later, or waits on for ever. */
  #peerGone(gone: number): void {
    if (!this.#program.coupled || this.#broken) return;
    this.#broken = true;
    this.disturbed = true;
    // One that was never seen to beat need not do so.
    const isSeen =
      this.#program.heartbeat === "required" ||
      this.members.every((member) => member !== null && member.rank.beats > 0);
    const fails = !this.#program.beats || !isSeen || this.random.chance(0.5);
    for (const member of this.members) {
      if (member === null || member.rank.rank === gone || member.rank.group !== this) continue;
      if (!this.#started.has(member.rank.rank)) continue; // it fails when it looks for the others
      if (fails) member.rank.later(this.random.between(3, 2_000), () => this.#fail(member.rank));
      else this.hung.add(member.rank.rank);
    }
  }

  /** SIGTERM: it ends in its own time. */
  requestStop(rank: SimRank): void {
    if (this.#asked.has(rank.rank) || this.ended.has(rank.rank)) return;
    this.#asked.add(rank.rank);
    this.disturbed = true;
    if (this.#started.has(rank.rank))
      rank.later(this.random.between(20, 2_500), () => this.#end(rank, "stop"));
  }

  memberDied(dead: SimRank): void {
    this.disturbed = true;
    this.hung.delete(dead.rank);
    this.#peerGone(dead.rank);
  }

  breakOff(peer: number): void {
    if (this.worldSize === 1) return;
    const isCoupled = this.#program.coupled && !this.#broken;
    this.#peerGone(peer);
    const rank = this.members[peer]?.rank;
    if (isCoupled && rank?.group === this && this.#started.has(peer))
      rank.later(this.random.between(3, 2_000), () => this.#fail(rank));
  }

  requestSave(): void {}
  /** It would lose the steps since its own checkpoint, so it is never asked to. */
  requestYield(): void {
    throw new Error(`generation ${this.generation} runs programs and is asked to yield`);
  }

  /** Its program stands still, of its own accord or since it waits for another one. */
  isHeldUp(rank: SimRank): boolean {
    return this.hung.has(rank.rank) || (this.#program.coupled && this.disturbed);
  }

  #agentOf(rank: SimRank): SimAgent {
    return this.members[rank.rank]!.agent;
  }
}
