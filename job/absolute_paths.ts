import { isAbsolute, resolve } from "node:path";
import { type AnyJob, type CommandJob, isCommandJob } from "./command_job.js";
import type { Job } from "./job.js";

/** The same job with data.media, checkpoint.uri and trainer.cwd absolute, so that agents and ranks may run in any folder. */
export function absolutePaths<J extends AnyJob>(job: J, directory: string): J;
export function absolutePaths(job: AnyJob, directory: string): AnyJob {
  return isCommandJob(job) ? programPaths(job, directory) : modelPaths(job, directory);
}

function programPaths(job: CommandJob, directory: string): CommandJob {
  return { ...job, trainer: { ...job.trainer, cwd: resolve(directory, job.trainer.cwd) } };
}

function modelPaths(job: Job, directory: string): Job {
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
