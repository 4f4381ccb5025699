import type { Job } from "./job.js";
import type { LayoutSize } from "./layout.js";

/** What an exact resume promises, and a change can end. */
export interface GuaranteeEnded {
  key: string;
  from: unknown;
  to: unknown;
  consequence: string;
}

/** Keys whose change has no effect on the numbers. */
const HARMLESS = new Set(["name", "recompute", "checkpoint", "recovery", "sample"]);

const CONSEQUENCES: Record<string, string> = {
  model: "the same weights are read by a model that computes differently: losses jump",
  seed: "noise, times and sample order of the coming steps are drawn anew",
  data: "the data position refers to another data set: the resume is refused unless its digest is the same",
  "train.steps": "a cosine schedule is stretched: learning rates of the coming steps differ",
  "train.packs_per_step":
    "the data position is counted in steps of another size: samples are repeated or left out",
  "train.tokens_per_pack": "packs are composed differently: samples of this epoch are repeated or left out",
  device: "same samples, same packs; on another device losses agree to rounding, not bit for bit",
  layout: "same samples, same packs; losses agree to rounding (1e-6 over ten steps in fp32), not bit for bit",
  precision: "losses differ at the level of bf16 rounding",
  flow: "the loss measures another objective from here on",
  optimizer: "the coming steps follow other optimizer settings",
};

/** Compares a checkpoint's job with the one to run. Pure; empty: the resume is exact. */
export function guaranteesEnded(
  before: Job,
  after: Job,
  layouts: { before: LayoutSize; after: LayoutSize | "auto" },
): GuaranteeEnded[] {
  const ended: GuaranteeEnded[] = [];
  for (const key of Object.keys({ ...before, ...after }) as (keyof Job)[]) {
    if (HARMLESS.has(key) || key === "layout") continue;
    if (key !== "train") {
      if (!same(before[key], after[key]))
        ended.push({ key, from: before[key], to: after[key], consequence: CONSEQUENCES[key] ?? "" });
      continue;
    }
    for (const inner of Object.keys(after.train) as (keyof Job["train"])[]) {
      const [from, to] = [before.train[inner], after.train[inner]];
      const stretched = inner !== "steps" || after.optimizer.schedule === "cosine";
      if (from !== to && stretched)
        ended.push({ key: `train.${inner}`, from, to, consequence: CONSEQUENCES[`train.${inner}`] ?? "" });
    }
  }
  if (layouts.after === "auto" || !same(layouts.before, layouts.after)) {
    ended.push({ key: "layout", from: layouts.before, to: layouts.after, consequence: CONSEQUENCES.layout! });
  }
  return ended;
}

/** Equal as plain JSON data, whatever the order of keys. */
function same(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  return [...keys].every((key) =>
    same((a as Record<string, unknown>)[key], (b as Record<string, unknown>)[key]),
  );
}
