import { openCheckpoint } from "../../checkpoint/load.js";
import type { StateName } from "../../checkpoint/state.js";
import { GokuError } from "../../job/errors.js";
import { type Job, modelConfig } from "../../job/job.js";
import { resolveJob } from "../../job/load_job.js";
import type { ModelConfig } from "../../job/model_config.js";
import { parameterSpecs } from "../../job/parameters.js";
import { SAMPLE_TOKENS_TOGETHER } from "../../job/preview_memory.js";
import { sampleGrid } from "../../job/sample_grid.js";
import { type CodecRecord, decodeLatents, patchNumbers, type TokenGrid } from "../data/latents.js";
import type { RgbClip } from "../data/rgb_clip.js";
import { HashTextEncoder } from "../data/text_encoder.js";
import { loadNative } from "../engine/load_native.js";
import { Arena, type Tensor } from "../engine/tensor.js";
import { sampleLatents } from "../model/sampler.js";
import { WholeWeights } from "../model/whole_weights.js";

export interface PictureRequest {
  prompt: string;
  width: number;
  height: number;
  /** 1: a picture. Rounded down to 1 + k * the codec's stride. */
  frames: number;
}

export interface SampleOptions {
  requests: readonly PictureRequest[];
  /** Picture i is drawn from (seed, i), whatever stands beside it. */
  seed: number;
  /** Default: those of the job's `sample` section. */
  steps?: number;
  guidance?: number;
  shift?: number;
  /** Fraction done, 0 to 1. */
  onProgress?: (done: number) => void;
}

/** A model opened from a checkpoint alone (weights, codec statistics and text settings are all in it), ready to sample. */
export class Sampler {
  readonly state: StateName;
  readonly job: Job;
  readonly #model: ModelConfig;
  readonly #codec: CodecRecord;
  readonly #arena: Arena;
  readonly #weights: WholeWeights;
  readonly #text: HashTextEncoder;

  constructor(options: {
    state: StateName;
    job: Job;
    model: ModelConfig;
    codec: CodecRecord;
    arena: Arena;
    weights: WholeWeights;
  }) {
    this.state = options.state;
    this.job = options.job;
    this.#model = options.model;
    this.#codec = options.codec;
    this.#arena = options.arena;
    this.#weights = options.weights;
    this.#text = new HashTextEncoder({
      width: options.model.text_width,
      tokensMax: options.job.data.text_tokens,
    });
  }

  /** One clip per request, in order. */
  async sample(options: SampleOptions): Promise<RgbClip[]> {
    const grids = options.requests.map((request) => sampleGrid(request, this.#codec));
    const clips: RgbClip[] = [];
    for (let first = 0; first < grids.length; ) {
      let tokens = 0;
      let end = first;
      while (
        end < grids.length &&
        (end === first || tokens + tokenCount(grids[end]!) <= SAMPLE_TOKENS_TOGETHER)
      )
        tokens += tokenCount(grids[end++]!);
      clips.push(...(await this.#sampleTogether(options, grids.slice(first, end), first)));
      first = end;
    }
    return clips;
  }

  close(): void {
    this.#weights.close();
  }

  async #sampleTogether(options: SampleOptions, grids: TokenGrid[], first: number): Promise<RgbClip[]> {
    const { sample } = this.job;
    const captions = options.requests
      .slice(first, first + grids.length)
      .map((request) => this.#text.encode(request.prompt));
    const empty = this.#text.encode("");
    const latents = await sampleLatents(
      this.#arena,
      this.#model,
      "f32",
      this.#weights,
      {
        grids,
        text: joined(captions),
        emptyText: joined(grids.map(() => empty)),
        steps: options.steps ?? sample.steps,
        guidance: options.guidance ?? sample.guidance,
        shift: options.shift ?? sample.shift,
        noise: { seed: BigInt(options.seed), places: grids.map((_, i) => first + i) },
        reference: null,
      },
      (done, of) => options.onProgress?.((first + (done / of) * grids.length) / options.requests.length),
    );
    let offset = 0;
    return grids.map((grid) => {
      const length = tokenCount(grid) * patchNumbers(this.#codec);
      const clip = decodeLatents(latents.subarray(offset, offset + length), grid, this.#codec);
      offset += length;
      return clip;
    });
  }
}

/**
 * Opens the newest checkpoint of a run, or one checkpoint folder.
 * @param options.weights `ema`: the averaged weights; `model`: the raw ones.
 * @throws GokuError NOT_FOUND, CHECKPOINT_CORRUPT, CHECKPOINT_MISMATCH
 */
export async function openSampler(
  uri: string,
  options: { weights: "ema" | "model"; step?: number | null },
): Promise<Sampler> {
  const checkpoint = await openCheckpoint(uri, options.step ?? null);
  const job = resolveJob(checkpoint.meta.job, `the job in ${uri}`);
  const model = modelConfig(job);
  if (model.reference_frame) {
    throw new GokuError(
      "CHECKPOINT_MISMATCH",
      `Cannot sample ${uri} from text alone: it is an image-to-video model, which needs a reference frame`,
    );
  }
  const specs = parameterSpecs(model);
  checkpoint.requireModel(specs);
  const arena = new Arena(loadNative());
  const tensors = new Map<string, Tensor>();
  for (const { name, count } of specs)
    tensors.set(name, arena.from(await checkpoint.readTensor(`${options.weights}/${name}`), "f32", count));
  const weights = new WholeWeights(model, ({ name }) => tensors.get(name)!);
  const { state, codec } = checkpoint.meta;
  return new Sampler({ state, job, model, codec: codec as CodecRecord, arena, weights });
}

function tokenCount([t, y, x]: TokenGrid): number {
  return t * y * x;
}

function joined(texts: readonly { length: number; data: Float32Array }[]): {
  lengths: number[];
  data: Float32Array;
} {
  const data = new Float32Array(texts.reduce((sum, text) => sum + text.data.length, 0));
  let offset = 0;
  for (const text of texts) {
    data.set(text.data, offset);
    offset += text.data.length;
  }
  return { lengths: texts.map((text) => text.length), data };
}
