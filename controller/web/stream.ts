import { EventSourceParserStream } from "eventsource-parser/stream";
import { ApiError, ask, type ClusterEvent } from "./api.js";

/** Past events that a page begins with; steps come as curves. */
const PAST_MAX = 500;
const RETRY_MS = { first: 250, most: 4_000 };
/** The controller sends a comment every 15 s; what is silent for longer is gone without a word. */
const SILENCE_MS = 35_000;

export interface StreamHandlers {
  /** The stream stands. What is fetched from now on has no gap to the events that come. */
  onOpen(): void;
  onEvent(event: ClusterEvent): void;
  /** It ended; it is tried again unless it was refused for want of credentials. */
  onDown(error: ApiError): void;
}

/**
 * The controller's events for as long as the page lives, over fetch, since an EventSource can show no token. After a break it
 * goes on behind the last event that came (Last-Event-ID), also with a controller that took over.
 */
export function followEvents(handlers: StreamHandlers): void {
  let lastId = "";
  let waitMs = RETRY_MS.first;
  const once = async () => {
    const headers: Record<string, string> = { accept: "text/event-stream" };
    if (lastId !== "") headers["last-event-id"] = lastId;
    const ends = new AbortController();
    const silence = watchSilence(() => ends.abort());
    try {
      const { signal } = ends;
      const response = await ask(`/v1/events?past=${PAST_MAX}`, { headers, signal });
      handlers.onOpen();
      waitMs = RETRY_MS.first;
      const heard = new TransformStream<Uint8Array, Uint8Array>({
        transform(chunk, out) {
          silence.heard();
          out.enqueue(chunk);
        },
      });
      const parsed = response
        .body!.pipeThrough(heard)
        .pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>)
        .pipeThrough(new EventSourceParserStream());
      const reader = parsed.getReader();
      for (let next = await reader.read(); !next.done; next = await reader.read()) {
        lastId = next.value.id ?? lastId;
        handlers.onEvent(JSON.parse(next.value.data) as ClusterEvent);
      }
    } finally {
      silence.stop();
      ends.abort();
    }
  };
  const forever = async () => {
    for (;;) {
      const error = await once().then(
        () => new ApiError("UNREACHABLE", "The controller ended the stream of events"),
        (cause: unknown) =>
          cause instanceof ApiError ? cause : new ApiError("UNREACHABLE", "The controller does not answer"),
      );
      handlers.onDown(error);
      if (error.isRefusal) return; // asking again without another token would only fill the audit
      await new Promise((resolve) => setTimeout(resolve, waitMs));
      waitMs = Math.min(RETRY_MS.most, 2 * waitMs);
    }
  };
  void forever();
}

function watchSilence(onSilent: () => void): { heard(): void; stop(): void } {
  let timer = setTimeout(onSilent, SILENCE_MS);
  return {
    heard: () => {
      clearTimeout(timer);
      timer = setTimeout(onSilent, SILENCE_MS);
    },
    stop: () => clearTimeout(timer),
  };
}
