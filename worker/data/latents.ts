import { type CodecSettings, type LatentShape, WaveletCodec } from "./codec.js";
import type { RgbClip } from "./rgb_clip.js";

/** Mean and deviation of each channel. */
export interface ChannelStatistics {
  mean: number[];
  deviation: number[];
}

/**
 * Everything that turns tokens of the model into pixels: settings and statistics. Plain data; kept in the data index
 * and in checkpoints, so that a checkpoint can be sampled from alone.
 */
export interface CodecRecord extends CodecSettings {
  /** Latent frame 0, which is all of a picture. */
  first: ChannelStatistics;
  /** Latent frames 1.. of clips. */
  later: ChannelStatistics;
}

/** Token grid (t, y, x) of one sample. */
export type TokenGrid = [number, number, number];

/** Below this a channel is all but constant (8-bit rounding alone deviates by 0.002) and is not blown up further. */
const DEVIATION_MIN = 0.01;

/** Sums over latents of many samples, added in a fixed order so that the result has the same bits everywhere. */
export class StatisticsSum {
  private readonly counts = [0, 0];
  private readonly sums: [Float64Array, Float64Array];
  private readonly squares: [Float64Array, Float64Array];

  constructor(private readonly channels: number) {
    this.sums = [new Float64Array(channels), new Float64Array(channels)];
    this.squares = [new Float64Array(channels), new Float64Array(channels)];
  }

  /** Adds the sums of `latents` [C, T, Y, X]. */
  add(latents: Float32Array, shape: LatentShape): void {
    const plane = shape.y * shape.x;
    this.counts[0]! += plane;
    this.counts[1]! += plane * (shape.t - 1);
    for (let channel = 0; channel < this.channels; channel++) {
      for (let t = 0; t < shape.t; t++) {
        const later = t === 0 ? 0 : 1;
        const start = (channel * shape.t + t) * plane;
        let sum = 0;
        let square = 0;
        for (let i = start; i < start + plane; i++) {
          const value = latents[i]!;
          sum += value;
          square += value * value;
        }
        this.sums[later][channel]! += sum;
        this.squares[later][channel]! += square;
      }
    }
  }

  result(): { first: ChannelStatistics; later: ChannelStatistics } {
    return { first: this.channelStatistics(0), later: this.channelStatistics(1) };
  }

  private channelStatistics(which: 0 | 1): ChannelStatistics {
    const count = this.counts[which]!;
    // a data set without clips has no later frames: leave them as they are
    if (count === 0)
      return { mean: new Array(this.channels).fill(0), deviation: new Array(this.channels).fill(1) };
    const mean = Array.from(this.sums[which], (sum) => sum / count);
    const deviation = Array.from(this.squares[which], (square, channel) =>
      Math.max(DEVIATION_MIN, Math.sqrt(Math.max(0, square / count - mean[channel]! ** 2))),
    );
    return { mean, deviation };
  }
}

/** Numbers in one token. */
export function patchNumbers(settings: CodecSettings): number {
  return settings.channels * settings.patch[0] * settings.patch[1] * settings.patch[2];
}

/** Tokens of latents. @throws RangeError unless every side is a whole number of patches */
export function tokenGrid(shape: LatentShape, patch: readonly [number, number, number]): TokenGrid {
  const grid: TokenGrid = [shape.t / patch[0], shape.y / patch[1], shape.x / patch[2]];
  if (!grid.every((side) => Number.isInteger(side) && side > 0)) {
    throw new RangeError(
      `tokenGrid: latents of ${shape.t}x${shape.y}x${shape.x} are not whole patches of ${patch.join("x")}`,
    );
  }
  return grid;
}

/** Visits latents in token order (t, y, x; inside a patch channel, dt, dy, dx), as the reference's patchify. */
function eachNumber(
  shape: LatentShape,
  patch: readonly [number, number, number],
  visit: (latent: number, later: boolean, channel: number) => void,
): void {
  const [pt, ph, pw] = patch;
  for (let t = 0; t < shape.t; t += pt) {
    for (let y = 0; y < shape.y; y += ph) {
      for (let x = 0; x < shape.x; x += pw) {
        for (let channel = 0; channel < shape.channels; channel++) {
          for (let dt = 0; dt < pt; dt++) {
            for (let dy = 0; dy < ph; dy++) {
              const row = ((channel * shape.t + t + dt) * shape.y + y + dy) * shape.x + x;
              for (let dx = 0; dx < pw; dx++) visit(row + dx, t + dt > 0, channel);
            }
          }
        }
      }
    }
  }
}

/** Normalised patches of [C, T, Y, X] latents, written to out[offset..]: [tokens, patchNumbers]. */
export function toPatches(
  latents: Float32Array,
  shape: LatentShape,
  record: CodecRecord,
  out: Float32Array,
  offset: number,
): void {
  let at = offset;
  eachNumber(shape, record.patch, (latent, later, channel) => {
    const { mean, deviation } = later ? record.later : record.first;
    out[at++] = (latents[latent]! - mean[channel]!) / deviation[channel]!;
  });
}

/** Inverse of toPatches. */
export function fromPatches(patches: Float32Array, shape: LatentShape, record: CodecRecord): Float32Array {
  const latents = new Float32Array(shape.channels * shape.t * shape.y * shape.x);
  let at = 0;
  eachNumber(shape, record.patch, (latent, later, channel) => {
    const { mean, deviation } = later ? record.later : record.first;
    latents[latent] = patches[at++]! * deviation[channel]! + mean[channel]!;
  });
  return latents;
}

/** Pixels of a sample that the model made. @param patches [t*y*x, patchNumbers] */
export function decodeLatents(patches: Float32Array, grid: TokenGrid, record: CodecRecord): RgbClip {
  const [pt, ph, pw] = record.patch;
  const shape: LatentShape = { channels: record.channels, t: grid[0] * pt, y: grid[1] * ph, x: grid[2] * pw };
  const wanted = grid[0] * grid[1] * grid[2] * patchNumbers(record);
  if (patches.length !== wanted)
    throw new RangeError(
      `decodeLatents: patches has ${patches.length} numbers, need ${wanted} for a grid of ${grid.join("x")}`,
    );
  return new WaveletCodec(record).decode(fromPatches(patches, shape, record), shape);
}
