import type { StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import type { WatchEventsResponse } from "../../gen/goku/v1/controller.pb.js";

const KEPT_MAX = 10_000;

/** What happened, as people read it: the newest events in memory, numbered without gaps, for streams and pages. */
export class EventLog {
  #events: WatchEventsResponse[] = [];
  #last: bigint;
  #listeners = new Set<(event: WatchEventsResponse) => void>();

  /** Ids start at the time of start, so that they grow over restarts of the controller and a reader can resume. */
  constructor(startMs: number) {
    this.#last = BigInt(Math.floor(startMs)) * 1000n;
  }

  add(entry: { timeMs: number; job: string; kind: string; message: string; step?: StepCompleted }): void {
    const event: WatchEventsResponse = {
      id: ++this.#last,
      time: new Date(entry.timeMs),
      job: entry.job,
      kind: entry.kind,
      message: entry.message,
      step: entry.step,
    };
    this.#events.push(event);
    if (this.#events.length > KEPT_MAX) this.#events.splice(0, KEPT_MAX / 10);
    for (const listener of this.#listeners) listener(event);
  }

  past(job: string, afterId: bigint): WatchEventsResponse[] {
    return this.#events.filter((event) => event.id > afterId && (job === "" || event.job === job));
  }

  listen(callback: (event: WatchEventsResponse) => void): () => void {
    this.#listeners.add(callback);
    return () => void this.#listeners.delete(callback);
  }
}
