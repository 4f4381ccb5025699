import type { AnyJob } from "../../job/command_job.js";
import { GokuError } from "../../job/errors.js";
import { API_VERSION, KIND, RESUME_ANNOTATION } from "./training_job.js";

/** A job as the object that stands for it. Throws JOB_INVALID where a path is relative: pods have no folder of the caller's. */
export function trainingJobOf(job: AnyJob, resumeUri: string | null) {
  const paths =
    "trainer" in job
      ? []
      : [
          ["data.media", job.data.media],
          ["checkpoint.uri", job.checkpoint.uri.replace(/^file:\/\//, "")],
        ];
  for (const [key, value] of paths)
    if (!value!.startsWith("/") && !value!.includes("://"))
      throw new GokuError(
        "JOB_INVALID",
        `Cannot apply job ${job.name}: ${key} is ${JSON.stringify(value)}, want an absolute path: pods have no folder to start from`,
      );
  const { name, ...spec } = job;
  const annotations = resumeUri === null ? {} : { annotations: { [RESUME_ANNOTATION]: resumeUri } };
  return { apiVersion: API_VERSION, kind: KIND, metadata: { name, ...annotations }, spec };
}
