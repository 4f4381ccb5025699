import type { ComponentChildren } from "preact";
import type { Job } from "../api.js";
import { ago, compact, duration, layoutText, loss, plural, UNKNOWN } from "../format.js";
import { OVER } from "../live.js";
import type { Story } from "../story.js";
import { useNow } from "../use_known.js";

/** Points over which the pace is shown. */
const PACE_POINTS = 20;

/** The figures one looks for first. */
export function Stats({ job, story }: { job: Job; story: Story }) {
  const now = useNow();
  const last = story.points.at(-1);
  const recent = story.points.slice(-PACE_POINTS);
  const sum = (name: "step_seconds" | "steps" | "tokens") =>
    recent.reduce((total, point) => total + (point[name] ?? 0), 0);
  const seconds = sum("step_seconds");
  const newest = story.checkpoints.find(({ unusable }) => unusable === null);
  const isOver = OVER.has(job.phase);
  const ranks = job.rank_nodes.length;
  const lost = story.incidents.reduce((total, { steps_lost }) => total + (steps_lost ?? 0), 0);
  return (
    <dl class="stats">
      <Stat name="Loss" value={loss(last?.loss ?? job.loss)}>
        gradient norm {loss(last?.grad_norm ?? job.grad_norm)}
      </Stat>
      <Stat
        name={isOver ? "Tokens/s at the end" : "Tokens/s"}
        value={seconds > 0 ? compact(sum("tokens") / seconds) : UNKNOWN}
      >
        {compact(story.points.reduce((total, { tokens }) => total + (tokens ?? 0), 0))} tokens so far
      </Stat>
      <Stat name="Step time" value={seconds > 0 ? duration(seconds / sum("steps")) : UNKNOWN}>
        learning rate {last?.learning_rate == null ? UNKNOWN : last.learning_rate.toPrecision(2)}
      </Stat>
      <Stat name="Layout" value={layoutText(job.layout)}>
        {ranks > 0
          ? `${plural(ranks, "rank")}, generation ${job.generation}`
          : "replicas × shards × sequence"}
      </Stat>
      <Stat name="Checkpoint" value={newest === undefined ? UNKNOWN : `step ${newest.step}`}>
        {newest === undefined ? "none yet" : ago(newest.committed_at, now)}
      </Stat>
      <Stat name="Incidents" value={String(story.incidents.length)}>
        {story.incidents.length === 0 ? "nothing went wrong" : `${plural(lost, "step")} lost`}
      </Stat>
    </dl>
  );
}

function Stat({ name, value, children }: { name: string; value: string; children: ComponentChildren }) {
  return (
    <div class="card stat">
      <dt>{name}</dt>
      <dd class="value">{value}</dd>
      <dd class="muted">{children}</dd>
    </div>
  );
}
