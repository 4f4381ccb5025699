import type { AgentMessage } from "../../controller/core/contract.js";
import { SIGNALS } from "../../job/signals/catalogue.js";
import type { CounterName, LinkName } from "../../job/signals/counters.js";
import { CounterWatch } from "../../worker/agent/signals/counter_watch.js";
import { LogReader, type ReadSign } from "../../worker/agent/signals/log_reader.js";
import type { MachineReading } from "../../worker/agent/signals/read_counters.js";
import { readKernelLine } from "../../worker/agent/signals/read_kernel_line.js";
import { SignalBook } from "../../worker/agent/signals/signal_book.js";
import type { SimAgent } from "./sim_agent.js";
import type { SimWorld } from "./sim_world.js";

/** As NodeWatch has it. */
const COUNTERS_MS = 5_000;

/** What a machine counts, as far as anything is wrong with it. */
export class MachineCounters {
  /** By counter: what it came to until then, and by how much it grows from then on. */
  readonly #counts = new Map<CounterName, { value: number; sinceMs: number; perMinute: number }>();
  readonly links = new Map<LinkName, boolean>();

  grow(counter: CounterName, perMinute: number, nowMs: number): void {
    this.#counts.set(counter, { value: this.#valueOf(counter, nowMs), sinceMs: nowMs, perMinute });
  }

  #valueOf(counter: CounterName, nowMs: number): number {
    const { value, sinceMs, perMinute } = this.#counts.get(counter) ?? { value: 0, sinceMs: 0, perMinute: 0 };
    return Math.floor(value + (perMinute * (nowMs - sinceMs)) / 60_000);
  }

  get isWatched(): boolean {
    return this.#counts.size + this.links.size > 0;
  }

  reading(nowMs: number): MachineReading {
    return {
      counts: [...this.#counts.keys()].map((counter) => ({
        counter,
        device: "dev0",
        value: this.#valueOf(counter, nowMs),
      })),
      links: [...this.links].map(([link, up]) => ({ link, device: "dev0", up })),
    };
  }
}

/** What an agent reads of its machine and of its ranks' output; lines and counters are judged by the real code. */
export class SimWatch {
  readonly #agent: SimAgent;
  readonly #world: SimWorld;
  readonly #book = new SignalBook();
  readonly #counters = new CounterWatch();
  readonly #readers = new Map<number, LogReader>();
  #isWatching = false;

  constructor(agent: SimAgent, world: SimWorld) {
    this.#agent = agent;
    this.#world = world;
    this.lookAtCounters();
  }

  get rates() {
    return [...this.#counters.perMinute].map(([counter, perMinute]) => ({ counter, perMinute }));
  }

  begin(): void {
    this.#readers.clear();
    this.#book.clear("rank ");
    this.#book.clear("node kernel.oom_kill ");
  }

  /** A rank has written that. */
  take(rank: number, line: string): void {
    const reader = this.#readers.get(rank) ?? new LogReader();
    this.#readers.set(rank, reader);
    const sign = reader.read(line);
    if (sign !== null) this.#tell(sign, rank);
  }

  /** The kernel has. */
  takeKernel(line: string): void {
    const sign = readKernelLine(`4,1,1,-;${line}`);
    if (sign === null) throw new Error(`the kernel says nothing with: ${line}`);
    const rank = [...this.#agent.ranks.values()].find(({ pid }) => pid === sign.pid)?.rank ?? null;
    this.#tell(sign, rank);
  }

  /** From the first moment on in which there is something to count. */
  lookAtCounters(): void {
    const { counters } = this.#agent.node;
    if (this.#isWatching || !counters.isWatched) return;
    this.#isWatching = true;
    this.#counters.take(counters.reading(this.#nowMs), this.#nowMs);
    this.#lookAgain();
  }

  #lookAgain(): void {
    this.#agent.later(COUNTERS_MS, () => {
      const { counters } = this.#agent.node;
      for (const sign of this.#counters.take(counters.reading(this.#nowMs), this.#nowMs).signs)
        this.#tell(sign, null);
      this.#lookAgain();
    });
  }

  #tell({ kind, device, text }: ReadSign, rank: number | null): void {
    const { node, generation } = this.#agent;
    const { source, cause, action } = SIGNALS.get(kind)!;
    if (source !== "log" && action === "quarantine") node.guilt.add("sign");
    if (cause === "machine") node.hasToldOfMachine = true;
    if (kind === "kernel.oom_kill") node.hasKilledForMemory = true;
    const key = `${rank === null ? "node" : `rank ${rank}`} ${kind} ${device}`;
    const count = this.#book.count(key, this.#nowMs);
    if (count === null) return;
    const atMs = BigInt(this.#nowMs);
    const signal = { kind, rank: rank ?? undefined, device, text, count, atMs };
    const told: AgentMessage = {
      $case: "nodeSignals",
      value: { generation: BigInt(generation), signals: [signal] },
    };
    this.#agent.report(told);
  }

  get #nowMs(): number {
    return this.#world.scheduler.nowMs;
  }
}
