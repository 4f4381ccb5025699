import { useState } from "preact/hooks";
import type { ClusterEvent } from "../api.js";
import { clock } from "../format.js";
import { useKnown } from "../use_known.js";
import { ScrollBox } from "./scroll_box.js";

const SHOWN_MAX = 200;

/** What happened, newest first, each with its reason. Events of the cluster stand beside those of the job. */
export function Events({ name }: { name: string }) {
  const { events } = useKnown();
  const [kind, setKind] = useState("");
  const here = events.filter(({ job }) => job === null || job === name);
  const kinds = [...new Set(here.map((event) => event.kind))].sort();
  const shown = here.filter((event) => kind === "" || event.kind === kind).slice(-SHOWN_MAX);
  return (
    <section class="card events-card" aria-labelledby="events-title">
      <div class="card-head">
        <h2 id="events-title">Events</h2>
        {kinds.length > 1 && (
          <label>
            <span class="visually-hidden">Kind of events</span>
            <select value={kind} onChange={(event) => setKind(event.currentTarget.value)}>
              <option value="">all kinds</option>
              {kinds.map((one) => (
                <option key={one} value={one}>
                  {one}
                </option>
              ))}
            </select>
          </label>
        )}
      </div>
      {shown.length === 0 ? (
        <p class="nothing">Nothing has happened since this controller started</p>
      ) : (
        <ScrollBox class="scrolls" name="Events, newest first">
          <ol class="events">
            {shown.toReversed().map((event) => (
              <EventLine key={event.id} event={event} />
            ))}
          </ol>
        </ScrollBox>
      )}
    </section>
  );
}

function EventLine({ event: { kind, time, message } }: { event: ClusterEvent }) {
  return (
    <li>
      <time dateTime={time ?? ""}>{clock(time)}</time>
      <span class={`kind ${kind}`}>{kind}</span>
      <span class="text">{message}</span>
    </li>
  );
}
