import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { type FileHandle, open, rename, stat, unlink } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";
import { GokuError, toGokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import type { ModelConfig } from "../../job/model_config.js";
import { doOnce } from "./build_lock.js";
import { WaveletCodec } from "./codec.js";
import {
  contentDigest,
  type DataIndex,
  type IndexedSample,
  type IndexSettings,
  indexDirectory,
  indexSettings,
  readIndex,
  settingsDigest,
} from "./data_index.js";
import { StatisticsSum, tokenGrid } from "./latents.js";
import { orderedMap } from "./ordered_map.js";
import { readClips, readMedia } from "./read_media.js";
import { type MediaFile, readCaptions, type SkippedFile, scanMedia } from "./scan_media.js";

export interface IndexProgress {
  done: number;
  total: number;
  skipped: number;
}

export interface BuiltIndex {
  index: DataIndex;
  /** The media folder, absolute. */
  directory: string;
  indexPath: string;
  storePath: string;
  /** False when an index that was there is still right. */
  built: boolean;
}

interface Place {
  directory: string;
  folder: string;
  settings: IndexSettings;
  name: string; // settings digest
}

/**
 * The index of a job's media folder: read when it is up to date, else built and written beside the data in one atomic step.
 * Of several processes that ask at once one builds and the others wait. Media that cannot be read or have no caption are skipped
 * and listed with the reason.
 * @throws GokuError DATA_EMPTY when nothing can be read, NOT_FOUND when there is no folder, STORAGE_FULL
 */
export async function buildIndex(options: {
  job: Pick<Job, "data">;
  model: ModelConfig;
  onProgress?: (progress: IndexProgress) => void;
}): Promise<BuiltIndex> {
  const settings = indexSettings(options.job, options.model);
  const directory = resolve(options.job.data.media);
  await scanRefusal(directory);
  const place: Place = {
    directory,
    folder: await indexDirectory(directory),
    settings,
    name: settingsDigest(settings),
  };
  const current = () => currentIndex(place);
  const built =
    (await current()) ??
    (await doOnce(join(place.folder, `index-${place.name}.lock`), current, () =>
      build(place, options.onProgress ?? (() => {})),
    ));
  if (built.index.samples.length === 0) throw emptyError(directory, built.index.skipped);
  return built;
}

async function scanRefusal(directory: string): Promise<void> {
  const found = await stat(directory).catch(() => null);
  if (!found?.isDirectory()) {
    throw new GokuError(
      "NOT_FOUND",
      `Cannot index media: ${directory} is not a folder, set data.media or write one with gokuctl data shapes`,
    );
  }
}

function emptyError(directory: string, skipped: readonly SkippedFile[]): GokuError {
  const first = skipped[0];
  const found = first
    ? `none of ${skipped.length} files can be used (${first.name}: ${first.reason})`
    : "it holds no media";
  const todo =
    "put PNG, JPEG, WebP, MP4 or WebM files there, each with a caption in a .txt of the same name or in captions.jsonl";
  return new GokuError("DATA_EMPTY", `Cannot train on ${directory}: ${found}, ${todo}`);
}

function paths(place: Place, index: DataIndex): Pick<BuiltIndex, "directory" | "indexPath" | "storePath"> {
  return {
    directory: place.directory,
    indexPath: join(place.folder, `index-${place.name}.json`),
    storePath: join(place.folder, index.store),
  };
}

async function currentIndex(place: Place): Promise<BuiltIndex | null> {
  const index = await readIndex(join(place.folder, `index-${place.name}.json`));
  if (index === null) return null;
  const scan = await scanMedia(place.directory);
  if (scan.treeDigest !== index.treeDigest) return null;
  const stored = index.samples.some(({ storeOffset }) => storeOffset >= 0);
  const found = { index, built: false, ...paths(place, index) };
  if (stored && !(await stat(found.storePath).catch(() => null))) return null; // someone removed the store
  return found;
}

async function build(place: Place, onProgress: (progress: IndexProgress) => void): Promise<BuiltIndex> {
  const scan = await scanMedia(place.directory);
  const { captions, problems } = await readCaptions(scan);
  const captioned = scan.media.flatMap((file) => {
    const caption = captions.get(file.name);
    return caption === undefined ? [] : [{ ...file, caption }];
  });
  const skipped = [...problems, ...withoutCaption(scan.media, captions, problems)];
  const samples: IndexedSample[] = [];
  const statistics = new StatisticsSum(place.settings.codec.channels);
  const temporary = join(place.folder, `index-${place.name}.${process.pid}.tmp`);
  const storeTemporary = `${temporary}.latents`;
  const store = await open(storeTemporary, "w");
  try {
    const writer = new StoreWriter(store, place.settings.storeBytesMax);
    const codec = new WaveletCodec(place.settings.codec);
    // ffmpeg starts slowly and pictures wait for threads of libuv: a few files at once keep every core busy
    const results = orderedMap(groups(captioned), 2 + availableParallelism(), (group) =>
      encodeGroup(place, codec, group),
    );
    let done = scan.media.length - captioned.length;
    for await (const group of results) {
      for (const result of group) {
        if ("reason" in result) skipped.push(result);
        else {
          statistics.add(result.latents, codec.latentShape(result.sample));
          samples.push({ ...result.sample, storeOffset: await writer.write(result.latents) });
        }
      }
      done += group.length;
      onProgress({ done, total: scan.media.length, skipped: skipped.length });
    }
    await store.sync();
    const digest = contentDigest(place.settings, samples);
    const index: DataIndex = {
      format: "goku-data-index",
      version: 1,
      treeDigest: scan.treeDigest,
      digest,
      codec: {
        ...place.settings.codec,
        stride: [...place.settings.codec.stride],
        patch: [...place.settings.codec.patch],
        ...statistics.result(),
      },
      store: `latents-${place.name}-${digest.slice(0, 16)}.f32`,
      samples,
      skipped,
    };
    return await publish(place, index, { temporary, storeTemporary });
  } catch (error) {
    throw toGokuError(error, "STORAGE_FAILED");
  } finally {
    await store.close();
    await Promise.all([temporary, storeTemporary].map((path) => unlink(path).catch(() => {})));
  }
}

/** The store first, then the index that names it: whoever reads the index finds a whole store. */
async function publish(
  place: Place,
  index: DataIndex,
  files: { temporary: string; storeTemporary: string },
): Promise<BuiltIndex> {
  const { indexPath, storePath, directory } = paths(place, index);
  const before = await readIndex(indexPath);
  await rename(files.storeTemporary, storePath);
  const file = await open(files.temporary, "w");
  try {
    await file.writeFile(JSON.stringify(index));
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(files.temporary, indexPath);
  // a running job keeps the old store open; its name may go
  if (before && before.store !== index.store) await unlink(join(place.folder, before.store)).catch(() => {});
  return { index, built: true, directory, indexPath, storePath };
}

/** Media without a caption, except where the caption itself was found wanting and is listed already. */
function withoutCaption(
  media: readonly MediaFile[],
  captions: ReadonlyMap<string, string>,
  problems: readonly SkippedFile[],
): SkippedFile[] {
  const listed = new Set(problems.map(({ name }) => name));
  return media.flatMap(({ name }) => {
    const captionFile = `${name.slice(0, name.lastIndexOf("."))}.txt`;
    if (captions.has(name) || listed.has(captionFile)) return [];
    return [{ name, reason: `no caption: want ${captionFile}, or a line in captions.jsonl` }];
  });
}

type CaptionedFile = MediaFile & { caption: string };
type Encoded = { sample: Omit<IndexedSample, "storeOffset">; latents: Float32Array };

/** Clips this small are decoded together. */
const SHORT_CLIP_BYTES = 256 * 1024;
const CLIPS_TOGETHER = 12;

/** The files in order, runs of short clips together, everything else alone. */
function* groups(files: readonly CaptionedFile[]): Generator<CaptionedFile[]> {
  let run: CaptionedFile[] = [];
  for (const file of files) {
    const short = file.kind === "video" && file.bytes <= SHORT_CLIP_BYTES;
    if (run.length > 0 && (!short || run.length === CLIPS_TOGETHER)) {
      yield run;
      run = [];
    }
    if (short) run.push(file);
    else yield [file];
  }
  if (run.length > 0) yield run;
}

/** Samples with their latents, or why there is none, in the order of the files. */
async function encodeGroup(
  place: Place,
  codec: WaveletCodec,
  files: readonly CaptionedFile[],
): Promise<(Encoded | SkippedFile)[]> {
  const { limits, codec: settings } = place.settings;
  const paths = files.map(({ name }) => join(place.directory, name));
  const contents = Promise.all(
    paths.map((path) => fileDigest(path).catch((error: Error) => ({ reason: error.message }))),
  );
  const single = files.length === 1 ? files[0]! : null;
  const media = single ? [await readMedia(paths[0]!, single.kind, limits)] : await readClips(paths, limits);
  return (await contents).map((content, i) => {
    const { name, bytes, mtimeMs, kind, caption } = files[i]!;
    if (typeof content !== "string") return { name, reason: content.reason };
    const found = media[i]!;
    if ("reason" in found) return { name, reason: found.reason };
    const { frames, height, width } = found.clip;
    const grid = tokenGrid(codec.latentShape(found.clip), settings.patch);
    return {
      sample: { name, kind, bytes, mtimeMs, content, caption, frames, height, width, grid },
      latents: codec.encode(found.clip),
    };
  });
}

async function fileDigest(path: string): Promise<string> {
  const digest = createHash("sha256");
  for await (const chunk of createReadStream(path)) digest.update(chunk as Buffer);
  return digest.digest("hex");
}

/** Latents one after another, as long as they fit. */
class StoreWriter {
  private numbers = 0;

  constructor(
    private readonly file: FileHandle,
    private readonly bytesMax: number,
  ) {}

  /** Where the latents begin in the store, in numbers, or -1 when they did not fit. */
  async write(latents: Float32Array): Promise<number> {
    if ((this.numbers + latents.length) * 4 > this.bytesMax) return -1;
    const offset = this.numbers;
    await this.file.write(new Uint8Array(latents.buffer, latents.byteOffset, latents.byteLength));
    this.numbers += latents.length;
    return offset;
  }
}
