import path from "node:path";
import type { Command } from "commander";
import { GokuError } from "../../job/errors.js";
import { writeClip } from "../../worker/media/write_clip.js";
import { writeSheet } from "../../worker/media/write_sheet.js";
import { openSampler } from "../../worker/sample/open_sampler.js";
import { globals } from "../context.js";
import { bar, duration, show } from "../output.js";
import { wholeNumber } from "./jobs.js";
import { checkpointUri } from "./train.js";

interface SampleCommandOptions {
  ckpt: string;
  prompt: string[];
  out: string;
  frames: string;
  size?: string;
  seed: string;
  steps?: string;
  guidance?: string;
  weights: string;
}

export function addSampleCommand(program: Command): void {
  program
    .command("sample")
    .description("draw pictures or clips from a checkpoint")
    .requiredOption("--ckpt <dir>", "folder of a run (its newest checkpoint) or one checkpoint-<step> folder")
    .option(
      "--prompt <text>",
      "what to draw; repeat for several (default: the job's sample.prompts)",
      (value, all: string[]) => [...all, value],
      [],
    )
    .option(
      "--out <file>",
      ".png: a sheet of all pictures; .mp4: one clip per prompt (numbered when several)",
      "samples.png",
    )
    .option("--frames <count>", "frames of a clip (default: the job's max_frames for .mp4, 1 for .png)", "")
    .option("--size <width>x<height>", "pixels (default: the square of the job's max_pixels)")
    .option("--seed <number>", "seed of the noise", "1")
    .option("--steps <count>", "Euler steps (default: the job's)")
    .option("--guidance <number>", "classifier-free guidance, 1: none (default: the job's)")
    .option("--weights <kind>", "ema or model", "ema")
    .action(runSample);
}

async function runSample(options: SampleCommandOptions, command: Command): Promise<void> {
  const output = globals(command);
  const extension = path.extname(options.out);
  if (extension !== ".png" && extension !== ".mp4") {
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot write ${options.out}: want a name that ends in .png or .mp4`,
    );
  }
  if (options.weights !== "ema" && options.weights !== "model") {
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot sample with --weights ${options.weights}: want ema or model`,
    );
  }
  const sampler = await openSampler(checkpointUri(options.ckpt), { weights: options.weights });
  try {
    const { data, sample } = sampler.job;
    const prompts = options.prompt.length > 0 ? options.prompt : sample.prompts;
    if (prompts.length === 0)
      throw new GokuError(
        "ARGUMENT_INVALID",
        "Cannot sample: no prompt; give --prompt or sample.prompts in the job",
      );
    const { width, height } = readSize(options.size, data.max_pixels);
    const frames = options.frames
      ? wholeNumber("--frames", options.frames)
      : extension === ".mp4"
        ? data.max_frames
        : 1;
    const started = performance.now();
    const clips = await sampler.sample({
      requests: prompts.map((prompt) => ({ prompt, width, height, frames })),
      seed: wholeNumber("--seed", options.seed),
      ...(options.steps ? { steps: wholeNumber("--steps", options.steps) } : {}),
      ...(options.guidance ? { guidance: readNumber("--guidance", options.guidance) } : {}),
      onProgress: (done) => {
        if (process.stderr.isTTY && !output.json)
          process.stderr.write(`\r\x1b[2K${bar(done)} ${(100 * done).toFixed(0)} %`);
      },
    });
    if (process.stderr.isTTY && !output.json) process.stderr.write("\r\x1b[2K");
    const files: string[] = [];
    if (extension === ".png") {
      await writeSheet(
        options.out,
        clips.map((clip, i) => ({ clip, caption: prompts[i]! })),
      );
      files.push(options.out);
    } else {
      for (const [i, clip] of clips.entries()) {
        const file = clips.length === 1 ? options.out : options.out.replace(/\.mp4$/, `-${i + 1}.mp4`);
        await writeClip(file, clip, { fps: data.fps });
        files.push(file);
      }
    }
    const seconds = (performance.now() - started) / 1000;
    const report = { files, prompts, step: sampler.state.step, weights: options.weights, seconds };
    show(
      output,
      report,
      () =>
        `Wrote ${files.join(", ")} (${prompts.length} prompts, step ${report.step}, ${options.weights} weights, ${duration(seconds)})`,
    );
  } finally {
    sampler.close();
  }
}

function readSize(text: string | undefined, pixelsMax: number): { width: number; height: number } {
  if (text === undefined) {
    const side = Math.floor(Math.sqrt(pixelsMax));
    return { width: side, height: side };
  }
  const match = /^(\d+)x(\d+)$/.exec(text);
  if (!match)
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot read --size "${text}": want width x height in pixels, for example 32x32`,
    );
  return { width: Number(match[1]), height: Number(match[2]) };
}

function readNumber(option: string, text: string): number {
  const value = Number(text);
  if (!(value >= 0))
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot read ${option}: found "${text}", want a number of at least 0`,
    );
  return value;
}
