import { isAbsolute, resolve } from "node:path";
import type { Job } from "./job.js";

/** The same job with data.media and checkpoint.uri absolute, so that agents and ranks may run in any folder. */
export function absolutePaths(job: Job, directory: string): Job {
  const absolute = (path: string) => (isAbsolute(path) ? path : resolve(directory, path));
  const { uri: given } = job.checkpoint;
  const uri = given.startsWith("file://")
    ? `file://${absolute(given.slice("file://".length))}`
    : given.replace(/\/+$/, "");
  return {
    ...job,
    data: { ...job.data, media: absolute(job.data.media) },
    checkpoint: { ...job.checkpoint, uri },
  };
}
