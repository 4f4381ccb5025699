import { randomBytes } from "node:crypto";
import { mkdir, readdir, realpath, rm } from "node:fs/promises";
import path from "node:path";
import { GokuError, toGokuError } from "../job/errors.js";
import { modelConfig } from "../job/job.js";
import { resolveJob } from "../job/load_job.js";
import { type ParameterSpec, parameterSpecs } from "../job/parameters.js";
import type { Checkpoint } from "./checkpoint.js";
import { CHUNK_BYTES } from "./digest.js";
import { pipelineConfigs } from "./pipeline_configs.js";
import { roundToBf16 } from "./round_to_bf16.js";
import { encodeSafetensorsHeader } from "./safetensors.js";
import { stateKey } from "./state.js";
import { nodeDisk } from "./storage/disk.js";
import { FileStorage } from "./storage/file.js";
import type { Storage } from "./storage/storage.js";

export const EXPORT_DTYPES = { f32: 4, bf16: 2 } as const;
export type ExportDtype = keyof typeof EXPORT_DTYPES;

export interface ExportOptions {
  checkpoint: Checkpoint;
  /** Folder to be made; it must not be there, or be empty. */
  folder: string;
  weights: "ema" | "model";
  dtype: ExportDtype;
  /** Of tensor data in one file; a tensor that is larger has a file of its own. */
  shardBytesMax: number;
  onProgress?: (progress: { bytesDone: number; bytesTotal: number }) => void;
}

export interface ExportResult {
  folder: string;
  /** Of tensor data. */
  bytes: number;
  /** Paths within the folder. */
  files: string[];
}

/** Of float32 held at once. */
const PART_BYTES = 8 * CHUNK_BYTES;
const STEM = "diffusion_pytorch_model";

/**
 * Writes the weights of a checkpoint as a folder in the style of diffusers: safetensors with an index, and the JSON files that
 * say what they are. It is written beside its place and renamed into it when every byte is durable, so that it is seen whole or
 * not at all. Every byte that is read is checked against its digest.
 * Throws CONFLICT (something is in the folder), CHECKPOINT_CORRUPT, CHECKPOINT_MISMATCH, STORAGE_FULL, STORAGE_FAILED.
 */
export async function exportCheckpoint(options: ExportOptions): Promise<ExportResult> {
  const { checkpoint } = options;
  const job = resolveJob(checkpoint.meta.job, `the job in ${checkpoint.uri}`);
  const model = modelConfig(job);
  checkpoint.requireModel(parameterSpecs(model));
  const folder = await freeFolder(options.folder);
  const unfinished = path.join(
    path.dirname(folder),
    `.${path.basename(folder)}.${randomBytes(8).toString("hex")}.tmp`,
  );
  try {
    const storage = new FileStorage(unfinished, unfinished);
    const files = await writeShards(storage, options);
    const { codec, version } = checkpoint.meta;
    for (const [key, config] of pipelineConfigs({ job, model, codec, version })) {
      await writeJson(storage, key, config);
      files.push(key);
    }
    await moveInto(unfinished, folder);
    const width = EXPORT_DTYPES[options.dtype];
    return { folder, bytes: checkpoint.specs.reduce((sum, { count }) => sum + width * count, 0), files };
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true });
    throw error;
  }
}

/** The folder to be made, behind any links. CONFLICT when anything is there. */
async function freeFolder(given: string): Promise<string> {
  const conflict = (what: string) =>
    new GokuError("CONFLICT", `Cannot export to ${given}: ${what}, name a folder that is not there yet`);
  try {
    await mkdir(path.dirname(path.resolve(given)), { recursive: true });
    const folder = await realpath(given).catch(() => path.resolve(given));
    const held = await readdir(folder);
    if (held.length > 0)
      throw conflict(`it holds ${held[0]!.slice(0, 100)}${held.length > 1 ? " and more" : ""}`);
    return folder;
  } catch (error) {
    if (error instanceof GokuError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return path.resolve(given);
    if (code === "ENOTDIR" || code === "EEXIST") throw conflict("it, or what is above it, is a file");
    throw toGokuError(error, "STORAGE_FAILED");
  }
}

async function moveInto(unfinished: string, folder: string): Promise<void> {
  try {
    await nodeDisk.rename(unfinished, folder);
    await nodeDisk.syncFolder(path.dirname(folder));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOTEMPTY" && code !== "EEXIST") throw toGokuError(error, "STORAGE_FAILED");
    throw new GokuError("CONFLICT", `Cannot export to ${folder}: something was put there meanwhile`, {
      cause: error,
    });
  }
}

/** The files of weights and, where there are several, their index. Returns their keys. */
async function writeShards(storage: Storage, options: ExportOptions): Promise<string[]> {
  const { checkpoint, dtype, weights, shardBytesMax } = options;
  const shards = planShards(checkpoint.specs, { width: EXPORT_DTYPES[dtype], shardBytesMax });
  const progress = {
    bytesDone: 0,
    bytesTotal: checkpoint.specs.reduce((sum, { count }) => sum + 4 * count, 0),
  };
  const weightMap: Record<string, string> = {};
  const keys: string[] = [];
  for (const { name, specs } of shards) {
    const header = encodeSafetensorsHeader(
      specs.map((spec) => ({ name: spec.name, dtype: dtype === "f32" ? "F32" : "BF16", shape: spec.shape })),
      // `pt` is what readers of this format look for before they take a file of weights.
      { format: "pt", state: stateKey(checkpoint.meta.state), weights },
    );
    const blocks = shardBlocks(header, specs, options, (elements) => {
      progress.bytesDone += 4 * elements;
      options.onProgress?.(progress);
    });
    await storage.writeFile(`transformer/${name}`, blocks);
    keys.push(`transformer/${name}`);
    for (const spec of specs) weightMap[spec.name] = name;
  }
  if (shards.length === 1) return keys;
  const index = `transformer/${STEM}.safetensors.index.json`;
  const total = (progress.bytesTotal / 4) * EXPORT_DTYPES[dtype];
  await writeJson(storage, index, { metadata: { total_size: total }, weight_map: weightMap });
  return [...keys, index];
}

/** Tensors in their order, as many to a file as fit. */
function planShards(
  specs: readonly ParameterSpec[],
  { width, shardBytesMax }: { width: number; shardBytesMax: number },
): { name: string; specs: ParameterSpec[] }[] {
  const shards: ParameterSpec[][] = [[]];
  let bytes = 0;
  for (const spec of specs) {
    if (bytes > 0 && bytes + width * spec.count > shardBytesMax) {
      shards.push([]);
      bytes = 0;
    }
    shards.at(-1)!.push(spec);
    bytes += width * spec.count;
  }
  const five = (value: number) => String(value).padStart(5, "0");
  return shards.map((held, i) => ({
    name:
      shards.length === 1
        ? `${STEM}.safetensors`
        : `${STEM}-${five(i + 1)}-of-${five(shards.length)}.safetensors`,
    specs: held,
  }));
}

async function* shardBlocks(
  header: Uint8Array,
  specs: readonly ParameterSpec[],
  { checkpoint, weights, dtype }: ExportOptions,
  onRead: (elements: number) => void,
): AsyncGenerator<Uint8Array> {
  yield header;
  for (const { name } of specs) {
    for (const interval of await checkpoint.cut(`${weights}/${name}`, PART_BYTES)) {
      const values = await checkpoint.readInterval(interval);
      yield dtype === "bf16" ? roundToBf16(values) : new Uint8Array(values.buffer);
      onRead(interval.length);
    }
  }
}

async function writeJson(storage: Storage, key: string, value: unknown): Promise<void> {
  await storage.writeFile(key, [Buffer.from(`${JSON.stringify(value, null, 2)}\n`)]);
}
