import type { WatchEventsResponse } from "../../gen/goku/v1/controller.pb.js";
import { GokuError } from "../../job/errors.js";
import type { ControllerApi } from "./controller_api.js";
import type { NotLeaderError } from "./not_leader_error.js";

/** A reader slower than this many waiting events is cut off, so that one of them never fills the controller's memory. */
const BACKLOG_MAX = 10_000;

export interface EventsRequest {
  /** Empty: all jobs. */
  job: string;
  afterId: bigint;
  follow: boolean;
  /** Of past events, only the newest so many that are no steps; null: all. A page has the steps as curves. */
  pastMax: number | null;
}

/**
 * Past events, then new ones as they happen, in order and without gaps. Ends after the past events unless `follow`;
 * ends when the job is over. Both event streams (gRPC and SSE) are this one. Throws NOT_LEADER at once where this controller
 * neither leads nor remembers, NOT_FOUND for an unknown job; the stream throws when its reader is too slow, and when another controller
 * leads, which alone has news from then on.
 */
export function followEvents(
  api: ControllerApi,
  request: EventsRequest,
  signal: AbortSignal,
): AsyncGenerator<WatchEventsResponse> {
  api.requireKnowledge();
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
  let away: NotLeaderError | null = null;
  const stopWatching = api.onOtherLeads((error) => {
    away = error;
    wake();
  });
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
    for (const event of pastEvents(api, request)) {
      yield event;
      last = event.id;
    }
    while (request.follow && !signal.aborted) {
      if (overflowed) throw tooSlow(last);
      if (away !== null) throw away;
      for (const event of backlog.splice(0)) {
        if (event.id <= last) continue;
        yield event;
        last = event.id;
      }
      if (request.job !== "" && backlog.length === 0 && api.isOver(request.job)) return;
      if (backlog.length > 0) continue;
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (signal.aborted || backlog.length > 0 || away !== null) resolve();
      });
    }
  } finally {
    stop();
    stopWatching();
    signal.removeEventListener("abort", onAbort);
  }
}

function pastEvents(api: ControllerApi, { job, afterId, pastMax }: EventsRequest): WatchEventsResponse[] {
  const past = api.pastEvents(job, afterId);
  if (pastMax === null || pastMax === 0) return pastMax === null ? past : [];
  return past.filter(({ step }) => step === undefined).slice(-pastMax);
}

function tooSlow(last: bigint): GokuError {
  return new GokuError(
    "CONTROLLER_UNREACHABLE",
    `Cannot go on with the events: more than ${BACKLOG_MAX} wait for this reader; read on after event ${last}`,
  );
}
