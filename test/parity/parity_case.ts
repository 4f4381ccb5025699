import { readFile } from "node:fs/promises";
import { z } from "zod";
import { readSafetensors, safetensorsNumbers } from "../../checkpoint/safetensors.js";
import { GokuError } from "../../job/errors.js";
import { type Job, jobSchema } from "../../job/job.js";
import { type ModelConfig, modelConfigSchema } from "../../job/model_config.js";
import { parameterSpecs, patchSize } from "../../job/parameters.js";

const triple = z.tuple([z.number().int().min(1), z.number().int().min(1), z.number().int().min(1)]);
const counts = z.array(z.number().int().min(0));

/** The JSON file beside a case. */
const caseSchema = z.object({
  config: modelConfigSchema,
  grids: z.array(triple).min(1),
  text_lengths: counts,
  optimizer: z.object({
    lr: z.number(),
    betas: z.tuple([z.number(), z.number()]),
    eps: z.number(),
    weight_decay: z.number(),
    clip: z.number(),
    ema: z.number(),
  }),
  sampler: z.object({
    steps: z.number().int().min(1),
    shift: z.number(),
    guidance: z.array(z.number()),
    empty_lengths: counts,
  }),
});

/** One golden case: inputs, parameters before training, and what the reference computed from them in float64. */
export interface ParityCase {
  model: ModelConfig;
  grids: [number, number, number][];
  textLengths: number[];
  optimizer: z.infer<typeof caseSchema>["optimizer"];
  sampler: { steps: number; shift: number; guidance: number[]; emptyLengths: number[] };
  /** A tensor of the file, as float32; not to be written to. */
  tensor(name: string): Float32Array;
}

/** Reads CASE.safetensors and the CASE.json beside it. */
export async function readParityCase(path: string): Promise<ParityCase> {
  const jsonPath = path.replace(/\.safetensors$/, ".json");
  if (jsonPath === path) {
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot read case ${path}: want a path that ends in .safetensors`,
    );
  }
  const { tensors } = await readSafetensors(path);
  const parsed = caseSchema.safeParse(JSON.parse(await readText(jsonPath)));
  if (!parsed.success) {
    throw new GokuError("ARGUMENT_INVALID", `Cannot read case ${jsonPath}: ${z.prettifyError(parsed.error)}`);
  }
  const { config, grids, text_lengths, optimizer, sampler } = parsed.data;
  const known = new Map<string, Float32Array>();
  const parityCase: ParityCase = {
    model: config,
    grids,
    textLengths: text_lengths,
    optimizer,
    sampler: { ...sampler, emptyLengths: sampler.empty_lengths },
    tensor(name) {
      let values = known.get(name);
      if (values) return values;
      const tensor = tensors.get(name);
      if (!tensor) {
        throw new GokuError("ARGUMENT_INVALID", `Cannot read case ${path}: it has no tensor ${name}`);
      }
      const { data } = tensor;
      values =
        tensor.dtype === "F32"
          ? new Float32Array(data.buffer, data.byteOffset, data.byteLength / 4)
          : Float32Array.from(safetensorsNumbers(tensor));
      known.set(name, values);
      return values;
    },
  };
  checkSizes(path, parityCase);
  return parityCase;
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw new GokuError("NOT_FOUND", `Cannot read ${path}: every CASE.safetensors needs its CASE.json`, {
      cause: error,
    });
  }
}

function checkSizes(path: string, { model, grids, textLengths, tensor }: ParityCase): void {
  const tokens = grids.reduce((sum, [t, y, x]) => sum + t * y * x, 0);
  const P = patchSize(model);
  const wanted: [string, number][] = [
    ["data", tokens * P],
    ["noise", tokens * P],
    ["velocity", tokens * P],
    ["time", grids.length],
    ["text", textLengths.reduce((a, b) => a + b, 0) * model.text_width],
    ...parameterSpecs(model).map((spec) => [`param.${spec.name}`, spec.count] as [string, number]),
  ];
  for (const [name, count] of wanted) {
    const found = tensor(name).length;
    if (found !== count) {
      throw new GokuError(
        "ARGUMENT_INVALID",
        `Cannot read case ${path}: ${name} has ${found} numbers, its config wants ${count}`,
      );
    }
  }
}

/** The case as a job: constant learning rate, three steps. */
export function parityJob(
  parityCase: ParityCase,
  options: { bf16: boolean; recompute: "none" | "full" },
): Job {
  return jobSchema.parse({
    name: "parity",
    data: { media: "." },
    precision: options.bf16 ? "bf16" : "fp32",
    recompute: options.recompute,
    train: { steps: PARITY_STEPS },
    optimizer: parityCase.optimizer,
    checkpoint: { uri: "file://./parity" },
  });
}

export const PARITY_STEPS = 3;
