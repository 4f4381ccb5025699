import assert from "node:assert/strict";
import { GokuError } from "../../../job/errors.js";
import { resolveAnyJob } from "../../../job/load_job.js";

export type Values = Record<string, unknown>;
/** A job of our model. */
export const GOOD: Values = {
  data: { media: "/data/shapes" },
  train: { steps: 10 },
  checkpoint: { uri: "file:///runs/shapes" },
};
/** A program of its own. */
export const PROGRAM: Values = { trainer: { command: ["python3", "train.py"] } };

/** What gokuctl says of a job named shapes; none: it is taken. */
export function cliProblems(spec: Values): string[] {
  try {
    resolveAnyJob({ name: "shapes", ...spec });
    return [];
  } catch (error) {
    assert.ok(error instanceof GokuError);
    return error.message.replace(/^Cannot use job: /, "").split("; ");
  }
}

/** The same with another value at a key. */
export function put(base: Values, dotted: string, value: unknown): Values {
  const copy = structuredClone(base);
  const keys = dotted.split(".");
  let parent = copy;
  for (const key of keys.slice(0, -1)) {
    parent[key] ??= {};
    parent = parent[key] as Values;
  }
  parent[keys.at(-1)!] = value;
  return copy;
}

/** Values of every kind, of which each key takes some and refuses most. */
export const PROBES: unknown[] = [
  ...[-1, 0, 0.5, 1, 2, 3, 7, 1.5, 1000, 2 ** 53],
  ...[
    "",
    "auto",
    "cpu",
    "cuda",
    "bf16",
    "full",
    "skip",
    "Stop",
    "cosine",
    "required",
    "goku-1b",
    "a-b",
    "A_b",
  ],
  ...["/data", "file:///x", "s3://bucket/a/b", "s3://B/a", true, false, null, {}, { x: 1 }],
  ...[[], [1], [0, 1], [0.9, 0.95], [1, 2, 2], [2, 4, 4], [2, 4, 3], [8, 4, 4], ["a"], [""], [1, 2, 3, 4]],
];
/** What the API server cannot know; its controller says it. */
export const LEFT = /^(layout|trainer\.env)/;

/** Jobs with one fault each, which the API server names in the words of gokuctl. */
export const SAID: [name: string, job: Values][] = [
  ["a number too small", put(GOOD, "train.steps", 0)],
  ["one that must be below 1", put(GOOD, "optimizer.ema", 1)],
  ["a name that is not on the list", put(GOOD, "precision", "fp16")],
  ["an address that is none", put(GOOD, "checkpoint.uri", "nowhere")],
  ["a stride that the codec has not", put(GOOD, "data.codec.stride", [2, 6, 4])],
  ["a list of the wrong length", put(GOOD, "optimizer.betas", [0.9])],
  ["an odd width", put(GOOD, "model.frequency_width", 3)],
  ["an empty command", put(PROGRAM, "trainer.command", [])],
  ["no data", { train: { steps: 1 }, checkpoint: { uri: "file:///runs/x" } }],
  ["data beside a program", { ...PROGRAM, data: { media: "/data" } }],
  ["a key of our model's recovery beside a program", { ...PROGRAM, recovery: { bad_step: "skip" } }],
];
