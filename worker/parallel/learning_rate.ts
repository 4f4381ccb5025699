import type { Job } from "../../job/job.js";

/**
 * Learning rate of step `step` (from 1): grows linearly to the full rate at step warmup_steps, then stays, or falls
 * on half a cosine that would reach 0 one step after the last.
 */
export function learningRate(step: number, optimizer: Job["optimizer"], totalSteps: number): number {
  const { lr, warmup_steps: warmup, schedule } = optimizer;
  if (step < warmup) return (lr * step) / warmup;
  if (schedule === "constant") return lr;
  const done = Math.min(1, Math.max(0, step - 1 - warmup) / Math.max(1, totalSteps - warmup));
  return lr * 0.5 * (1 + Math.cos(Math.PI * done));
}

/** EMA decay with warm-up; adamStep counts from 1. */
export function emaDecay(adamStep: number, ema: number): number {
  return Math.min(ema, (1 + adamStep) / (10 + adamStep));
}
