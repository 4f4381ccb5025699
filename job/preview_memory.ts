import { blockKeptBytes, tensorBytes } from "./block_memory.js";
import { cpuProductBytes } from "./cpu_product_bytes.js";
import { type Job, modelConfig } from "./job.js";
import type { ModelConfig } from "./model_config.js";
import { parameterSpecs, patchSize } from "./parameters.js";
import { FRAGMENT_FRACTION, SYSTEM_FRACTION } from "./process_memory.js";
import { sampleGrid } from "./sample_grid.js";
import { previewSize } from "./sample_spec.js";

/** Samples drawn together fit in this many tokens, so that memory stays bounded for any number of them. */
export const SAMPLE_TOKENS_TOGETHER = 4096;

/** Of the process that draws: Node, the addon, libvips (measured: 125 to 150 MiB with goku-nano). */
const PROCESS_BYTES = 160 * 2 ** 20;
/** ffmpeg beside it, where clips are written. */
const CLIP_WRITER_BYTES = 64 * 2 ** 20;
/** Chunks on their way from the snapshots: three read at once, two of 1 MiB each, and as much again in gRPC's hands. */
const READING_BYTES = 16 * 2 ** 20;
/** Of a pixel while it is decoded, enlarged, put on the sheet and encoded: floats of three channels, some copies as bytes. */
const BYTES_PER_PIXEL = 160;
/** Small pictures are enlarged to about this height on the sheet. */
const SHOWN_HEIGHT = 128;

/** Memory of the process that draws a job's previews, at most. */
export interface PreviewMemory {
  /** The averaged weights of the whole model, in fp32. */
  weights: number;
  /** What a block, and the pack that is drawn, take on the way through the model. */
  activations: number;
  /** Pixels of all pictures, and the sheet. */
  pictures: number;
  process: number;
  total: number;
}

/** Known before anything is drawn. Pure. */
export function previewMemory(job: Job): PreviewMemory {
  const model = modelConfig(job);
  const size = previewSize(job);
  const prompts = job.sample.prompts.length;
  const grid = sampleGrid(size, { stride: job.data.codec.stride, patch: model.patch });
  const tokensEach = grid[0] * grid[1] * grid[2];
  const together = Math.min(prompts, Math.max(1, Math.floor(SAMPLE_TOKENS_TOGETHER / tokensEach)));
  const parameters = parameterSpecs(model);
  const weights = parameters.reduce((sum, { count }) => sum + tensorBytes(count, 4), 0);
  const activations = drawingBytes(model, {
    tokens: together * tokensEach,
    samples: together,
    textTokens: together * job.data.text_tokens,
  });
  const shown = Math.max(1, Math.ceil(SHOWN_HEIGHT / size.height)) ** 2;
  const pixels = prompts * size.width * size.height * size.frames;
  const pictures = pixels * BYTES_PER_PIXEL + 4 * 3 * pixels * shown;
  const process = PROCESS_BYTES + READING_BYTES + (size.frames > 1 ? CLIP_WRITER_BYTES : 0);
  return { weights, activations, pictures, process, total: weights + activations + pictures + process };
}

/** Without a tape a block frees what it has used; all that it would keep for a backward is more than it ever holds. */
function drawingBytes(
  model: ModelConfig,
  { tokens, samples, textTokens }: { tokens: number; samples: number; textTokens: number },
): number {
  const shape = { model, elementBytes: 4, tokens, samples, textTokens, spread: null } as const;
  const numbers = tensorBytes(tokens * patchSize(model), 4);
  const text = 2 * tensorBytes(textTokens * model.text_width, 4); // of the prompts, and the empty one
  const rotary = 4 * tensorBytes((tokens * model.width) / model.heads / 2, 4);
  const rows = { rows: tokens, depth: model.width * model.mlp_ratio, columns: model.width };
  const product = cpuProductBytes(rows, { threads: 1, elementBytes: 4 });
  const tensors = blockKeptBytes(shape, "none") + 6 * numbers + text + rotary + product;
  return Math.round((1 + FRAGMENT_FRACTION) * tensors);
}

/** Whether a preview may be drawn on a node with so much memory free. Pure. */
export function judgePreviewMemory(options: {
  neededBytes: number;
  availableBytes: number;
  nodeBytes: number;
}): { fits: boolean; reason: string } {
  const { neededBytes, availableBytes, nodeBytes } = options;
  const spareBytes = Math.round(SYSTEM_FRACTION * nodeBytes);
  const figures = `drawing takes at most ${mebibytes(neededBytes)}, ${mebibytes(availableBytes)} of the node are free, of which ${mebibytes(spareBytes)} stay so`;
  return { fits: neededBytes + spareBytes <= availableBytes, reason: figures };
}

function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}
