import { GokuError } from "../../job/errors.js";
import type { Exclusion } from "../../job/exclusion.js";
import type { Job } from "../../job/job.js";
import type { ModelConfig } from "../../job/model_config.js";
import { type Pack, Packer, type PackReport } from "../../job/packer.js";
import type { PackRequest } from "./assemble_pack.js";
import { buildIndex, type IndexProgress, openIndex } from "./build_index.js";
import { type IndexedSample, indexSettings } from "./data_index.js";
import { Exclusions } from "./exclusions.js";
import type { BuiltIndex } from "./index_folder.js";
import { type CodecRecord, patchNumbers } from "./latents.js";
import type { PackBatch, PackSource, StepPlan } from "./pack_batch.js";
import { Prefetcher } from "./prefetcher.js";
import { HashTextEncoder, textSettings } from "./text_encoder.js";

/** Epoch-wide facts of a data set under a job, for `gokuctl plan` and the start of a run. */
export interface DataReport extends Omit<PackReport, "leftOut"> {
  images: number;
  videos: number;
  /** Tokens of clips, of tokensPerEpoch. */
  videoTokens: number;
  /** Tokens of the longest caption, its end token included. */
  captionTokensMax: number;
  /** Samples left out with the reason: unreadable or uncaptioned files, and samples longer than a pack. */
  leftOut: { sample: string; reason: string }[];
}

export interface OpenPackSourceOptions {
  job: Job;
  model: ModelConfig;
  /** Memory for encoded samples, at most. */
  cacheBytes: number;
  /**
   * Of the index that a state pins: it is opened as it is, without a look at the folder. Where it has gone, or with null, the
   * folder is scanned, and indexed if that is not done; the digest of the source tells which index was found.
   */
  digest: string | null;
  onProgress?: (progress: IndexProgress) => void;
}

/**
 * The packs of a job over its media folder.
 * @throws GokuError DATA_EMPTY, STORAGE_FULL
 */
export async function openPackSource(options: OpenPackSourceOptions): Promise<MediaPackSource> {
  const { digest } = options;
  const built = (digest && (await openIndex({ ...options, digest }))) || (await buildIndex(options));
  // sharp must be loaded on the main thread before a thread of ours uses it, or its libraries go with that thread
  if (built.index.samples.some(({ storeOffset }) => storeOffset < 0)) await import("sharp");
  return new MediaPackSource(options, built);
}

/** How the samples of a job fill its packs, without opening a source. @throws as openPackSource() */
export async function reportData(
  options: Omit<OpenPackSourceOptions, "cacheBytes" | "digest">,
): Promise<DataReport> {
  const built = await buildIndex(options);
  const { samples } = built.index;
  return describe(
    built,
    options,
    new Packer({
      sizes: samples.map(tokensOf),
      tokensPerPack: options.job.train.tokens_per_pack,
      seed: options.job.seed,
    }),
  );
}

/** PackSource over an indexed folder. The plan is pure arithmetic here; reading and encoding happen on a thread of their own. */
export class MediaPackSource implements PackSource {
  readonly digest: string;
  readonly codec: CodecRecord;
  readonly report: DataReport;
  /** Samples that could not be read so far, with the reason, each once. */
  readonly unreadable = new Map<string, string>();
  private readonly samples: readonly IndexedSample[];
  private readonly packer: Packer;
  private readonly packsPerStep: number;
  private readonly prefetcher: Prefetcher;
  private readonly excluded = new Exclusions();
  private planned: { step: number; packs: Pack[] } | null = null;

  constructor(options: OpenPackSourceOptions, built: BuiltIndex) {
    const { job, model } = options;
    this.samples = built.index.samples;
    this.digest = built.index.digest;
    this.codec = built.index.codec;
    this.packsPerStep = job.train.packs_per_step;
    this.packer = new Packer({
      sizes: this.samples.map(tokensOf),
      tokensPerPack: job.train.tokens_per_pack,
      seed: job.seed,
    });
    this.report = describe(built, options, this.packer);
    if (this.packer.packsPerEpoch === 0) {
      const shortest = Math.min(...this.samples.map(tokensOf));
      throw new GokuError(
        "DATA_EMPTY",
        `Cannot train on ${built.directory}: all ${this.samples.length} samples are longer than train.tokens_per_pack ${job.train.tokens_per_pack}, raise it to ${shortest} or more`,
      );
    }
    const { directory, storePath } = built;
    const { limits } = indexSettings(job, model);
    this.prefetcher = new Prefetcher({
      reader: { directory, storePath, codec: this.codec, limits, cacheBytes: options.cacheBytes },
      text: textSettings(job, model),
    });
  }

  plan(step: number): StepPlan {
    const packs = this.stepPacks(step);
    const all = packs.flatMap(({ samples }) => samples);
    const videos = all.filter((sample) => this.samples[sample]!.kind === "video").length;
    const tokens = packs.reduce((sum, pack) => sum + pack.tokens, 0);
    return {
      step,
      packs: packs.map(({ packIndex, samples, tokens: packTokens }) => ({
        packIndex,
        samples: samples.map((i) => this.samples[i]!.name),
        tokens: packTokens,
      })),
      sampleCount: all.length,
      tokens,
      images: all.length - videos,
      videos,
      fill: tokens / (packs.length * this.packer.report.tokensPerPack),
    };
  }

  async pack(step: number, index: number): Promise<PackBatch> {
    this.start(step, index);
    const packs = this.stepPacks(step);
    const { packIndex, samples } = packs[index]!;
    const { unreadable, id: _, ...arrays } = await this.prefetcher.finish(packIndex);
    for (const { sample, reason } of unreadable) this.unreadable.set(sample, reason);
    this.clearExcluded(samples, arrays); // it may have been read before
    const placeFirst = packs.slice(0, index).reduce((count, pack) => count + pack.samples.length, 0);
    return {
      packIndex,
      ...arrays,
      grids: samples.map((i) => [...this.samples[i]!.grid]),
      places: samples.map((_sample, i) => placeFirst + i),
      samples: samples.map((i) => this.samples[i]!.name),
    };
  }

  get exclusions(): readonly Exclusion[] {
    return this.excluded.list();
  }

  exclude(step: number, places: readonly number[]): void {
    const inStep = this.stepPacks(step).flatMap(({ samples }) => samples);
    for (const place of places) {
      const sample = inStep[place]!;
      const { name } = this.samples[sample]!;
      const reason = this.unreadable.get(name);
      // told by whoever tried to read it
      if (this.excluded.add({ sample, step }) && reason)
        process.stderr.write(`sample ${name} is left out from step ${step} on: ${reason}\n`);
    }
    if (inStep.every((sample) => this.excluded.has(sample))) {
      throw new GokuError(
        "DATA_UNREADABLE",
        `Cannot train step ${step}: none of its ${inStep.length} samples can be read, repair the data set and resume from the last checkpoint`,
      );
    }
  }

  restoreExclusions(exclusions: readonly Exclusion[]): void {
    const again = this.excluded.replace(exclusions);
    if (again) this.prefetcher.keep(new Set()); // packs made without a sample that takes part again
  }

  announce(packs: { step: number; index: number }[]): void {
    this.prefetcher.keep(new Set(packs.map(({ step, index }) => this.packIndex(step, index))));
    for (const { step, index } of packs) this.start(step, index);
  }

  close(): Promise<void> {
    return this.prefetcher.close();
  }

  private start(step: number, index: number): void {
    const packIndex = this.packIndex(step, index);
    this.prefetcher.start(packIndex, () => this.request(packIndex));
  }

  private packIndex(step: number, index: number): number {
    const whole = Number.isInteger(step) && Number.isInteger(index);
    if (whole && step >= 1 && index >= 0 && index < this.packsPerStep)
      return (step - 1) * this.packsPerStep + index;
    throw new RangeError(
      `PackSource: pack ${index} of step ${step}: steps count from 1, packs from 0 to ${this.packsPerStep - 1}`,
    );
  }

  private clearExcluded(samples: readonly number[], pack: { data: Float32Array; weights: number[] }): void {
    let offset = 0;
    for (const [i, sample] of samples.entries()) {
      const end = offset + tokensOf(this.samples[sample]!) * patchNumbers(this.codec);
      if (this.excluded.has(sample)) {
        pack.data.fill(0, offset, end);
        pack.weights[i] = 0;
      }
      offset = end;
    }
  }

  private request(packIndex: number): Omit<PackRequest, "id"> {
    const samples = this.packer.pack(packIndex).samples.map((i) => {
      const { name, kind, bytes, mtimeMs, content, grid, storeOffset, caption } = this.samples[i]!;
      const excluded = this.excluded.has(i);
      return { name, kind, bytes, mtimeMs, content, grid, storeOffset, caption, excluded };
    });
    return { samples };
  }

  /** Asked once for each pack of a step, and for the plan. */
  private stepPacks(step: number): Pack[] {
    if (this.planned?.step !== step) {
      const packs = Array.from({ length: this.packsPerStep }, (_, index) =>
        this.packer.pack(this.packIndex(step, index)),
      );
      this.planned = { step, packs };
    }
    return this.planned.packs;
  }
}

function tokensOf({ grid }: IndexedSample): number {
  return grid[0] * grid[1] * grid[2];
}

function describe(
  built: BuiltIndex,
  { job, model }: Pick<OpenPackSourceOptions, "job" | "model">,
  packer: Packer,
): DataReport {
  const { samples, skipped } = built.index;
  const { leftOut, ...report } = packer.report;
  const videos = samples.filter(({ kind }) => kind === "video");
  const fitting = (sample: IndexedSample) => tokensOf(sample) <= report.tokensPerPack;
  const text = new HashTextEncoder(textSettings(job, model));
  const tooLong = leftOut.map(({ sample, reason }) => ({ sample: samples[sample]!.name, reason }));
  const unusable = skipped.map(({ name, reason }) => ({ sample: name, reason }));
  return {
    ...report,
    images: samples.length - videos.length,
    videos: videos.length,
    videoTokens: videos.filter(fitting).reduce((sum, sample) => sum + tokensOf(sample), 0),
    captionTokensMax: samples.reduce((most, { caption }) => Math.max(most, text.lengthOf(caption)), 0),
    leftOut: [...unusable, ...tooLong],
  };
}
