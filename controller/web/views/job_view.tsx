import { useMemo } from "preact/hooks";
import { api, type Job } from "../api.js";
import { OVER } from "../live.js";
import { storyOf } from "../story.js";
import { useKnown } from "../use_known.js";
import { Charts } from "./charts.js";
import { Checkpoints } from "./checkpoints.js";
import { useQuestion } from "./confirm.js";
import { Events } from "./events.js";
import { Incidents } from "./incidents.js";
import { PhaseBadge } from "./phase_badge.js";
import { Progress } from "./progress.js";
import { RankPanel } from "./rank_panel.js";
import { RanksCard } from "./ranks_card.js";
import { Samples } from "./samples.js";
import { Stats } from "./stats.js";

/** More ranks take the whole width. */
const WIDE_RANKS = 128;

/** All runs of one name as one story: what the newest does now, and how it came to that. */
export function JobView({ name, runs, rank }: { name: string; runs: Job[]; rank: number | null }) {
  const known = useKnown();
  const job = runs.at(-1)!;
  const story = useMemo(() => storyOf(runs, known), [runs, known.curves, known.incidents, known.checkpoints]);
  const open = story.incidents.findLast(({ outcome }) => outcome === "OPEN");
  const ranks = known.ranks.get(job.id) ?? null;
  // The same element is not rendered anew: steps come more often than news of ranks, and thousands take their time.
  const ranksCard = useMemo(() => <RanksCard job={job} ranks={ranks} />, [job, ranks]);
  const isLarge = job.rank_nodes.length > WIDE_RANKS;
  return (
    <article class="job">
      <JobHeader job={job} />
      {open !== undefined && (
        <p class="banner bad" role="alert" data-incident={open.id}>
          <strong>{open.what}</strong> {open.decision === "" ? "Finding out what follows…" : open.decision}
        </p>
      )}
      <Progress runs={runs} story={story} />
      <Stats job={job} story={story} />
      <Charts story={story} />
      {isLarge && ranksCard}
      <div class="columns">
        <div class="stack">
          {isLarge ? <Incidents story={story} /> : ranksCard}
          {!isLarge && <Events name={name} />}
        </div>
        <div class="stack">
          {!isLarge && <Incidents story={story} />}
          <Checkpoints story={story} />
          {isLarge && <Events name={name} />}
        </div>
      </div>
      <Samples key={job.id} job={job} />
      {rank !== null && <RankPanel key={rank} job={job} rank={rank} />}
    </article>
  );
}

function JobHeader({ job }: { job: Job }) {
  return (
    <div class="job-header">
      <div>
        <h1>
          {job.name} <PhaseBadge phase={job.phase} />
        </h1>
        <p class="reason">{job.reason}</p>
        {job.error !== null && (
          <p class="bad-text">
            {job.error.code}: {job.error.message}
          </p>
        )}
      </div>
      <JobActions job={job} />
    </div>
  );
}

function JobActions({ job }: { job: Job }) {
  const { me } = useKnown();
  const { ask, shown, said } = useQuestion();
  const { id, name, phase } = job;
  if (OVER.has(phase) || me?.role !== "operate") return null;
  const save = () =>
    ask({
      title: `Make a checkpoint of ${name} now?`,
      text: "The next step's state is written to durable storage. Training does not wait for that.",
      act: "Checkpoint now",
      isHarsh: false,
      run: () => api.save(id),
      done: "A checkpoint is being made",
    });
  const stop = () =>
    ask({
      title: `Stop ${name}?`,
      text: "It makes a checkpoint at its next step and ends. Where that would take longer than 30 seconds, the newest state in memory is saved. It can be resumed from that on any number of ranks.",
      act: "Save and stop",
      isHarsh: true,
      run: () => api.stop(id),
      done: "It saves and stops",
    });
  return (
    <div class="actions">
      <span role="status" class="muted">
        {said}
      </span>
      <button type="button" onClick={save} disabled={phase === "STOPPING"}>
        Checkpoint now
      </button>
      <button type="button" class="harsh" onClick={stop} disabled={phase === "STOPPING"}>
        Stop
      </button>
      {shown}
    </div>
  );
}
