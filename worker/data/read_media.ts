import { readFile } from "node:fs/promises";
import { fileVerdict } from "./file_verdict.js";
import {
  croppedSize,
  type FitLimits,
  type Size,
  scaledSize,
  scaleExpression,
  usedFrames,
} from "./media_fit.js";
import type { RgbClip } from "./rgb_clip.js";
import { PIPE_FIRST, runFfmpeg } from "./run_ffmpeg.js";

/** What a job asks of its media. */
export interface MediaLimits extends FitLimits {
  maxFrames: number;
  /** Clips are resampled to this many frames a second. */
  fps: number;
  /** Frames of one latent group. */
  strideT: number;
}

export type MediaKind = "image" | "video";

const KIND_BY_EXTENSION: Readonly<Record<string, MediaKind>> = {
  png: "image",
  jpg: "image",
  jpeg: "image",
  webp: "image",
  mp4: "video",
  webm: "video",
};

/** Kind of a file by its name, or null when it is not media that we read. */
export function mediaKind(name: string): MediaKind | null {
  const dot = name.lastIndexOf(".");
  return (dot > 0 && KIND_BY_EXTENSION[name.slice(dot + 1).toLowerCase()]) || null;
}

/** One file as frames, or the reason why it cannot be read. */
export type MediaResult = { clip: RgbClip } | { reason: string };

/**
 * One file as frames that fit the job: scaled, cropped, clips resampled and cut.
 * @throws GokuError NOT_FOUND without ffmpeg, STORAGE_FAILED when trying again may help
 */
export async function readMedia(path: string, kind: MediaKind, limits: MediaLimits): Promise<MediaResult> {
  if (kind === "video") return (await readClips([path], limits))[0]!;
  try {
    return { clip: await readPicture(path, limits) };
  } catch (error) {
    return { reason: fileVerdict(path, error) };
  }
}

/**
 * Several clips with one start of ffmpeg, which for short clips takes longer than decoding them.
 * One broken file ends the whole command; then each is tried alone.
 * @throws GokuError NOT_FOUND without ffmpeg, STORAGE_FAILED when trying again may help
 */
export async function readClips(paths: readonly string[], limits: MediaLimits): Promise<MediaResult[]> {
  const filters = `fps=${limits.fps},scale=${scaleExpression(limits)}:flags=lanczos+accurate_rnd,setsar=1`;
  // the container is named, not guessed: a playlist called a.mp4 must not make ffmpeg open what it lists
  const inputs = paths.flatMap((path) => [
    "-threads",
    "1",
    "-f",
    /\.webm$/i.test(path) ? "matroska" : "mov",
    "-i",
    `file:${path}`,
  ]);
  // each frame as a PPM: its header tells the size, which saves asking ffprobe first
  const outputs = paths.flatMap((_, i) => [
    ...[
      "-map",
      `${i}:v:0`,
      "-vf",
      filters,
      "-frames:v",
      String(limits.maxFrames),
      "-pix_fmt",
      "rgb24",
      "-threads",
      "1",
    ],
    ...["-f", "image2pipe", "-c:v", "ppm", `pipe:${PIPE_FIRST + i}`],
  ]);
  const outputBytesMax = limits.maxFrames * (64 * limits.maxPixels + 1024);
  try {
    const written = await runFfmpeg([...inputs, ...outputs], {
      input: null,
      outputs: paths.length,
      outputBytesMax,
    });
    return written.map((bytes) => clipOf(bytes, limits));
  } catch (error) {
    const reason = fileVerdict(paths[0]!, error);
    if (paths.length === 1) return [{ reason }];
    const alone: MediaResult[] = [];
    for (const path of paths) alone.push(...(await readClips([path], limits)));
    return alone;
  }
}

function clipOf(ppm: Uint8Array, limits: MediaLimits): MediaResult {
  try {
    const clip = parsePpmFrames(ppm);
    const frames = usedFrames(clip.frames, limits);
    return {
      clip: cropped(
        { ...clip, frames, data: clip.data.subarray(0, frames * clip.height * clip.width * 3) },
        3,
        limits,
      ),
    };
  } catch (error) {
    return { reason: (error as Error).message };
  }
}

async function readPicture(path: string, limits: MediaLimits): Promise<RgbClip> {
  // loaded on first use: a rank that finds every sample encoded on disk never needs it
  const { default: sharp } = await import("sharp");
  const bytes = await readFile(path); // by us: its errors tell the storage's faults from the file's
  const picture = sharp(bytes, { failOn: "error" }).rotate(); // as its EXIF orientation says
  const { width, height } = await picture.metadata().then(({ autoOrient }) => autoOrient);
  const scaled = scaledSize({ width, height }, limits);
  if (scaled.width !== width || scaled.height !== height)
    picture.resize({ ...scaled, fit: "fill", kernel: "lanczos3" });
  const { data, info } = await picture
    .flatten({ background: "#ffffff" })
    .toColourspace("srgb")
    .removeAlpha()
    .raw({ depth: "uchar" })
    .toBuffer({ resolveWithObject: true });
  return cropped(
    { frames: 1, height: info.height, width: info.width, data: data as Uint8Array },
    info.channels,
    limits,
  );
}

/** Frames of one size in binary PPM, one after another. */
export function parsePpmFrames(bytes: Uint8Array): RgbClip {
  let size: Size | null = null;
  const frames: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; ) {
    const header = /^P6\s+(\d+)\s+(\d+)\s+255\s/.exec(
      Buffer.from(bytes.buffer, bytes.byteOffset + at, Math.min(64, bytes.length - at)).toString("latin1"),
    );
    if (!header) throw new Error(`frame ${frames.length} is not a picture`);
    const found = { width: Number(header[1]), height: Number(header[2]) };
    size ??= found;
    if (found.width !== size.width || found.height !== size.height)
      throw new Error(`frame ${frames.length} has another size than the first`);
    const start = at + header[0].length;
    const end = start + found.width * found.height * 3;
    if (end > bytes.length) throw new Error(`frame ${frames.length} is cut short`);
    frames.push(bytes.subarray(start, end));
    at = end;
  }
  if (size === null) throw new Error("it holds no frame");
  return { frames: frames.length, ...size, data: Buffer.concat(frames) };
}

/** The centre of every frame, whole units, without channels beyond r, g, b. */
function cropped(clip: RgbClip, channels: number, limits: MediaLimits): RgbClip {
  const size = croppedSize(clip, limits);
  if (size === null)
    throw new Error(
      `${clip.width}x${clip.height} pixels are smaller than one patch of ${limits.unitX}x${limits.unitY}`,
    );
  const left = Math.floor((clip.width - size.width) / 2);
  const top = Math.floor((clip.height - size.height) / 2);
  const data = new Uint8Array(clip.frames * size.height * size.width * 3);
  let to = 0;
  for (let frame = 0; frame < clip.frames; frame++) {
    for (let row = 0; row < size.height; row++) {
      let from = ((frame * clip.height + top + row) * clip.width + left) * channels;
      for (let column = 0; column < size.width; column++, from += channels) {
        // grey pictures may come with fewer channels than three
        for (let channel = 0; channel < 3; channel++)
          data[to++] = clip.data[from + (channels >= 3 ? channel : 0)]!;
      }
    }
  }
  return { frames: clip.frames, ...size, data };
}
