import { GokuError } from "../job/errors.js";
import type { Layout } from "../job/layout.js";
import type { ModelConfig } from "../job/model_config.js";
import { parameterSpecs } from "../job/parameters.js";
import { flatUnits } from "../job/sharding.js";
import type { CommitResult } from "./commit.js";
import { CHUNK_BYTES } from "./digest.js";
import type { Weights } from "./open_weights.js";
import { TRANSFORMER_CLASS } from "./pipeline_configs.js";
import type { PlannedInterval } from "./plan.js";
import type { StateMeta } from "./state.js";
import type { Storage } from "./storage/storage.js";
import { WEIGHT_DTYPES } from "./widen_floats.js";
import { writeCheckpoint } from "./write_checkpoint.js";

/** One thing that keeps weights from being those of a model. */
export interface WeightFault {
  /** A tensor, or a key of the model section. */
  name: string;
  what: "missing" | "surplus" | "of another shape" | "of another type" | "of another model";
  found: string | null;
  want: string | null;
}

/** Held at once, as float32. */
const PART_BYTES = 8 * CHUNK_BYTES;

/**
 * Everything that does not fit: every tensor of the model must be there, in its shape, and no other. Keys of the model section
 * that shapes do not show, such as its heads, are compared where an exported folder tells them. Empty: the weights fit.
 */
export function weightFaults(weights: Weights, model: ModelConfig): WeightFault[] {
  const held = new Map(weights.entries().map((entry) => [entry.name, entry]));
  const specs = parameterSpecs(model);
  const wanted = new Set(specs.map(({ name }) => name));
  const faults = modelFaults(weights.config, model);
  for (const { name, shape } of specs) {
    const want = shape.join(" x ");
    const found = held.get(name);
    if (found === undefined) faults.push({ name, what: "missing", found: null, want });
    else if (found.shape.join(" x ") !== want)
      faults.push({ name, what: "of another shape", found: found.shape.slice(0, 8).join(" x "), want });
    else if (!WEIGHT_DTYPES.some((dtype) => dtype === found.dtype))
      faults.push({ name, what: "of another type", found: found.dtype, want: WEIGHT_DTYPES.join(", ") });
  }
  for (const { name, shape } of held.values()) {
    if (!wanted.has(name))
      faults.push({ name, what: "surplus", found: shape.slice(0, 8).join(" x "), want: null });
  }
  return faults;
}

function modelFaults(config: Weights["config"], model: ModelConfig): WeightFault[] {
  if (config?._class_name !== TRANSFORMER_CLASS) return [];
  return Object.entries(model).flatMap(([key, want]) => {
    const found = config[key];
    const same = Array.isArray(want)
      ? Array.isArray(found) && found.length === want.length && want.every((each, i) => found[i] === each)
      : found === want;
    if (same) return [];
    return [
      { name: `model.${key}`, what: "of another model" as const, found: describe(found), want: String(want) },
    ];
  });
}

function describe(value: unknown): string | null {
  if (value === undefined) return null;
  if (Array.isArray(value) && value.every((item) => typeof item === "number"))
    return String(value.slice(0, 8));
  return typeof value === "object" ? "a list or an object" : String(value).slice(0, 40);
}

/**
 * Makes the checkpoint of a state before its first step: model and averaged weights are the imported ones, moments are zero.
 * Throws CHECKPOINT_MISMATCH, with nothing written, unless the weights fit; otherwise as writeCheckpoint.
 * @param options.meta of the state, as a rank would make it for initial values
 */
export async function importCheckpoint(options: {
  weights: Weights;
  model: ModelConfig;
  meta: StateMeta;
  layout: Layout;
  storage: Storage;
  onProgress?: (progress: { bytesDone: number; bytesTotal: number }) => void;
}): Promise<CommitResult> {
  const { weights, model, meta, layout, storage } = options;
  const faults = weightFaults(weights, model);
  if (faults.length > 0) throw mismatch(faults);
  const specs = parameterSpecs(model);
  const bytesTotal = 16 * specs.reduce((sum, { count }) => sum + count, 0);
  let bytesDone = 0;
  async function* read({ kind, spec, start, length }: PlannedInterval): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < length; at += PART_BYTES / 4) {
      const part = { start: start + at, length: Math.min(PART_BYTES / 4, length - at) };
      const isWeight = kind === "model" || kind === "ema";
      const values = isWeight ? await weights.read(spec.name, part) : new Float32Array(part.length);
      yield new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      bytesDone += values.byteLength;
      options.onProgress?.({ bytesDone, bytesTotal });
    }
  }
  return writeCheckpoint({
    storage,
    source: { meta, read, requireUnchanged: () => {} },
    units: flatUnits(specs),
    layout,
    generation: meta.state.generation,
  });
}

/** One line about all faults, for the end of a list of them. */
export function mismatch(faults: readonly WeightFault[]): GokuError {
  const kinds = [...new Set(faults.map(({ what }) => what))];
  const counts = kinds.map((kind) => `${faults.filter(({ what }) => what === kind).length} ${kind}`);
  const first = faults[0]!;
  return new GokuError(
    "CHECKPOINT_MISMATCH",
    `Cannot import these weights: ${counts.join(", ")} (${JSON.stringify(first.name.slice(0, 200))}, ...), give the model section that they were trained with`,
  );
}
