import { createHash } from "node:crypto";
import type { Dirent } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { join, posix } from "node:path";
import { GokuError } from "../../job/errors.js";
import { orderedMap } from "./ordered_map.js";
import { type MediaKind, mediaKind } from "./read_media.js";

/** Where captions of a folder may stand together: one {"file", "caption"} a line, files relative to its folder. */
export const CAPTIONS_FILE = "captions.jsonl";
const STATS_AT_ONCE = 32;
const CAPTION_BYTES_MAX = 65_536;

export interface ScannedFile {
  /** Relative to the media folder, with forward slashes. */
  name: string;
  bytes: number;
  mtimeMs: number;
}

export interface MediaFile extends ScannedFile {
  kind: MediaKind;
}

export interface SkippedFile {
  name: string;
  reason: string;
}

export interface MediaScan {
  directory: string;
  media: MediaFile[]; // by name
  /** Media, .txt and captions.jsonl files by name: when name, size or time of any changes, the index is out of date. */
  files: ScannedFile[];
  treeDigest: string;
}

/**
 * Walks a folder for media and caption files; hidden files and folders are not entered.
 * @throws GokuError DATA_EMPTY when there is no such folder
 */
export async function scanMedia(directory: string): Promise<MediaScan> {
  const names: string[] = [];
  await walk(directory, "", names).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT" && error.code !== "ENOTDIR") throw error;
    const hint = "set data.media, or write one with gokuctl data shapes";
    throw new GokuError("DATA_EMPTY", `Cannot index media: ${directory} is not a folder, ${hint}`, {
      cause: error,
    });
  });
  names.sort(byCodeUnits);
  const files: ScannedFile[] = [];
  for await (const file of orderedMap(names, STATS_AT_ONCE, (name) => statFile(directory, name)))
    if (file) files.push(file);
  const digest = createHash("sha256");
  for (const { name, bytes, mtimeMs } of files) digest.update(`${name}\0${bytes}\0${mtimeMs}\n`);
  const media = files.flatMap((file) => {
    const kind = mediaKind(posix.basename(file.name));
    return kind === null ? [] : [{ ...file, kind }];
  });
  return { directory, media, files, treeDigest: digest.digest("hex") };
}

/** Captions by media name, and what was wrong with those that could not be used. */
export async function readCaptions(
  scan: MediaScan,
): Promise<{ captions: Map<string, string>; problems: SkippedFile[] }> {
  const captions = new Map<string, string>();
  const problems: SkippedFile[] = [];
  const known = new Set(scan.files.map(({ name }) => name));
  for (const { name } of scan.files) {
    if (posix.basename(name) === CAPTIONS_FILE)
      await readCaptionLines(scan.directory, name, known, captions, problems);
  }
  const beside = scan.media.filter(({ name }) => known.has(captionName(name)));
  const read = orderedMap(beside, STATS_AT_ONCE, async ({ name }) => ({
    name,
    found: await readCaption(join(scan.directory, captionName(name))),
  }));
  for await (const { name, found } of read) {
    // a text beside the file wins over the list
    if ("caption" in found) captions.set(name, found.caption);
    else problems.push({ name: captionName(name), reason: found.reason });
  }
  return { captions, problems };
}

async function walk(directory: string, folder: string, names: string[]): Promise<void> {
  for (const entry of await readdir(join(directory, folder), { withFileTypes: true })) {
    if (entry.name.startsWith(".")) continue;
    const name = folder === "" ? entry.name : `${folder}/${entry.name}`;
    if (entry.isDirectory()) await walk(directory, name, names);
    else if (isWanted(entry)) names.push(name);
  }
}

function isWanted(entry: Dirent): boolean {
  if (!entry.isFile() && !entry.isSymbolicLink()) return false;
  return (
    mediaKind(entry.name) !== null ||
    entry.name.toLowerCase().endsWith(".txt") ||
    entry.name === CAPTIONS_FILE
  );
}

async function statFile(directory: string, name: string): Promise<ScannedFile | null> {
  try {
    const found = await stat(join(directory, name));
    return found.isFile() ? { name, bytes: found.size, mtimeMs: found.mtimeMs } : null;
  } catch {
    return null; // gone since the folder was read, or a link to nowhere
  }
}

function captionName(mediaName: string): string {
  return `${mediaName.slice(0, mediaName.lastIndexOf("."))}.txt`;
}

async function readCaption(path: string): Promise<{ caption: string } | { reason: string }> {
  try {
    const bytes = await readFile(path);
    if (bytes.length > CAPTION_BYTES_MAX)
      return { reason: `the caption has ${bytes.length} bytes, at most ${CAPTION_BYTES_MAX} are read` };
    const caption = new TextDecoder("utf-8", { fatal: true }).decode(bytes).trim();
    return caption === "" ? { reason: "the caption is empty" } : { caption };
  } catch (error) {
    return {
      reason: error instanceof TypeError ? "the caption is not UTF-8 text" : (error as Error).message,
    };
  }
}

async function readCaptionLines(
  directory: string,
  name: string,
  known: ReadonlySet<string>,
  captions: Map<string, string>,
  problems: SkippedFile[],
): Promise<void> {
  const folder = posix.dirname(name);
  const lines = (await readFile(join(directory, name), "utf8")).split("\n");
  for (const [number, line] of lines.entries()) {
    if (line.trim() === "") continue;
    const reason = takeCaptionLine(line, (file, caption) => {
      const media = posix.normalize(folder === "." ? file : `${folder}/${file}`);
      if (!known.has(media)) return `names ${JSON.stringify(file)}, which is not there`;
      captions.set(media, caption);
      return null;
    });
    if (reason !== null) problems.push({ name, reason: `line ${number + 1} ${reason}` });
  }
}

/** Gives one line's file and caption to `take`; returns what is wrong with the line, or null. */
function takeCaptionLine(
  line: string,
  take: (file: string, caption: string) => string | null,
): string | null {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return "is not JSON";
  }
  const { file, caption } = (value ?? {}) as { file?: unknown; caption?: unknown };
  if (typeof file !== "string" || typeof caption !== "string") return 'has no text "file" and "caption"';
  if (caption.trim() === "") return "has an empty caption";
  return take(file, caption.trim());
}

/** Order that no locale changes. */
function byCodeUnits(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
