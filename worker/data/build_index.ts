import { open, stat, unlink } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";
import { GokuError, toGokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import type { ModelConfig } from "../../job/model_config.js";
import { doOnce } from "./build_lock.js";
import { WaveletCodec } from "./codec.js";
import { contentDigest, type DataIndex, type IndexedSample, indexSettings } from "./data_index.js";
import { fileDigest } from "./file_digest.js";
import { fileVerdict } from "./file_verdict.js";
import { type BuiltIndex, IndexFolder } from "./index_folder.js";
import { StatisticsSum, tokenGrid } from "./latents.js";
import { orderedMap } from "./ordered_map.js";
import { readClips, readMedia } from "./read_media.js";
import { type MediaFile, readCaptions, type SkippedFile, scanMedia } from "./scan_media.js";
import { StoreWriter } from "./store_writer.js";

export interface IndexProgress {
  done: number;
  total: number;
  skipped: number;
}

/**
 * The index of a job's media folder: read when it is up to date, else built and written beside the data in one atomic step.
 * Of several processes that ask at once one builds and the others wait. Media that cannot be read or have no caption are skipped
 * and listed with the reason.
 * @throws GokuError DATA_EMPTY when there is no folder or nothing in it can be read, STORAGE_FULL
 */
export async function buildIndex(options: {
  job: Pick<Job, "data">;
  model: ModelConfig;
  onProgress?: (progress: IndexProgress) => void;
}): Promise<BuiltIndex> {
  const directory = resolve(options.job.data.media);
  await requireFolder(directory);
  const place = await IndexFolder.open(directory, indexSettings(options.job, options.model));
  const current = async () => place.ofTree((await scanMedia(directory)).treeDigest);
  const built =
    (await current()) ??
    (await doOnce(place.lockPath, current, () => build(place, options.onProgress ?? (() => {}))));
  if (built.index.samples.length === 0) throw emptyError(directory, built.index.skipped);
  return built;
}

/**
 * The index with the digest that a state pins, whatever has become of the media since: those that have changed or gone are
 * unreadable samples of it. Null: it is not there any more.
 */
export async function openIndex(options: {
  job: Pick<Job, "data">;
  model: ModelConfig;
  digest: string;
}): Promise<BuiltIndex | null> {
  const directory = resolve(options.job.data.media);
  await requireFolder(directory);
  const place = await IndexFolder.open(directory, indexSettings(options.job, options.model));
  return place.ofDigest(options.digest);
}

async function requireFolder(directory: string): Promise<void> {
  const found = await stat(directory).catch(() => null);
  if (!found?.isDirectory()) {
    throw new GokuError(
      "DATA_EMPTY",
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

async function build(place: IndexFolder, onProgress: (progress: IndexProgress) => void): Promise<BuiltIndex> {
  const scan = await scanMedia(place.directory);
  const { captions, problems } = await readCaptions(scan);
  const captioned = scan.media.flatMap((file) => {
    const caption = captions.get(file.name);
    return caption === undefined ? [] : [{ ...file, caption }];
  });
  const skipped = [...problems, ...withoutCaption(scan.media, captions, problems)];
  const samples: IndexedSample[] = [];
  const statistics = new StatisticsSum(place.settings.codec.channels);
  const temporary = place.temporaryPath;
  const storeTemporary = `${temporary}.latents`;
  const store = await open(storeTemporary, "w");
  try {
    const writer = new StoreWriter(store, place.settings.storeBytesMax);
    const encoder = new WaveletCodec(place.settings.codec);
    // ffmpeg starts slowly and pictures wait for threads of libuv: a few files at once keep every core busy
    const results = orderedMap(groups(captioned), 2 + availableParallelism(), (group) =>
      encodeGroup(place, encoder, group),
    );
    let done = scan.media.length - captioned.length;
    for await (const group of results) {
      for (const result of group) {
        if ("reason" in result) skipped.push(result);
        else {
          statistics.add(result.latents, encoder.latentShape(result.sample));
          samples.push({ ...result.sample, storeOffset: await writer.write(result.latents) });
        }
      }
      done += group.length;
      onProgress({ done, total: scan.media.length, skipped: skipped.length });
    }
    await store.sync();
    const codec: DataIndex["codec"] = {
      ...place.settings.codec,
      stride: [...place.settings.codec.stride],
      patch: [...place.settings.codec.patch],
      ...statistics.result(),
    };
    const digest = contentDigest(place.settings, samples, codec);
    const index: DataIndex = {
      format: "goku-data-index",
      version: 2,
      treeDigest: scan.treeDigest,
      digest,
      codec,
      store: place.storeName(digest),
      samples,
      skipped,
    };
    return await place.publish(index, { temporary, storeTemporary });
  } catch (error) {
    throw toGokuError(error, "STORAGE_FAILED");
  } finally {
    await store.close();
    await Promise.all([temporary, storeTemporary].map((path) => unlink(path).catch(() => {})));
  }
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
  place: IndexFolder,
  codec: WaveletCodec,
  files: readonly CaptionedFile[],
): Promise<(Encoded | SkippedFile)[]> {
  const { limits, codec: settings } = place.settings;
  const paths = files.map(({ name }) => join(place.directory, name));
  const contents = Promise.all(
    paths.map((path) => fileDigest(path).catch((error: unknown) => ({ reason: fileVerdict(path, error) }))),
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
