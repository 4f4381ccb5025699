/** Our side of bench/train_step.ts: one process that trains on one rank, step by step as told. */
import { jobSchema } from "../job/job.js";
import { Layout } from "../job/layout.js";
import { type ModelConfig, modelConfigSchema } from "../job/model_config.js";
import { patchSize } from "../job/parameters.js";
import type { PackBatch, StepPlan } from "../worker/data/pack_batch.js";
import { loadNative } from "../worker/engine/load_native.js";
import type { Native } from "../worker/engine/native.js";
import { PAGE_BYTES } from "../worker/pages.js";
import { Trainer } from "../worker/parallel/trainer.js";
import { Progress } from "../worker/progress.js";

/** What both sides are told: the model, the pack and the threads. */
export interface TrainStepSettings {
  threads: number;
  bf16: boolean;
  model: Partial<ModelConfig>;
  grids: [number, number, number][];
  text_lengths: number[];
}

export type ToTrainStepRank = { settings: TrainStepSettings } | "step" | "measured step" | "peak";
export interface FromTrainStepRank {
  seconds?: number;
  loss?: number;
  /** Part of a step spent outside native calls, where each call was timed. */
  overhead?: number;
  /** Seconds by native function, the longest first, of a measured step. */
  profile?: [string, number][];
  peakBytes?: number;
  tensorPeakBytes?: number;
}

/** The native contract with every call timed. */
class TimedNative {
  seconds = 0;
  readonly byName = new Map<string, number>();
  enabled = false;
  readonly native: Native;

  constructor(native: Native) {
    const timed: Record<string, unknown> = {};
    for (const [name, member] of Object.entries(native)) {
      timed[name] =
        typeof member === "function" ? this.timed(name, member as (...args: unknown[]) => unknown) : member;
    }
    this.native = timed as unknown as Native;
  }

  private timed(name: string, call: (...args: unknown[]) => unknown) {
    return (...args: unknown[]) => {
      if (!this.enabled) return call(...args);
      const begun = performance.now();
      const result = call(...args);
      const seconds = (performance.now() - begun) / 1000;
      this.seconds += seconds;
      this.byName.set(name, (this.byName.get(name) ?? 0) + seconds);
      return result;
    };
  }
}

class Subject {
  private readonly timed = new TimedNative(loadNative());
  private readonly trainer: Trainer;
  private readonly batch: PackBatch;
  private step = 0;

  constructor(settings: TrainStepSettings) {
    const { native } = this.timed;
    native.threadsSet(settings.threads);
    const model = modelConfigSchema.parse(settings.model);
    const job = jobSchema.parse({
      name: "bench",
      data: { media: "." },
      precision: settings.bf16 ? "bf16" : "fp32",
      train: { steps: 1_000_000, packs_per_step: 1 },
      flow: { drop_text: 0 },
      checkpoint: { uri: "file://./bench" },
    });
    const layout = new Layout({ dp_replicate: 1, dp_shard: 1, sp: 1 });
    this.trainer = new Trainer({
      native,
      job,
      model,
      layout,
      rank: 0,
      groups: { world: null, shard: null, replica: null, sequence: null },
      progress: new Progress(new Uint8Array(PAGE_BYTES)),
      emptyText: { length: 1, data: new Float32Array(model.text_width) },
    });
    this.trainer.initialise();
    this.batch = syntheticBatch(settings, model);
  }

  run(measured: boolean): FromTrainStepRank {
    const { timed } = this;
    timed.enabled = measured;
    timed.seconds = 0;
    timed.byName.clear();
    const begun = performance.now();
    const loss = this.trainStep();
    const seconds = (performance.now() - begun) / 1000;
    if (!measured) return { seconds, loss };
    const profile = [...timed.byName].sort((a, b) => b[1] - a[1]);
    return { seconds, loss, overhead: 1 - timed.seconds / seconds, profile };
  }

  peak(): FromTrainStepRank {
    const peakBytes = process.resourceUsage().maxRSS * 1024;
    return { peakBytes, tensorPeakBytes: this.trainer.figures.memoryPeakBytes };
  }

  private trainStep(): number {
    const step = ++this.step;
    const { samples, grids } = this.batch;
    const tokens = grids.reduce((sum, [t, y, x]) => sum + t * y * x, 0);
    const plan: StepPlan = {
      step,
      packs: [{ packIndex: 0, samples, tokens }],
      sampleCount: samples.length,
      tokens,
      images: 0,
      videos: 0,
      fill: 1,
    };
    this.trainer.computeStep({ step, plan, packs: [this.batch], moved: 0 });
    const vote = this.trainer.vote(step, {
      snapshotWhole: true,
      slotFree: true,
      save: false,
      stop: false,
      yield: false,
      replicated: true,
      replicaLost: false,
    });
    return this.trainer.apply(step, vote).loss;
  }
}

function syntheticBatch(settings: TrainStepSettings, model: ModelConfig): PackBatch {
  const { grids, text_lengths: textLengths } = settings;
  const tokens = grids.reduce((sum, [t, y, x]) => sum + t * y * x, 0);
  let state = 1;
  const floats = (count: number) =>
    Float32Array.from({ length: count }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 31 - 1;
    });
  return {
    packIndex: 0,
    grids,
    textLengths,
    data: floats(tokens * patchSize(model)),
    text: floats(textLengths.reduce((a, b) => a + b, 0) * model.text_width),
    places: grids.map((_, i) => i),
    weights: grids.map(() => 1),
    samples: grids.map((_, i) => `sample ${i}`),
  };
}

let subject: Subject | null = null;
process.on("message", (raw) => {
  const message = raw as ToTrainStepRank;
  if (typeof message === "object") {
    subject = new Subject(message.settings);
    process.send!({});
  } else {
    process.send!(message === "peak" ? subject!.peak() : subject!.run(message === "measured step"));
  }
});
