import { randomUUID } from "node:crypto";
import { mkdir, rename, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { GokuError, toGokuError } from "../../job/errors.js";
import type { RgbClip } from "../data/rgb_clip.js";
import { runFfmpeg } from "../data/run_ffmpeg.js";

/** Small clips are enlarged to about this height, by whole numbers, so that players show more than a stamp. */
const HEIGHT_SHOWN = 256;

/**
 * Writes a clip as an H.264 MP4 that browsers play, whole or not at all.
 * @throws GokuError NOT_FOUND without ffmpeg; STORAGE_FULL, STORAGE_FAILED
 */
export async function writeClip(path: string, clip: RgbClip, options: { fps: number }): Promise<void> {
  const scale = Math.max(1, Math.floor(HEIGHT_SHOWN / clip.height));
  const even = (side: number) => Math.ceil((side * scale) / 2) * 2; // yuv420p wants even sides
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    await mkdir(dirname(path), { recursive: true });
    await runFfmpeg(
      [
        ...[
          "-f",
          "rawvideo",
          "-pix_fmt",
          "rgb24",
          "-s",
          `${clip.width}x${clip.height}`,
          "-r",
          String(options.fps),
          "-i",
          "pipe:0",
        ],
        ...[
          "-vf",
          `scale=${even(clip.width)}:${even(clip.height)}:flags=neighbor`,
          "-c:v",
          "libx264",
          "-preset",
          "fast",
          "-crf",
          "12",
        ],
        ...["-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4", "-y", `file:${temporary}`],
      ],
      { input: clip.data, outputs: 0, outputBytesMax: 0 },
    );
    await rename(temporary, path);
  } catch (error) {
    await unlink(temporary).catch(() => {});
    if (error instanceof GokuError) throw error;
    const full = /No space left/.test((error as Error).message);
    throw toGokuError(
      full ? new GokuError("STORAGE_FULL", `Cannot write ${path}: no space left`, { cause: error }) : error,
      "STORAGE_FAILED",
    );
  }
}
