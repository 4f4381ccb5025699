import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import sharp from "sharp";
import type { Job } from "../../../job/job.js";
import { resolveJob } from "../../../job/load_job.js";
import { runFfmpeg } from "../../../worker/data/run_ffmpeg.js";
import { makeScene, renderScene, type SceneKind } from "../../../worker/data/shapes/scene.js";

/** A job over a folder of media, small in every way. */
export function smallJob(media: string, data: Record<string, unknown> = {}): Job {
  return resolveJob({
    name: "small",
    seed: 7,
    data: { media, ...data },
    train: { steps: 10, packs_per_step: 2, tokens_per_pack: 112 },
    checkpoint: { uri: "file:///nowhere" },
  });
}

/** Writes one picture of the shapes data set. */
export async function writePicture(
  path: string,
  options: { number: number; kind?: SceneKind; caption?: string | null },
): Promise<void> {
  const scene = makeScene({
    kind: options.kind ?? "single",
    number: options.number,
    seed: 1,
    size: 32,
    frames: 1,
  });
  const { data, width, height } = renderScene(scene);
  await mkdir(dirname(path), { recursive: true });
  await sharp(data, { raw: { width, height, channels: 3 } }).toFile(path);
  const caption = options.caption === undefined ? scene.caption : options.caption;
  if (caption !== null) await writeFile(`${path.slice(0, path.lastIndexOf("."))}.txt`, caption);
}

/** Writes a clip of a moving shape. */
export async function writeMovingClip(
  path: string,
  options: { number: number; frames: number; codec?: string[] },
): Promise<void> {
  const scene = makeScene({
    kind: "moving",
    number: options.number,
    seed: 1,
    size: 32,
    frames: options.frames,
  });
  await mkdir(dirname(path), { recursive: true });
  await runFfmpeg(
    [
      "-f",
      "rawvideo",
      "-pix_fmt",
      "rgb24",
      "-s",
      "32x32",
      "-r",
      "8",
      "-i",
      "pipe:0",
      ...(options.codec ?? ["-c:v", "libx264", "-crf", "8", "-pix_fmt", "yuv444p"]),
      `file:${path}`,
    ],
    { input: renderScene(scene).data, outputs: 0, outputBytesMax: 0 },
  );
  await writeFile(`${path.slice(0, path.lastIndexOf("."))}.txt`, scene.caption);
}

/** Six pictures and two clips with captions. */
export async function writeSmallDataSet(folder: string): Promise<void> {
  for (let number = 0; number < 6; number++)
    await writePicture(join(folder, "pictures", `${number}.png`), { number });
  for (let number = 0; number < 2; number++)
    await writeMovingClip(join(folder, "clips", `${number}.mp4`), { number, frames: 9 });
}
