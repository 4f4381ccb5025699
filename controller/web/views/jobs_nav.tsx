import type { Job } from "../api.js";
import { duration, plural } from "../format.js";
import { jobHash } from "../route.js";
import { phaseText } from "./phase_badge.js";

/** Names, newest first; each leads to all of its runs. */
export function JobsNav({
  jobs,
  chosen,
  isNodes,
}: {
  jobs: Job[] | null;
  chosen: string | null;
  isNodes: boolean;
}) {
  const newest = new Map((jobs ?? []).map((job) => [job.name, job]));
  const names = [...new Set((jobs ?? []).map(({ name }) => name).reverse())];
  return (
    <nav aria-label="Jobs and nodes">
      <h2>Jobs</h2>
      <ul>
        {names.map((name) => (
          <li key={name}>
            <a href={jobHash(name)} aria-current={name === chosen ? "page" : undefined}>
              <JobLine
                job={newest.get(name)!}
                runs={(jobs ?? []).filter((job) => job.name === name).length}
              />
            </a>
          </li>
        ))}
        {names.length === 0 && <li class="muted">none yet</li>}
      </ul>
      <h2>Cluster</h2>
      <ul>
        <li>
          <a href="#/nodes" aria-current={isNodes ? "page" : undefined}>
            <span class="job-name">Nodes</span>
          </a>
        </li>
      </ul>
    </nav>
  );
}

function JobLine({ job, runs }: { job: Job; runs: number }) {
  const { phase, step, steps_total: total, eta_seconds: eta } = job;
  const share = total > 0 ? Math.min(1, step / total) : 0;
  return (
    <>
      <span class="job-name">
        <span class={`dot ${phase.toLowerCase()}`} aria-hidden="true" />
        {job.name}
      </span>
      <span class="muted">
        {phaseText(phase)}
        {runs > 1 && `, ${plural(runs, "run")}`}
        {eta !== null && `, ${duration(eta)} left`}
      </span>
      {total > 0 && (
        <span class="thin-bar" aria-hidden="true">
          <span style={{ width: `${100 * share}%` }} />
        </span>
      )}
    </>
  );
}
