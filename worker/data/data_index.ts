import { createHash } from "node:crypto";
import { access, constants, mkdir, readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { z } from "zod";
import type { Job } from "../../job/job.js";
import type { ModelConfig } from "../../job/model_config.js";
import { type CodecSettings, codecSettings } from "./codec.js";
import type { MediaLimits } from "./read_media.js";

/** Raised whenever encoding or the file's layout changes, so that indexes of older versions are built anew. */
const INDEX_VERSION = 2;

const wholeSchema = z.number().int().min(0);
const statisticsSchema = z.object({ mean: z.array(z.number()), deviation: z.array(z.number().positive()) });
const tripleSchema = z.tuple([wholeSchema, wholeSchema, wholeSchema]);

const sampleSchema = z.object({
  /** Relative to the media folder. */
  name: z.string(),
  kind: z.enum(["image", "video"]),
  bytes: wholeSchema,
  mtimeMs: z.number(),
  /** SHA-256 of the file. */
  content: z.string(),
  caption: z.string(),
  frames: wholeSchema,
  height: wholeSchema,
  width: wholeSchema,
  /** Tokens along t, y, x. */
  grid: tripleSchema,
  /** First number of its latents in the store of encoded samples, or -1: decoded when it is read. */
  storeOffset: z.number().int().min(-1),
});

const indexSchema = z.object({
  format: z.literal("goku-data-index"),
  version: z.literal(INDEX_VERSION),
  treeDigest: z.string(),
  /** What checkpoints pin: settings, names, contents, captions, sizes and statistics; no times and no places. */
  digest: z.string(),
  codec: z.object({
    kind: z.literal("haar"),
    version: z.literal(1),
    stride: tripleSchema,
    channels: wholeSchema,
    patch: tripleSchema,
    first: statisticsSchema,
    later: statisticsSchema,
  }),
  /** Name of the file of encoded samples beside the index. */
  store: z.string(),
  samples: z.array(sampleSchema),
  skipped: z.array(z.object({ name: z.string(), reason: z.string() })),
});

export type IndexedSample = z.infer<typeof sampleSchema>;
/** What is known of a folder of media under the settings of a job. */
export type DataIndex = z.infer<typeof indexSchema>;

/** The settings that latents and frames depend on. */
export interface IndexSettings {
  codec: CodecSettings;
  limits: MediaLimits;
  storeBytesMax: number;
}

export function indexSettings(job: Pick<Job, "data">, model: ModelConfig): IndexSettings {
  const codec = codecSettings(job, model);
  const { data } = job;
  const limits = {
    maxPixels: data.max_pixels,
    unitX: codec.stride[2] * codec.patch[2],
    unitY: codec.stride[1] * codec.patch[1],
    maxFrames: data.max_frames,
    fps: data.fps,
    strideT: codec.stride[0],
  };
  return { codec, limits, storeBytesMax: data.store_mib * 2 ** 20 };
}

/** Short name of the settings; each has an index of its own, so that jobs with other settings share a folder. */
export function settingsDigest(settings: IndexSettings): string {
  return createHash("sha256")
    .update(JSON.stringify([INDEX_VERSION, settings]))
    .digest("hex")
    .slice(0, 16);
}

/**
 * Digest that a checkpoint pins. Independent of file times and of where the folder lies. The statistics are part of it, since
 * another version of a decoder may give other numbers for the same files.
 */
export function contentDigest(
  settings: IndexSettings,
  samples: readonly IndexedSample[],
  codec: DataIndex["codec"],
): string {
  const digest = createHash("sha256").update(JSON.stringify([INDEX_VERSION, codec, settings.limits]));
  for (const { name, content, caption, frames, height, width } of samples) {
    digest.update(JSON.stringify([name, content, caption, frames, height, width]));
  }
  return digest.digest("hex");
}

/** `.goku` in the media folder, or a folder of the user's cache when the media may not be written. */
export async function indexDirectory(media: string): Promise<string> {
  const absolute = resolve(media);
  const beside = join(absolute, ".goku");
  const writable = await access(absolute, constants.W_OK).then(
    () => true,
    () => false,
  );
  if (writable) {
    await mkdir(beside, { recursive: true });
    return beside;
  }
  const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache");
  const place = join(
    cache,
    "goku",
    `index-${createHash("sha256").update(absolute).digest("hex").slice(0, 16)}`,
  );
  await mkdir(place, { recursive: true });
  return place;
}

/** The index in a file; null when there is none, it is of another version, or it is not whole. */
export async function readIndex(path: string): Promise<DataIndex | null> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  try {
    return indexSchema.parse(JSON.parse(text));
  } catch {
    return null; // written by another version; building it anew loses nothing
  }
}
