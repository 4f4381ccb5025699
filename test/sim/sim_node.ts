import type { ErrorCode } from "../../job/errors.js";
import type { Random } from "./random.js";
import { SimAgent } from "./sim_agent.js";
import { SimMemory } from "./sim_memory.js";
import { MachineCounters } from "./sim_watch.js";
import type { SimWorld } from "./sim_world.js";

/** What a device of a node gets wrong: the losses of one step, which are NaN or (`surge`) far too high, the gradients of one, or every loss. */
export type Wrong = "losses" | "surge" | "gradients" | "always";

/** A machine. Its memory outlives agent processes, and is lost when the machine goes down. */
export class SimNode {
  readonly nodeId: string;
  readonly slots: number;
  /** Empty: nothing else fails with it. */
  readonly failureDomain: string;
  memory = new SimMemory();
  agent: SimAgent | null = null;
  up = true;
  /** Its memory gives wrong bits: it fails its self-checks. */
  broken = false;
  /** How its writes to durable storage fail; null: they do not. */
  disk: ErrorCode | null = null;
  /** Null: its devices compute right. */
  wrong: Wrong | null = null;
  /** What its ranks need for a step, over what others need. */
  #slowness = 1;
  slownessChangedMs = 0;
  /** Something was wrong with it that a verdict may name, ever: nobody else's node is ever taken away. */
  readonly guilt = new Set<"broken" | "wrong" | "unkillable" | "flipped" | "drained" | "sign">();
  /** What its machine counts of its own errors. */
  counters = new MachineCounters();
  /** Its kernel, its counters or a rank's output said what only a machine makes them say, ever; that it killed for memory. */
  hasToldOfMachine = false;
  hasKilledForMemory = false;
  #boots = 1;
  #incarnations = 0;

  constructor(nodeId: string, slots: number, failureDomain: string) {
    this.nodeId = nodeId;
    this.slots = slots;
    this.failureDomain = failureDomain;
  }

  /** Another one each time that the machine starts. */
  get bootId(): string {
    return `${this.nodeId}/${this.#boots}`;
  }

  boots(): void {
    this.up = true;
    this.#boots += 1;
    this.counters = new MachineCounters();
  }

  get slowness(): number {
    return this.#slowness;
  }

  setSlowness(slowness: number, nowMs: number): void {
    this.#slowness = slowness;
    this.slownessChangedMs = nowMs;
  }

  breaks(): void {
    this.broken = true;
    this.guilt.add("broken");
  }

  computesWrong(how: Wrong): void {
    this.wrong = how;
    this.guilt.add("wrong");
  }

  startAgent(world: SimWorld, random: Random): void {
    if (this.agent?.alive || !this.up) return;
    this.#incarnations += 1;
    this.agent = new SimAgent(this, `${this.nodeId}#${this.#incarnations}`, world, random);
  }
}
