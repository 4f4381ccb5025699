import type { Job } from "../api.js";
import { duration, layoutText, UNKNOWN, whole } from "../format.js";
import { OVER } from "../live.js";
import type { Story } from "../story.js";
import { phaseText } from "./phase_badge.js";

const PARTS_MAX = 6;

/** How far it is, when it will be there, and which run did what part of the way. */
export function Progress({ runs, story }: { runs: Job[]; story: Story }) {
  const job = runs.at(-1)!;
  const last = story.points.at(-1)?.step ?? 0;
  const step = OVER.has(job.phase) ? job.step : Math.max(job.step, job.phase === "RUNNING" ? last : 0);
  const total = job.steps_total;
  const share = total > 0 ? Math.min(1, step / total) : 0;
  return (
    <section class="card progress" aria-label="Progress">
      <div class="progress-line">
        <span class="progress-step">
          <strong data-step={step}>{whole(step)}</strong>
          {total > 0 && <span class="muted"> of {whole(total)} steps</span>}
        </span>
        <span class="muted">{rightText(job, share)}</span>
      </div>
      {total > 0 && (
        <div
          class="bar"
          role="progressbar"
          aria-label={`Steps of ${job.name}`}
          aria-valuemin={0}
          aria-valuemax={total}
          aria-valuenow={step}
        >
          <span class={job.phase.toLowerCase()} style={{ width: `${100 * share}%` }} />
          {story.marks.map(({ step: at, kind, text }) => (
            <i
              key={`${kind} ${at} ${text}`}
              class={kind}
              style={{ left: `${(100 * at) / total}%` }}
              title={text}
            />
          ))}
        </div>
      )}
      {runs.length > 1 && <Runs story={story} />}
    </section>
  );
}

function rightText(job: Job, share: number): string {
  const percent = job.steps_total > 0 ? `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %` : "";
  if (OVER.has(job.phase)) return percent;
  const eta = job.eta_seconds === null ? `ETA ${UNKNOWN}` : `ETA ${duration(Math.round(job.eta_seconds))}`;
  return [percent, eta].filter(Boolean).join("  ·  ");
}

/** Runs of one name, oldest first. */
function Runs({ story }: { story: Story }) {
  const shown = story.runs.slice(-PARTS_MAX);
  const offset = story.runs.length - shown.length;
  return (
    <ol class="runs" aria-label="Runs">
      {shown.map(({ job, firstStep }, i) => (
        <li key={job.id}>
          <span class={`dot ${job.phase.toLowerCase()}`} aria-hidden="true" />
          <span>
            <strong>Run {offset + i + 1}</strong>
            {firstStep !== null && firstStep > 1 ? `, from step ${whole(firstStep - 1)}` : ""}
            {job.layout !== null && `, ${layoutText(job.layout)}`}
            {`, ${phaseText(job.phase).toLowerCase()}`}
            {OVER.has(job.phase) && ` at step ${whole(job.step)}`}
          </span>
        </li>
      ))}
    </ol>
  );
}
