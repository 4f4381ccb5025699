import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Job } from "../../../job/job.js";
import { jobSchema } from "../../../job/job.js";
import { Layout } from "../../../job/layout.js";
import { type ModelConfig, modelConfigSchema } from "../../../job/model_config.js";
import type { StepFigures } from "../../../worker/parallel/step_types.js";
import type { VoteFlags, VoteResult } from "../../../worker/parallel/vote.js";
import { runRanks } from "../../support/rank_process.js";

/** A model small enough to train on every layout within a second. */
export const TINY: ModelConfig = modelConfigSchema.parse({
  depth: 2,
  width: 24,
  heads: 3,
  text_width: 8,
  latent_channels: 2,
});

export interface FleetTask {
  /** "RxSxU". */
  layout: string;
  model: ModelConfig;
  job: Job;
  steps: number;
  /** Folder for the shared pages; set by `trainFleet`. */
  folder: string;
  threads: number;
  transport: "auto" | "tcp";
  /** What ranks bring into the vote of a step, where it is not the ordinary. */
  flags: { rank: number; step: number; flags: Partial<VoteFlags> }[];
  /** What every pack holds; null: packs of all kinds. */
  pack: { grids: [number, number, number][]; textLengths: number[] } | null;
  /** Data of this pack is NaN. */
  poisonedPack: number | null;
  /** Only when it is computed first: the rank was wrong, not the data. */
  poisonedOnce: boolean;
  /** Before training, compute the first step at home and moved on by one data rank. */
  movedFirst: boolean;
  /** These samples could not be read: weight 0. */
  unreadable: string[];
  /** This rank alone could not read a sample. */
  unreadableAt: { rank: number; sample: string } | null;
  /** This rank leaves its groups in this step without computing it; all form a new generation and go on. */
  desertion: { rank: number; step: number } | null;
}

export interface FleetResult {
  /** The ones that count: where numbers were not finite, that on the second try. */
  votes: VoteResult[];
  /** Where `movedFirst`: losses of its packs at home, and moved. */
  moved: number[][];
  applied: boolean[];
  lrs: number[];
  /** Where `movedFirst`: figures after the vote on each. */
  movedFigures: StepFigures[];
  /** Of the last step. */
  figures: StepFigures | null;
  adamStep: number;
  /** model and ema by parameter: elements [start, start + values.length). */
  pieces: { name: string; start: number; values: Float32Array }[];
  /** Tensor bytes alive after every step, less those before the first. */
  leaks: number[];
  /** High-water mark of tensor bytes of every step, the training state left out. */
  peaks: number[];
  /** Code of the error that the desertion caused here. */
  errorCode: string | null;
}

export function fleetJob(overrides: { packs: number; steps: number; [key: string]: unknown }): Job {
  const { packs, steps, ...rest } = overrides;
  return jobSchema.parse({
    name: "fleet",
    seed: 11,
    data: { media: "." },
    train: { steps, packs_per_step: packs },
    optimizer: { lr: 1e-2, warmup_steps: 2, weight_decay: 0.1, clip: 1 },
    checkpoint: { uri: "file://./fleet" },
    flow: { drop_text: 0.3, shift: 2 },
    ...rest,
  });
}

/** Trains on real rank processes; the results are in rank order. */
export async function trainFleet(
  task: Partial<FleetTask> & { layout: string; job: Job },
): Promise<FleetResult[]> {
  const folder = await mkdtemp(path.join(tmpdir(), "goku-fleet-"));
  try {
    const whole: FleetTask = {
      model: TINY,
      steps: task.job.train.steps,
      threads: 1,
      transport: "auto",
      flags: [],
      pack: null,
      poisonedPack: null,
      poisonedOnce: false,
      movedFirst: false,
      unreadable: [],
      unreadableAt: null,
      desertion: null,
      ...task,
      folder,
    };
    const module = new URL("./fleet_rank.js", import.meta.url);
    return await runRanks<FleetTask, FleetResult>(module, Layout.parse(task.layout).worldSize, whole);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Final weights and EMA put together, by parameter. */
export function wholeState(results: readonly FleetResult[]): Map<string, Float32Array> {
  const whole = new Map<string, Float32Array>();
  const pieces = results.flatMap((result) => result.pieces);
  const sizes = new Map<string, number>();
  for (const { name, start, values } of pieces) {
    sizes.set(name, Math.max(sizes.get(name) ?? 0, start + values.length));
  }
  for (const [name, size] of sizes) whole.set(name, new Float32Array(size).fill(Number.NaN));
  for (const { name, start, values } of pieces) whole.get(name)!.set(values, start);
  return whole;
}
