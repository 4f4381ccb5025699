import { setTimeout as sleep } from "node:timers/promises";
import type { JobStatus, WatchEventsResponse } from "../gen/goku/v1/controller.pb.js";
import { ERRORS, GokuError } from "../job/errors.js";
import type { ControllerClient } from "./client.js";
import { isOver } from "./format_job.js";

/** A controller that is silent for this long will not come back by itself. */
const PATIENCE_MS = 60_000;
const RETRY_MS = 100;

export interface FollowOptions {
  /** Id of the last event already seen. */
  afterId?: bigint;
  /** The job as it was when its events were asked for; last when it is over. */
  onStatus?: (job: JobStatus) => void;
  /** Once for each absence of the controller. */
  onAway?: (error: Error) => void;
  signal?: AbortSignal;
}

/**
 * Events of the newest job of that name, from its submission until it is over; events of an earlier job of the name are
 * left out. Training goes on without its controller, and so does this: while nobody answers it tries again, and resumes
 * after the last event it saw. Throws what it was told last when that lasts longer than a controller needs to start again.
 */
export async function* followJob(
  client: ControllerClient,
  name: string,
  { afterId = 0n, onStatus = () => {}, onAway = () => {}, signal }: FollowOptions = {},
): AsyncGenerator<WatchEventsResponse> {
  let jobId: string | null = null;
  let eventLast = afterId;
  let awaySinceMs: number | null = null;
  while (!signal?.aborted) {
    try {
      // Asked first: once the job is over, the events read after that are all there are.
      const { job } = await client.call("getJob", { name });
      if (!job || (jobId !== null && job.id !== jobId)) return;
      jobId = job.id;
      onStatus(job);
      awaySinceMs = null;
      const follow = !isOver(job.phase);
      for await (const event of client.events({ job: job.name, afterId: eventLast, follow }, signal)) {
        eventLast = event.id;
        if (job.submittedAt && event.time && event.time < job.submittedAt) continue;
        yield event;
      }
      if (!follow) return;
    } catch (error) {
      if (!(error instanceof GokuError && ERRORS[error.code].retriable)) throw error;
      if (awaySinceMs === null) onAway(error);
      awaySinceMs ??= performance.now();
      if (performance.now() - awaySinceMs > PATIENCE_MS) throw error;
    }
    await sleep(RETRY_MS);
  }
}
