import path from "node:path";
import type { Command } from "commander";
import { GokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import { type PictureSize, sizeProblem, squareOf } from "../../job/sample_spec.js";
import type { RgbClip } from "../../worker/data/rgb_clip.js";
import { writeClip } from "../../worker/media/write_clip.js";
import { writeSheet } from "../../worker/media/write_sheet.js";
import { openSampler } from "../../worker/sample/open_sampler.js";
import { globals } from "../context.js";
import { bar, duration, show } from "../output.js";
import { checkpointUri, collect, wholeNumber, wholePair } from "../read_options.js";

interface SampleCommandOptions {
  ckpt: string;
  prompt: string[];
  out: string;
  frames?: string;
  size?: string;
  seed?: string;
  steps?: string;
  guidance?: string;
  weights: string;
}

export function addSampleCommand(program: Command): void {
  program
    .command("sample")
    .description("draw pictures or clips from a checkpoint")
    .requiredOption(
      "--ckpt <dir>",
      "folder or s3:// URI of a run (its newest checkpoint), or one checkpoint-<step> below it",
    )
    .option(
      "--prompt <text>",
      "what to draw; repeat for several (default: the job's sample.prompts)",
      collect,
      [],
    )
    .option(
      "--out <file>",
      ".png: a sheet of all pictures; .mp4: one clip per prompt (numbered when several)",
      "samples.png",
    )
    .option("--frames <count>", "frames of a clip (default: the job's, for .mp4 at least its max_frames)")
    .option("--size <width>x<height>", "pixels (default: the job's, else the square of its max_pixels)")
    .option("--seed <number>", "seed of the noise (default: the job's)")
    .option("--steps <count>", "Euler steps (default: the job's)")
    .option("--guidance <number>", "classifier-free guidance, 1: none (default: the job's)")
    .option("--weights <kind>", "ema or model", "ema")
    .addHelpText(
      "after",
      `
Examples:
  gokuctl sample --ckpt ./runs/shapes --prompt "a red circle" --prompt "a blue square" --out sheet.png
  gokuctl sample --ckpt ./runs/shapes/checkpoint-600 --prompt "a green circle moving right" --out clip.mp4`,
    )
    .action(runSample);
}

async function runSample(options: SampleCommandOptions, command: Command): Promise<void> {
  const output = globals(command);
  const asked = readOptions(options);
  const started = performance.now();
  const sampler = await openSampler(checkpointUri(options.ckpt), { weights: asked.weights });
  try {
    const { job } = sampler;
    const prompts = options.prompt.length > 0 ? options.prompt : job.sample.prompts;
    if (prompts.length === 0)
      throw new GokuError(
        "ARGUMENT_INVALID",
        "Cannot sample: no prompt; give --prompt or sample.prompts in the job",
      );
    const picture = pictureSize(asked, job);
    const clips = await sampler.sample({
      requests: prompts.map((prompt) => ({ prompt, ...picture })),
      seed: asked.seed ?? job.sample.seed,
      ...(asked.steps === null ? {} : { steps: asked.steps }),
      ...(asked.guidance === null ? {} : { guidance: asked.guidance }),
      onProgress: (done) => {
        if (process.stderr.isTTY && !output.json)
          process.stderr.write(`\r\x1b[2K${bar(done)} ${(100 * done).toFixed(0)} %`);
      },
    });
    if (process.stderr.isTTY && !output.json) process.stderr.write("\r\x1b[2K");
    const files = await write(options.out, clips, prompts, job.data.fps);
    const seconds = (performance.now() - started) / 1000;
    const { step } = sampler.state;
    show(
      output,
      { files, prompts, step, weights: asked.weights, seconds },
      () =>
        `Wrote ${files.join(", ")} (${prompts.length} prompts, step ${step}, ${asked.weights} weights, ${duration(seconds)})`,
    );
  } finally {
    sampler.close();
  }
}

/** The options that can be judged before a checkpoint is read; null: the job's. */
interface Asked {
  clip: boolean;
  weights: "ema" | "model";
  size: [number, number] | null;
  frames: number | null;
  steps: number | null;
  guidance: number | null;
  seed: number | null;
}

function readOptions(options: SampleCommandOptions): Asked {
  const { out, weights, size, frames, steps, guidance, seed } = options;
  const extension = path.extname(out);
  if (extension !== ".png" && extension !== ".mp4")
    throw new GokuError("ARGUMENT_INVALID", `Cannot write ${out}: want a name that ends in .png or .mp4`);
  if (weights !== "ema" && weights !== "model")
    throw new GokuError("ARGUMENT_INVALID", `Cannot sample with --weights ${weights}: want ema or model`);
  return {
    clip: extension === ".mp4",
    weights,
    size:
      size === undefined ? null : wholePair("--size", size, "width x height in pixels, for example 32x32"),
    frames: frames === undefined ? null : wholeNumber("--frames", frames, { least: 1 }),
    steps: steps === undefined ? null : wholeNumber("--steps", steps, { least: 1 }),
    guidance: guidance === undefined ? null : notNegative("--guidance", guidance),
    seed: seed === undefined ? null : wholeNumber("--seed", seed),
  };
}

function pictureSize(asked: Asked, { data, sample }: Job): PictureSize {
  const [width, height] = asked.size ?? sample.size ?? squareOf(data);
  const frames = asked.frames ?? (asked.clip ? Math.max(data.max_frames, sample.frames) : sample.frames);
  const size = { width, height, frames };
  const problem = sizeProblem(size, data);
  if (problem === null) return size;
  const found = problem.key === "size" ? `${width}x${height}` : String(frames);
  throw new GokuError(
    "ARGUMENT_INVALID",
    `Cannot sample --${problem.key} ${found}: the model was trained on at most ${problem.trained}, want ${problem.wanted}`,
  );
}

async function write(
  out: string,
  clips: readonly RgbClip[],
  prompts: readonly string[],
  fps: number,
): Promise<string[]> {
  if (path.extname(out) === ".png") {
    await writeSheet(
      out,
      clips.map((clip, i) => ({ clip, caption: prompts[i]! })),
    );
    return [out];
  }
  const files = clips.map((_, i) => (clips.length === 1 ? out : out.replace(/\.mp4$/, `-${i + 1}.mp4`)));
  for (const [i, clip] of clips.entries()) await writeClip(files[i]!, clip, { fps });
  return files;
}

function notNegative(option: string, text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && value >= 0 && Number.isFinite(value)) return value;
  throw new GokuError(
    "ARGUMENT_INVALID",
    `Cannot read ${option}: found "${text}", want a number of at least 0`,
  );
}
