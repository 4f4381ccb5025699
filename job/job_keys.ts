import { z } from "zod";
import { commandJobSchema } from "./command_job.js";
import { jobSchema } from "./job.js";

/**
 * Dotted names of every key of the job file, in the file's order; those of a program of its own last.
 * @param options.sections also the keys that hold other keys (`train`), which overrides may set whole
 */
export function schemaKeys(options: { sections?: boolean } = {}): string[] {
  const keys: string[] = [];
  for (const schema of [jobSchema, commandJobSchema]) walk(schema, "", options.sections ?? false, keys);
  return [...new Set(keys)];
}

function walk(schema: unknown, path: string, sections: boolean, keys: string[]): void {
  const object = objectInside(schema);
  // a union may be set as a whole (layout: auto) as well as key by key
  if (path !== "" && (object === null || sections || isUnion(schema))) keys.push(path);
  for (const [key, child] of Object.entries(object?.shape ?? {}))
    walk(child, path === "" ? key : `${path}.${key}`, sections, keys);
}

function isUnion(schema: unknown): boolean {
  return schema instanceof z.ZodUnion || (schema instanceof z.ZodDefault && isUnion(schema.unwrap()));
}

function objectInside(schema: unknown): z.ZodObject | null {
  if (schema instanceof z.ZodObject) return schema;
  if (schema instanceof z.ZodDefault || schema instanceof z.ZodPrefault || schema instanceof z.ZodOptional)
    return objectInside(schema.unwrap());
  if (schema instanceof z.ZodUnion)
    return schema.options.map(objectInside).find((option) => option !== null) ?? null;
  return null;
}

/** What other trainers call our keys. */
const NAMES_ELSEWHERE: Readonly<Record<string, string>> = {
  learning_rate: "optimizer.lr",
  weight_decay: "optimizer.weight_decay",
  grad_clip: "optimizer.clip",
  max_grad_norm: "optimizer.clip",
  ema_decay: "optimizer.ema",
  max_steps: "train.steps",
  max_train_steps: "train.steps",
  batch_size: "train.packs_per_step",
  output_dir: "checkpoint.uri",
  save_steps: "checkpoint.every_steps",
  checkpointing_steps: "checkpoint.every_steps",
  dataset: "data.media",
  data_root: "data.media",
  num_frames: "data.max_frames",
  mixed_precision: "precision",
  dtype: "precision",
  guidance_scale: "sample.guidance",
  num_inference_steps: "sample.steps",
  gradient_checkpointing: "recompute",
  entrypoint: "trainer.command",
  args: "trainer.command",
  nproc_per_node: "layout.dp_shard",
  max_restarts: "recovery.max_attempts",
};

/** The known key most like an unknown one, or null when none is close: same name elsewhere first, then fewest edits. */
export function nearestKey(unknown: string): string | null {
  const keys = schemaKeys({ sections: true });
  const name = unknown.split(".").at(-1)!;
  if (Object.hasOwn(NAMES_ELSEWHERE, name)) return NAMES_ELSEWHERE[name]!;
  const moved = keys.filter((key) => key.split(".").at(-1) === name);
  if (moved.length === 1) return moved[0]!;
  let best: string | null = null;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const key of keys) {
    const sameSection =
      key.slice(0, key.lastIndexOf(".") + 1) === unknown.slice(0, unknown.lastIndexOf(".") + 1);
    const distance = editDistance(name, key.split(".").at(-1)!) + (sameSection ? 0 : 1);
    if (distance < bestDistance) {
      best = key;
      bestDistance = distance;
    }
  }
  return bestDistance <= Math.max(2, name.length / 3) ? best : null;
}

/** Levenshtein distance, neighbouring letters swapped counting once. */
function editDistance(a: string, b: string): number {
  const rows = Array.from({ length: a.length + 1 }, (_, i) =>
    Array.from({ length: b.length + 1 }, (_, j) => (i === 0 ? j : j === 0 ? i : 0)),
  );
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      const replace = rows[i - 1]![j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      let least = Math.min(rows[i - 1]![j]! + 1, rows[i]![j - 1]! + 1, replace);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        least = Math.min(least, rows[i - 2]![j - 2]! + 1);
      rows[i]![j] = least;
    }
  }
  return rows[a.length]![b.length]!;
}
