import type { WatchEventsResponse } from "../../gen/goku/v1/controller.pb.js";
import { GokuError } from "../../job/errors.js";
import type { ControllerApi } from "./controller_api.js";

/** A reader slower than this many waiting events is cut off, so that one of them never fills the controller's memory. */
const BACKLOG_MAX = 10_000;

export interface EventsRequest {
  /** Empty: all jobs. */
  job: string;
  afterId: bigint;
  follow: boolean;
}

/**
 * Past events, then new ones as they happen, in order and without gaps. Ends after the past events unless `follow`;
 * ends when the job is over. Both event streams (gRPC and SSE) are this one. Throws NOT_FOUND at once for an unknown
 * job; the stream throws when its reader is too slow.
 */
export function followEvents(
  api: ControllerApi,
  request: EventsRequest,
  signal: AbortSignal,
): AsyncGenerator<WatchEventsResponse> {
  if (request.job !== "") api.isOver(request.job);
  return follow(api, request, signal);
}

async function* follow(
  api: ControllerApi,
  request: EventsRequest,
  signal: AbortSignal,
): AsyncGenerator<WatchEventsResponse> {
  const backlog: WatchEventsResponse[] = [];
  let wake: () => void = () => {};
  let overflowed = false;
  const stop = api.onEvent((event) => {
    if (request.job !== "" && event.job !== request.job) return;
    if (backlog.length >= BACKLOG_MAX) overflowed = true;
    else backlog.push(event);
    wake();
  });
  const onAbort = () => wake();
  signal.addEventListener("abort", onAbort);
  try {
    let last = request.afterId;
    for (const event of api.pastEvents(request.job, request.afterId)) {
      yield event;
      last = event.id;
    }
    while (request.follow && !signal.aborted) {
      if (overflowed) throw tooSlow(last);
      for (const event of backlog.splice(0)) {
        if (event.id <= last) continue;
        yield event;
        last = event.id;
      }
      if (request.job !== "" && backlog.length === 0 && api.isOver(request.job)) return;
      if (backlog.length > 0) continue;
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (signal.aborted || backlog.length > 0) resolve();
      });
    }
  } finally {
    stop();
    signal.removeEventListener("abort", onAbort);
  }
}

function tooSlow(last: bigint): GokuError {
  return new GokuError(
    "CONTROLLER_UNREACHABLE",
    `Cannot go on with the events: more than ${BACKLOG_MAX} wait for this reader; read on after event ${last}`,
  );
}
