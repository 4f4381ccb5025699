import { createHash } from "node:crypto";

/**
 * What ranks of a job name when they connect to each other, instead of its id: it follows from the job's secret, so that who
 * merely knows the job, or scans its ports, joins no group. It crosses the network in plain text, and so is not the secret. Pure.
 */
export function collectiveKey(jobId: string, secret: string): string {
  return createHash("sha256").update(`collectives ${jobId} ${secret}`).digest("hex");
}
