import type { Job } from "../../job/job.js";
import type { ModelConfig } from "../../job/model_config.js";
import type { RgbClip } from "./rgb_clip.js";
import { COLOUR_ROTATION, type Coefficient, coefficientOrder, haarBlock, type Stride } from "./wavelet.js";

/** What fixes the latents of a sample, apart from their normalisation. */
export interface CodecSettings {
  kind: "haar";
  version: 1;
  /** Pixels per latent along t, y, x. */
  stride: Stride;
  channels: number;
  /** Latents per token along t, y, x. */
  patch: readonly [number, number, number];
}

/** [channels, t, y, x]. */
export interface LatentShape {
  channels: number;
  t: number;
  y: number;
  x: number;
}

export function codecSettings(job: Pick<Job, "data">, model: ModelConfig): CodecSettings {
  return {
    kind: "haar",
    version: 1,
    stride: job.data.codec.stride,
    channels: model.latent_channels,
    patch: model.patch,
  };
}

/** The block behind one latent frame: `frames` of pixels, and which coefficient each channel carries (-1: none, always 0). */
interface BlockPlan {
  frames: number;
  channelIndex: Int32Array;
}

/**
 * Fixed wavelet codec between 8-bit RGB and latents, standing where a trained video autoencoder will.
 *
 * The first frame alone is latent frame 0, so a picture is a clip of one frame; each following group of stride[0] frames is one
 * latent frame. Of a block's coefficients the first `channels` of coefficientOrder() are kept. A later frame puts its temporal means
 * into the channels where a first frame has the same spatial coefficient, and its temporal differences into the others, so that a
 * channel means nearly the same everywhere. With 3*sy*sx <= channels nothing of a picture is lost.
 */
export class WaveletCodec {
  private readonly first: BlockPlan;
  private readonly later: BlockPlan;

  constructor(readonly settings: CodecSettings) {
    const [st, sy, sx] = settings.stride;
    for (const [axis, size] of [st, sy, sx].entries()) {
      if (![1, 2, 4, 8].includes(size))
        throw new RangeError(`WaveletCodec: stride[${axis}] is ${size}, need 1, 2, 4 or 8`);
    }
    const spatial = coefficientOrder([1, sy, sx]).slice(0, settings.channels);
    this.first = planOf(1, spatial, settings.channels);
    this.later = planOf(st, laterChannels(settings, spatial), settings.channels);
  }

  /** Shape of the latents of so many pixels. @throws RangeError unless frames = 1 + k * st and sides are whole blocks */
  latentShape(size: { frames: number; height: number; width: number }): LatentShape {
    const [st, sy, sx] = this.settings.stride;
    const groups = (size.frames - 1) / st;
    const shape = {
      channels: this.settings.channels,
      t: 1 + groups,
      y: size.height / sy,
      x: size.width / sx,
    };
    if (
      !(
        Number.isInteger(groups) &&
        Number.isInteger(shape.y) &&
        Number.isInteger(shape.x) &&
        size.frames > 0 &&
        shape.y > 0 &&
        shape.x > 0
      )
    ) {
      throw new RangeError(
        `WaveletCodec: ${size.frames} frames of ${size.width}x${size.height} are not 1 + k * ${st} frames of whole ${sx}x${sy} blocks`,
      );
    }
    return shape;
  }

  /** Latents [C, T, Y, X], not normalised: pixels count from -1 to 1. */
  encode(clip: RgbClip): Float32Array {
    const shape = this.latentShape(clip);
    const latents = new Float32Array(shape.channels * shape.t * shape.y * shape.x);
    this.eachBlock(shape, (plan, block, place) => {
      this.readPixels(block, clip, plan, place);
      haarBlock(block, [plan.frames, this.settings.stride[1], this.settings.stride[2]], false);
      for (let channel = 0; channel < shape.channels; channel++) {
        const index = plan.channelIndex[channel]!;
        if (index >= 0) latents[latentIndex(shape, channel, place)] = block[index]!;
      }
    });
    return latents;
  }

  /** The clip of [C, T, Y, X] latents, clamped to 8 bits. */
  decode(latents: Float32Array, shape: LatentShape): RgbClip {
    const [st, sy, sx] = this.settings.stride;
    const clip: RgbClip = {
      frames: 1 + (shape.t - 1) * st,
      height: shape.y * sy,
      width: shape.x * sx,
      data: new Uint8Array(0),
    };
    clip.data = new Uint8Array(clip.frames * clip.height * clip.width * 3);
    this.eachBlock(shape, (plan, block, place) => {
      block.fill(0);
      for (let channel = 0; channel < shape.channels; channel++) {
        const index = plan.channelIndex[channel]!;
        if (index >= 0) block[index] = latents[latentIndex(shape, channel, place)]!;
      }
      haarBlock(block, [plan.frames, sy, sx], true);
      this.writePixels(block, clip, plan, place);
    });
    return clip;
  }

  private eachBlock(
    shape: LatentShape,
    visit: (plan: BlockPlan, block: Float64Array, place: BlockPlace) => void,
  ): void {
    const [, sy, sx] = this.settings.stride;
    for (let t = 0; t < shape.t; t++) {
      const plan = t === 0 ? this.first : this.later;
      const block = new Float64Array(3 * plan.frames * sy * sx);
      for (let y = 0; y < shape.y; y++) for (let x = 0; x < shape.x; x++) visit(plan, block, { t, y, x });
    }
  }

  private readPixels(block: Float64Array, clip: RgbClip, plan: BlockPlan, place: BlockPlace): void {
    const plane = block.length / 3;
    this.eachPixel(clip, plan, place, (at, from) => {
      for (let colour = 0; colour < 3; colour++) {
        const [r, g, b] = COLOUR_ROTATION[colour]!;
        const sum = r * clip.data[from]! + g * clip.data[from + 1]! + b * clip.data[from + 2]!;
        block[colour * plane + at] = sum / 127.5 - (r + g + b);
      }
    });
  }

  private writePixels(block: Float64Array, clip: RgbClip, plan: BlockPlan, place: BlockPlace): void {
    const plane = block.length / 3;
    this.eachPixel(clip, plan, place, (at, to) => {
      for (let channel = 0; channel < 3; channel++) {
        let value = 0;
        for (let colour = 0; colour < 3; colour++)
          value += COLOUR_ROTATION[colour]![channel]! * block[colour * plane + at]!;
        clip.data[to + channel] = Math.max(0, Math.min(255, Math.round((value + 1) * 127.5)));
      }
    });
  }

  /** Visits a block's pixels: place in one colour plane of the block, and first byte of the pixel in the clip. */
  private eachPixel(
    clip: RgbClip,
    plan: BlockPlan,
    place: BlockPlace,
    visit: (at: number, byte: number) => void,
  ): void {
    const [st, sy, sx] = this.settings.stride;
    const frameStart = place.t === 0 ? 0 : 1 + (place.t - 1) * st;
    let at = 0;
    for (let frame = frameStart; frame < frameStart + plan.frames; frame++) {
      for (let row = place.y * sy; row < (place.y + 1) * sy; row++) {
        let byte = ((frame * clip.height + row) * clip.width + place.x * sx) * 3;
        for (let column = 0; column < sx; column++, byte += 3) visit(at++, byte);
      }
    }
  }
}

interface BlockPlace {
  t: number;
  y: number;
  x: number;
}

function latentIndex(shape: LatentShape, channel: number, { t, y, x }: BlockPlace): number {
  return ((channel * shape.t + t) * shape.y + y) * shape.x + x;
}

function planOf(frames: number, coefficients: readonly (Coefficient | null)[], channels: number): BlockPlan {
  const channelIndex = new Int32Array(channels).fill(-1);
  for (const [channel, coefficient] of coefficients.entries())
    if (coefficient) channelIndex[channel] = coefficient.index;
  return { frames, channelIndex };
}

/** Coefficients of a later latent frame by channel: temporal means beside their spatial twins, the rest where room is left. */
function laterChannels(settings: CodecSettings, spatial: readonly Coefficient[]): (Coefficient | null)[] {
  const channels = new Array<Coefficient | null>(settings.channels).fill(null);
  const differences: Coefficient[] = [];
  for (const coefficient of coefficientOrder(settings.stride).slice(0, settings.channels)) {
    const twin = spatial.findIndex(
      (c) => c.colour === coefficient.colour && c.y === coefficient.y && c.x === coefficient.x,
    );
    if (coefficient.t === 0 && twin >= 0) channels[twin] = coefficient;
    else differences.push(coefficient);
  }
  for (let channel = 0; channel < channels.length; channel++)
    channels[channel] ??= differences.shift() ?? null;
  return channels;
}
