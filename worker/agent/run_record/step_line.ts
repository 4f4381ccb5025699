import type { StepCompleted } from "../../../gen/goku/v1/agent.pb.js";
import { finite } from "../../../job/finite.js";
import type { Scalar } from "../../tfevents.js";

/** One line of metrics.jsonl: what a step came to. Keys are stable interface (docs/metrics.md). */
export interface StepLine {
  step: number;
  /** Unix seconds at which it was completed. */
  time: number;
  generation: number;
  /** Null: not told, or not finite. */
  loss: number | null;
  grad_norm: number | null;
  learning_rate: number;
  /** False: voted down, no weight changed. */
  applied: boolean;
  tokens: number;
  images: number;
  videos: number;
  /** Samples that could not be read. */
  unreadable: number;
  pack_fill: number;
  step_seconds: number;
  compute_seconds: number;
  communication_seconds: number;
  data_seconds: number;
  optimizer_seconds: number;
  snapshot_seconds: number;
  /** Parts of communication_seconds. */
  wait_seconds: Record<string, number>;
  memory_peak_bytes: number;
  model_flops: number;
  /** Model FLOPs utilisation; null: the peak of the devices is not known. */
  mfu: number | null;
}

/** @param peakFlops of all ranks together; null: not known. Pure. */
export function stepLine(step: StepCompleted, peakFlops: number | null): StepLine {
  const { waits, stepSeconds, modelFlops } = step;
  const isKnown = peakFlops !== null && stepSeconds > 0 && modelFlops > 0;
  return {
    step: Number(step.step),
    time: Number(step.completedMs) / 1000,
    generation: Number(step.generation),
    loss: finite(step.loss),
    grad_norm: finite(step.gradNorm),
    learning_rate: step.learningRate,
    applied: step.applied,
    tokens: Number(step.tokens),
    images: step.images,
    videos: step.videos,
    unreadable: step.unreadable,
    pack_fill: step.packFill,
    step_seconds: stepSeconds,
    compute_seconds: step.computeSeconds,
    communication_seconds: step.commWaitSeconds,
    data_seconds: step.dataWaitSeconds,
    optimizer_seconds: step.optimizerSeconds,
    snapshot_seconds: step.snapshotSeconds,
    wait_seconds:
      waits === undefined
        ? {}
        : {
            all_gather: waits.allGather,
            reduce_scatter: waits.reduceScatter,
            all_reduce: waits.allReduce,
            all_to_all: waits.allToAll,
            vote: waits.vote,
          },
    memory_peak_bytes: Number(step.memoryPeakBytes),
    model_flops: modelFlops,
    mfu: isKnown ? modelFlops / stepSeconds / peakFlops : null,
  };
}

/** The same for TensorBoard. A number that is not there is no point of its curve. Pure. */
export function lineScalars(line: StepLine): Scalar[] {
  const perSecond = (count: number) => (line.step_seconds > 0 ? count / line.step_seconds : null);
  const values: Record<string, number | null> = {
    "train/loss": line.loss,
    "train/grad_norm": line.grad_norm,
    "train/learning_rate": line.learning_rate,
    "throughput/tokens_per_second": perSecond(line.tokens),
    "throughput/samples_per_second": perSecond(line.images + line.videos),
    "throughput/model_flops_per_second": perSecond(line.model_flops),
    "throughput/mfu": line.mfu,
    "data/tokens": line.tokens,
    "data/images": line.images,
    "data/videos": line.videos,
    "data/unreadable": line.unreadable,
    "data/pack_fill": line.pack_fill,
    "seconds/step": line.step_seconds,
    "seconds/compute": line.compute_seconds,
    "seconds/communication": line.communication_seconds,
    "seconds/data": line.data_seconds,
    "seconds/optimizer": line.optimizer_seconds,
    "seconds/snapshot": line.snapshot_seconds,
    "memory/peak_bytes": line.memory_peak_bytes,
  };
  for (const [name, seconds] of Object.entries(line.wait_seconds)) values[`wait_seconds/${name}`] = seconds;
  return Object.entries(values).flatMap(([tag, value]) => (value === null ? [] : [{ tag, value }]));
}

/** The lines of a file up to a step, in order; one that a crash cut off, and what follows it, is none. Pure. */
export function keptLines(text: string, keep: number): { text: string; step: number } {
  let kept = "";
  let last = 0;
  for (const raw of text.split("\n").slice(0, -1)) {
    const step = stepOf(raw);
    if (step === null || step <= last || step > keep) break;
    kept += `${raw}\n`;
    last = step;
  }
  return { text: kept, step: last };
}

function stepOf(line: string): number | null {
  try {
    const { step } = JSON.parse(line) as { step?: unknown };
    return Number.isSafeInteger(step) ? (step as number) : null;
  } catch {
    return null;
  }
}
