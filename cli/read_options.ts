import { readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { GokuError } from "../job/errors.js";
import type { Job } from "../job/job.js";
import { loadJob } from "../job/load_job.js";

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

/** The URI of a checkpoint or run: a path or a file:// URI, made absolute, or an s3:// URI. */
export function checkpointUri(text: string): string {
  if (/^[a-z0-9]+:\/\//.test(text))
    return text.startsWith("file://") ? `file://${path.resolve(text.slice(7))}` : text;
  return `file://${path.resolve(text)}`;
}

/** For options that may be given several times. */
export function collect(value: string, all: string[]): string[] {
  return [...all, value];
}

/** The job in a file, with dotted overrides. Throws NOT_FOUND, JOB_INVALID. */
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
