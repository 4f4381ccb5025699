import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { GokuError, toGokuError } from "../../../job/errors.js";
import { orderedMap } from "../ordered_map.js";
import type { RgbClip } from "../rgb_clip.js";
import { runFfmpeg } from "../run_ffmpeg.js";
import { makeScene, renderScene, type Scene, type SceneKind } from "./scene.js";

export interface ShapesOptions {
  directory: string;
  /** Of the data set; the same options write the same pictures. */
  seed?: number;
  /** Pictures of one shape, dealt evenly over 24 colours and shapes. */
  singles?: number;
  /** Pictures of two shapes and how they stand to each other. */
  pairs?: number;
  /** Clips of one moving shape. */
  clips?: number;
  /** Side of every picture, pixels; even. */
  size?: number;
  /** Frames of a clip. */
  frames?: number;
  /** Frames per second of a clip. */
  fps?: number;
  onProgress?: (progress: { done: number; total: number }) => void;
}

export interface ShapesWritten {
  directory: string;
  images: number;
  clips: number;
  /** False when the folder held this very data set already. */
  written: boolean;
}

const MARKER = "shapes.json";
const DEFAULTS = { seed: 1, singles: 1440, pairs: 360, clips: 144, size: 32, frames: 9, fps: 8 } as const;

/**
 * Writes the shapes data set: PNG pictures and MP4 clips of coloured shapes with a caption beside each.
 * The marker is written last, so a folder that has it is whole; asked again for the same set, nothing is done.
 * @throws GokuError CONFLICT when the folder holds anything else; NOT_FOUND without ffmpeg; STORAGE_FULL
 */
export async function writeShapes(options: ShapesOptions): Promise<ShapesWritten> {
  const { directory, onProgress = () => {}, ...given } = options;
  const settings = { ...DEFAULTS, ...given };
  if (settings.size % 2 !== 0 || settings.size < 16) {
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot write shapes: size is ${settings.size}, need an even number of at least 16`,
    );
  }
  const counts = { directory, images: settings.singles + settings.pairs, clips: settings.clips };
  const marker = JSON.stringify({ format: "goku-shapes", version: 1, ...settings });
  if (await isWritten(directory, marker)) return { ...counts, written: false };
  const total = counts.images + counts.clips;
  let done = 0;
  const advance = (count: number) => {
    done += count;
    onProgress({ done, total });
  };
  try {
    await mkdir(join(directory, "images"), { recursive: true });
    await mkdir(join(directory, "clips"), { recursive: true });
    const scene = (kind: SceneKind) => (number: number) => ({
      kind,
      number,
      scene: makeScene({ ...settings, kind, number }),
    });
    const scenes = [
      ...numbers(settings.singles).map(scene("single")),
      ...numbers(settings.pairs).map(scene("pair")),
    ];
    const pictures = orderedMap(scenes, 2 * availableParallelism(), ({ kind, number, scene: one }) =>
      writePicture(join(directory, "images", `${kind}-${padded(number)}`), one),
    );
    for await (const _ of pictures) advance(1);
    await writeClips(
      directory,
      numbers(settings.clips).map((number) => scene("moving")(number).scene),
      settings.fps,
    );
    advance(settings.clips);
    await writeFile(join(directory, MARKER), marker);
  } catch (error) {
    throw toGokuError(error, "STORAGE_FAILED");
  }
  return { ...counts, written: true };
}

/** True when the folder is this very set; false when it may be written. */
async function isWritten(directory: string, marker: string): Promise<boolean> {
  const found = await readdir(directory).catch((error: NodeJS.ErrnoException): string[] => {
    if (error.code === "ENOENT") return [];
    throw toGokuError(error, "STORAGE_FAILED");
  });
  if (found.includes(MARKER)) {
    if ((await readFile(join(directory, MARKER), "utf8")) === marker) return true;
    throw new GokuError(
      "CONFLICT",
      `Cannot write shapes: ${directory} holds a shapes data set of other settings, remove it or name another folder`,
    );
  }
  // folders of an earlier try that was cut short are written over
  const foreign = found.filter((name) => name !== "images" && name !== "clips");
  if (foreign.length > 0) {
    throw new GokuError(
      "CONFLICT",
      `Cannot write shapes: ${directory} is not empty (${foreign[0]}), name another folder`,
    );
  }
  return false;
}

async function writePicture(stem: string, scene: Scene): Promise<void> {
  const { data, height, width } = renderScene(scene);
  await sharp(data, { raw: { width, height, channels: 3 } })
    .png({ compressionLevel: 6 })
    .toFile(`${stem}.png`);
  await writeFile(`${stem}.txt`, `${scene.caption}\n`);
}

/** All clips in one run of ffmpeg, cut apart at key frames: starting it for each would take most of the time. */
async function writeClips(directory: string, scenes: readonly Scene[], fps: number): Promise<void> {
  if (scenes.length === 0) return;
  const frames = scenes[0]!.frames;
  const clips: RgbClip[] = scenes.map(renderScene);
  const { height, width } = clips[0]!;
  const workshop = await mkdtemp(join(directory, "clips", ".writing-"));
  try {
    const cuts = scenes.slice(1).map((_, i) => (i + 1) * frames);
    await runFfmpeg(
      [
        ...[
          "-f",
          "rawvideo",
          "-pix_fmt",
          "rgb24",
          "-s",
          `${width}x${height}`,
          "-r",
          String(fps),
          "-i",
          "pipe:0",
        ],
        // one closed group of pictures a clip, near lossless: at this size artefacts would be half the picture
        ...[
          "-c:v",
          "libx264",
          "-preset",
          "fast",
          "-crf",
          "10",
          "-pix_fmt",
          "yuv420p",
          "-g",
          String(frames),
          "-keyint_min",
          String(frames),
          "-sc_threshold",
          "0",
          "-bf",
          "0",
        ],
        ...[
          "-f",
          "segment",
          "-segment_format",
          "mp4",
          "-reset_timestamps",
          "1",
          ...(cuts.length > 0 ? ["-segment_frames", cuts.join(",")] : []),
        ],
        join(workshop, "%05d.mp4"),
      ],
      { input: Buffer.concat(clips.map(({ data }) => data)), outputs: 0, outputBytesMax: 0 },
    );
    for (const [number, scene] of scenes.entries()) {
      const stem = join(directory, "clips", `moving-${padded(number)}`);
      await rename(join(workshop, `${padded(number)}.mp4`), `${stem}.mp4`);
      await writeFile(`${stem}.txt`, `${scene.caption}\n`);
    }
  } finally {
    await rm(workshop, { recursive: true, force: true });
  }
}

function padded(number: number): string {
  return String(number).padStart(5, "0");
}

function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}
