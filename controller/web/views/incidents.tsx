import { useState } from "preact/hooks";
import type { Incident } from "../api.js";
import { clock, plain, plural } from "../format.js";
import type { Story } from "../story.js";
import { ScrollBox } from "./scroll_box.js";

const OUTCOMES: Record<Incident["outcome"], string> = {
  UNSPECIFIED: "not known",
  OPEN: "open: not recovered yet",
  RECOVERED: "recovered",
  FAILED: "not recovered: the job ended",
};

/** The last incident as `gokuctl why` tells it, and the others behind a choice. */
export function Incidents({ story: { incidents } }: { story: Story }) {
  const [chosen, setChosen] = useState<number | null>(null);
  const at = chosen !== null && chosen < incidents.length ? chosen : incidents.length - 1;
  const incident = incidents[at];
  return (
    <section class="card" aria-labelledby="why-title">
      <div class="card-head">
        <h2 id="why-title">Why</h2>
        {incidents.length > 1 && (
          <label>
            <span class="visually-hidden">Incident</span>
            <select value={at} onChange={(event) => setChosen(Number(event.currentTarget.value))}>
              {incidents.map(({ detected_at, code }, i) => (
                <option key={i} value={i}>
                  {i + 1} of {incidents.length}: {clock(detected_at)} {code}
                </option>
              ))}
            </select>
          </label>
        )}
      </div>
      {incident === undefined ? (
        <p class="nothing">
          No incident so far. When something breaks, this tells what, who saw it, and what was decided.
        </p>
      ) : (
        <IncidentText incident={incident} />
      )}
    </section>
  );
}

function IncidentText({ incident }: { incident: Incident }) {
  const { what, code, rank, node_id, decision, steps_lost, outcome, detected_at } = incident;
  const where = [rank === null ? null : `rank ${rank}`, node_id].filter(Boolean).join(" on ");
  return (
    <div class="incident" data-outcome={outcome}>
      <p class="what">
        <span class={`badge ${outcome.toLowerCase()}`}>{OUTCOMES[outcome]}</span> {what}
      </p>
      <Timeline incident={incident} />
      <dl class="fields">
        <dt>when</dt>
        <dd>
          {clock(detected_at)}, after step {incident.step_before}
        </dd>
        <dt>code</dt>
        <dd>
          <code>{code}</code>
        </dd>
        {where !== "" && (
          <>
            <dt>where</dt>
            <dd>{where}</dd>
          </>
        )}
        <dt>decided</dt>
        <dd>{decision === "" ? "nothing yet" : decision}</dd>
        <dt>generation</dt>
        <dd>
          {incident.generation_before} → {incident.generation_after ?? "none formed"}
        </dd>
        <dt>steps lost</dt>
        <dd>{steps_lost ?? "not known"}</dd>
      </dl>
      <Lines title="Seen by" lines={incident.evidence} isOpen />
      <Lines title="Last lines" lines={incident.last_lines} />
      {incident.stacks.map((stack) => (
        <Lines
          key={`${stack.rank} ${stack.node_id}`}
          title={`Rank ${stack.rank} on ${stack.node_id} when it was ended`}
          lines={stack.lines}
        />
      ))}
    </div>
  );
}

/** From detection to the next completed step, each part as long as it took. */
function Timeline({ incident: { milestones } }: { incident: Incident }) {
  const ordered = [...milestones].sort((a, b) => a.after_ms - b.after_ms);
  const total = ordered.at(-1)?.after_ms ?? 0;
  if (total === 0) return null;
  return (
    <figure class="timeline">
      <figcaption class="visually-hidden">From detection to the next completed step</figcaption>
      <div class="shares" aria-hidden="true">
        {ordered.slice(1).map(({ name, after_ms }, i) => (
          <i
            key={name}
            class={`key stage-${i}`}
            style={{ width: `${(100 * (after_ms - ordered[i]!.after_ms)) / total}%` }}
            title={name}
          />
        ))}
      </div>
      <ol class="keys">
        {ordered.slice(1).map(({ name, after_ms }, i) => (
          <li key={name}>
            <i class={`key stage-${i}`} />
            {name} <b>{(after_ms / 1000).toFixed(2)} s</b>
          </li>
        ))}
      </ol>
    </figure>
  );
}

function Lines({ title, lines, isOpen = false }: { title: string; lines: string[]; isOpen?: boolean }) {
  if (lines.length === 0) return null;
  return (
    <details open={isOpen && lines.length < 6}>
      <summary>
        {title} <span class="muted">{plural(lines.length, "line")}</span>
      </summary>
      <ScrollBox class="log" name={title}>
        <pre>{lines.map(plain).join("\n")}</pre>
      </ScrollBox>
    </details>
  );
}
