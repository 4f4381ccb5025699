import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { decodePage } from "../../../worker/agent/progress_reader.js";
import type { GenerationSeen } from "./cell.js";

const LOOK_MS = 50;

/** What training did between two moments. */
export interface TrainingSeen {
  steps: number;
  /** Longest time in which no step was completed. */
  pauseSeconds: number;
}

interface Sample {
  atMs: number;
  generation: number;
  step: number;
}

/**
 * Looks at the progress pages of all ranks, as they lie in memory: what training does is seen so without asking anybody
 * that a fault may have silenced.
 */
export class PageWatch {
  readonly #stateDir: string;
  readonly #worldSize: number;
  readonly #nodes = new Map<number, Set<string>>();
  /** One for each step that all ranks had completed. */
  readonly #samples: Sample[] = [];
  readonly #timer: NodeJS.Timeout;

  constructor(options: { stateDir: string; worldSize: number }) {
    this.#stateDir = options.stateDir;
    this.#worldSize = options.worldSize;
    this.#timer = setInterval(() => this.#look(), LOOK_MS);
  }

  close(): void {
    clearInterval(this.#timer);
  }

  generations(): GenerationSeen[] {
    return [...this.#nodes].map(([number, nodes]) => {
      const steps = this.#samples.filter(({ generation }) => generation === number).map(({ step }) => step);
      return { number, nodes: [...nodes].sort(), step: Math.max(0, ...steps) };
    });
  }

  training(fromMs: number, untilMs: number): TrainingSeen {
    return trainingBetween(this.#samples, fromMs, untilMs);
  }

  #look(): void {
    const pages = this.#pages();
    for (const generation of new Set(pages.map((page) => page.generation))) {
      const own = pages.filter((page) => page.generation === generation);
      if (own.length < this.#worldSize) continue; // it is not formed yet, or has ended
      const nodes = this.#nodes.get(generation) ?? new Set();
      for (const { node } of own) nodes.add(node);
      this.#nodes.set(generation, nodes);
      const step = Math.min(...own.map((page) => page.step));
      const last = this.#samples.at(-1);
      const isNext =
        last?.generation === generation ? step > last.step : generation > (last?.generation ?? 0);
      if (isNext) this.#samples.push({ atMs: Date.now(), generation, step });
    }
  }

  #pages(): { node: string; generation: number; step: number }[] {
    try {
      const names = readdirSync(this.#stateDir, { recursive: true, encoding: "utf8" });
      return names
        .filter((name) => name.endsWith(".progress"))
        .map((name) => ({
          node: name.split(path.sep)[0]!,
          page: decodePage(readFileSync(path.join(this.#stateDir, name))),
        }))
        .filter(({ page }) => page.generation > 0n)
        .map(({ node, page }) => ({ node, generation: Number(page.generation), step: Number(page.step) }));
    } catch {
      return []; // one went while they were listed: the next look has them
    }
  }
}

/** For people. */
export function trainingText({ steps, pauseSeconds }: TrainingSeen): string {
  return `training went on: ${steps} steps meanwhile, the longest pause ${pauseSeconds.toFixed(1)} s`;
}

/** Pure. */
export function trainingBetween(
  samples: readonly { atMs: number; step: number }[],
  fromMs: number,
  untilMs: number,
): TrainingSeen {
  const within = samples.filter(({ atMs }) => atMs >= fromMs && atMs <= untilMs);
  const before = samples.findLast(({ atMs }) => atMs < fromMs);
  const times = [fromMs, ...within.map(({ atMs }) => atMs), untilMs];
  const pauses = times.slice(1).map((atMs, i) => atMs - times[i]!);
  const last = within.at(-1)?.step ?? before?.step ?? 0;
  return { steps: last - (before?.step ?? 0), pauseSeconds: Math.max(...pauses) / 1000 };
}
