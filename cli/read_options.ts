import { readFileSync, statSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { AnyJob } from "../job/command_job.js";
import { GokuError } from "../job/errors.js";
import type { Job } from "../job/job.js";
import { loadAnyJob, loadJob } from "../job/load_job.js";

/** A whole number from the command line. Throws ARGUMENT_INVALID naming the option. */
export function wholeNumber(
  option: string,
  text: string,
  { least = 0, most = Number.MAX_SAFE_INTEGER }: { least?: number; most?: number } = {},
): number {
  const value = Number(text);
  if (text.trim() !== "" && Number.isInteger(value) && value >= least && value <= most) return value;
  const wanted = most < Number.MAX_SAFE_INTEGER ? `from ${least} to ${most}` : `of at least ${least}`;
  throw new GokuError(
    "ARGUMENT_INVALID",
    `Cannot read ${option}: found "${text}", want a whole number ${wanted}`,
  );
}

/** Two whole numbers of at least 1 with an x between them, for example 2x2. */
export function wholePair(option: string, text: string, wanted: string): [number, number] {
  const match = /^([1-9]\d{0,8})x([1-9]\d{0,8})$/.exec(text);
  if (match) return [Number(match[1]), Number(match[2])];
  throw new GokuError("ARGUMENT_INVALID", `Cannot read ${option}: found "${text}", want ${wanted}`);
}

const BYTE_UNITS: Readonly<Record<string, number>> = {
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
};

/** A size such as 5GB, 512MiB or 1000000. Throws ARGUMENT_INVALID naming the option. */
export function byteSize(option: string, text: string): number {
  const match = /^(\d{1,12}(?:\.\d{1,6})?) ?([KMGT]?i?B)?$/i.exec(text.trim());
  const value = match ? Math.floor(Number(match[1]) * (BYTE_UNITS[(match[2] ?? "B").toUpperCase()] ?? 0)) : 0;
  if (value >= 1 && Number.isSafeInteger(value)) return value;
  const want = "want a size such as 5GB, 512MiB or 1000000";
  throw new GokuError("ARGUMENT_INVALID", `Cannot read ${option}: found "${text}", ${want}`);
}

/** One of a few words. Throws ARGUMENT_INVALID naming the option. */
export function oneWord<W extends string>(option: string, text: string, words: readonly W[]): W {
  const found = words.find((word) => word === text);
  if (found !== undefined) return found;
  const want = `want ${words.join(" or ")}`;
  throw new GokuError("ARGUMENT_INVALID", `Cannot read ${option}: found "${text}", ${want}`);
}

/** The URI of a checkpoint or run: a path or a file:// URI, made absolute, or an s3:// URI. */
export function checkpointUri(text: string): string {
  if (/^[a-z0-9]+:\/\//.test(text))
    return text.startsWith("file://") ? `file://${path.resolve(text.slice(7))}` : text;
  return `file://${path.resolve(text)}`;
}

/** Storage creates folders when it first writes, so that to it one that is not there is empty; a person has mistyped. */
export function requireFolder(doing: string, dir: string, uri: string): void {
  if (!uri.startsWith("file://") || statSync(uri.slice(7), { throwIfNoEntry: false })?.isDirectory()) return;
  throw new GokuError("NOT_FOUND", `Cannot ${doing} ${dir}: there is no such folder, check the path`);
}

/** For options that may be given several times. */
export function collect(value: string, all: string[]): string[] {
  return [...all, value];
}

/** The job in a file, with dotted overrides, whoever trains it. Throws NOT_FOUND, JOB_INVALID. */
export function readAnyJob(file: string, overrides: readonly string[]): AnyJob {
  return loadAnyJob(readText(file), overrides, { file });
}

/** The same, of our model. Throws NOT_FOUND, JOB_INVALID. */
export function readJob(file: string, overrides: readonly string[]): Job {
  return loadJob(readText(file), overrides, { file });
}

function readText(file: string): string {
  try {
    return readFileSync(file.startsWith("file://") ? fileURLToPath(file) : file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT")
      throw new GokuError("NOT_FOUND", `Cannot read job file ${file}: it does not exist`);
    throw new GokuError("ARGUMENT_INVALID", `Cannot read job file ${file}: ${(error as Error).message}`);
  }
}
