import type { Random } from "./random.js";
import type { Scheduler } from "./scheduler.js";

/** A peer that hears nothing for this long closes its end (gRPC keepalive). */
const KEEPALIVE_MS = 8_000;

/** Which way messages cannot pass between one node and one controller. */
export type Blockade = "none" | "up" | "down" | "both";

/** What the network is like right now. */
export interface NetworkMood {
  delayMsMin: number;
  delayMsMax: number;
  /** Chance that the sender's software sends a message twice. */
  duplicateRate: number;
}

/**
 * One stream between an agent and a controller: in order each way, delayed, and breakable. What a blockade holds back is
 * delivered when it lifts, unless keepalive ends the stream first. A broken stream loses what is under way, and its
 * two ends learn of it at different times.
 */
export class SimLink<Up, Down> {
  readonly #scheduler: Scheduler;
  readonly #random: Random;
  readonly #mood: NetworkMood;
  readonly #ends = { up: new Direction<Up>(), down: new Direction<Down>() };
  #broken = false;
  blockade: () => Blockade = () => "none";

  constructor(scheduler: Scheduler, random: Random, mood: NetworkMood) {
    this.#scheduler = scheduler;
    this.#random = random;
    this.#mood = mood;
    this.#keepAlive();
  }

  /** Sets what the controller's end does with messages and with the end of the stream. */
  atController(receive: (message: Up) => void, closed: (reason: string) => void): void {
    this.#ends.up.receive = receive;
    this.#ends.up.closed = closed;
  }

  atAgent(receive: (message: Down) => void, closed: (reason: string) => void): void {
    this.#ends.down.receive = receive;
    this.#ends.down.closed = closed;
  }

  sendUp(message: Up): void {
    this.#send(this.#ends.up, message, "up");
    if (this.#random.chance(this.#mood.duplicateRate)) this.#send(this.#ends.up, message, "up");
  }

  sendDown(message: Down): void {
    this.#send(this.#ends.down, message, "down");
    if (this.#random.chance(this.#mood.duplicateRate)) this.#send(this.#ends.down, message, "down");
  }

  /** One end goes away (its process ended, or it closes on purpose): the other learns after what was sent before. */
  close(by: "agent" | "controller", reason: string): void {
    if (this.#broken) return;
    const near = by === "agent" ? this.#ends.down : this.#ends.up;
    const far = by === "agent" ? this.#ends.up : this.#ends.down;
    near.closed = null;
    near.receive = null;
    far.lastMs = Math.max(far.lastMs, this.#scheduler.nowMs + this.#delay());
    this.#scheduler.at(far.lastMs, () => this.#tellEnd(far, by === "agent" ? "up" : "down", reason));
  }

  #tellEnd(far: { end(reason: string): void }, way: "up" | "down", reason: string): void {
    if (this.#broken) return;
    if (this.#blocked(way)) {
      this.#scheduler.after(500, () => this.#tellEnd(far, way, reason));
      return;
    }
    this.#broken = true;
    far.end(reason);
  }

  /** The network drops the stream and whatever is under way; each end notices in its own time. */
  cut(noticeMsMax: number): void {
    if (this.#broken) return;
    this.#broken = true;
    for (const end of [this.#ends.up, this.#ends.down]) {
      end.receive = null;
      this.#scheduler.after(this.#random.between(1, noticeMsMax), () => end.end("connection lost"));
    }
  }

  #send<T>(direction: Direction<T>, message: T, way: "up" | "down"): void {
    if (this.#broken) return;
    direction.lastMs = Math.max(direction.lastMs, this.#scheduler.nowMs + this.#delay());
    this.#scheduler.at(direction.lastMs, () => this.#deliver(direction, message, way));
  }

  #deliver<T>(direction: Direction<T>, message: T, way: "up" | "down"): void {
    if (this.#broken) return;
    if (direction.held.length > 0 || this.#blocked(way)) direction.held.push(message);
    else direction.receive?.(message);
  }

  #blocked(way: "up" | "down"): boolean {
    const blockade = this.blockade();
    return blockade === "both" || blockade === way;
  }

  /** Looks once a second for blockades that lifted, and for peers silent for too long. */
  #keepAlive(): void {
    this.#scheduler.after(1_000, () => {
      if (this.#broken) return;
      for (const way of ["up", "down"] as const) {
        const direction: Direction<Up> | Direction<Down> = this.#ends[way];
        if (!this.#blocked(way)) direction.flush();
        else direction.blockedMs += 1_000;
        if (direction.blockedMs >= KEEPALIVE_MS) this.cut(2_000);
      }
      this.#keepAlive();
    });
  }

  #delay(): number {
    return this.#random.between(this.#mood.delayMsMin, this.#mood.delayMsMax);
  }
}

class Direction<T> {
  receive: ((message: T) => void) | null = null;
  closed: ((reason: string) => void) | null = null;
  held: T[] = [];
  lastMs = 0;
  blockedMs = 0;

  flush(): void {
    this.blockedMs = 0;
    const { held } = this;
    this.held = [];
    for (const message of held) this.receive?.(message);
  }

  end(reason: string): void {
    const { closed } = this;
    this.closed = null;
    this.receive = null;
    closed?.(reason);
  }
}
