import type { Job } from "../job/job.js";
import type { ModelConfig } from "../job/model_config.js";

/** Class of the transformer in an exported folder; an import of one compares the model section. */
export const TRANSFORMER_CLASS = "GokuTransformer3DModel";

/**
 * The JSON files of an exported folder, by path. Classes are ours: a scheduler or codec of another library under these
 * settings would run, and give other pictures, since our time runs from noise to data and our codec is no autoencoder.
 */
export function pipelineConfigs(options: {
  job: Job;
  model: ModelConfig;
  /** Latent statistics of the checkpoint, as its state holds them. */
  codec: unknown;
  version: string;
}): Map<string, Readonly<Record<string, unknown>>> {
  const { job, model, codec, version } = options;
  const { flow, sample, data } = job;
  const of = (className: string) => ({ _class_name: className, _goku_version: version });
  return new Map([
    [
      "model_index.json",
      {
        ...of("GokuPipeline"),
        transformer: ["goku", TRANSFORMER_CLASS],
        scheduler: ["goku", "GokuFlowScheduler"],
        vae: ["goku", "GokuWaveletCodec"],
      },
    ],
    ["transformer/config.json", { ...of(TRANSFORMER_CLASS), ...model }],
    [
      "scheduler/scheduler_config.json",
      {
        ...of("GokuFlowScheduler"),
        path: "x_t = t * data + (1 - t) * noise",
        prediction: "data - noise",
        time: flow.time,
        shift: flow.shift,
        drop_text: flow.drop_text,
        sample: { steps: sample.steps, guidance: sample.guidance, shift: sample.shift },
      },
    ],
    [
      "vae/config.json",
      {
        ...of("GokuWaveletCodec"),
        ...(codec as object),
        fps: data.fps,
        max_pixels: data.max_pixels,
        max_frames: data.max_frames,
        text_tokens: data.text_tokens,
      },
    ],
  ]);
}
