import type { StateName } from "./contract.js";
import type { JobState } from "./state.js";
import { stateText } from "./state_name.js";
import { log, observe, type Turn } from "./turn.js";
import type { Report } from "./wire.js";

/**
 * Twins that differ: their states go on differing, whoever is right, and every later checkpoint has the part of one of them. Training
 * goes on, since to stop it mends nothing and a person decides how far to go back; but what is restored from now on is not trusted
 * silently.
 */
export function onTwinsDiffer(turn: Turn, job: JobState, report: Report & { kind: "twinsDiffer" }): void {
  const { number, rankNodes } = job.generation!;
  const { state, ranks, odd, tensor, start, length, chunks, equal } = report;
  if (job.doubt?.toldIn === number) return;
  const named = (some: readonly number[]) =>
    some.map((rank) => `rank ${rank} on ${rankNodes[rank] ?? "no node"}`).join(", ");
  const more = chunks > 1 ? ` and ${chunks - 1} more chunks of a MiB` : "";
  const where = `${tensor} [${start}, ${start + length})${more}`;
  const who =
    odd.length > 0
      ? `most contradict ${named(odd)}`
      : "which of them is right cannot be told from their states";
  const since =
    equal === null ? "this generation had not compared before" : `at step ${equal} they were the same`;
  // Only a comparison bounds it: what this generation began with may have been wrong, and stays in doubt where it was before.
  const first =
    job.doubt ?? (equal === null ? { generation: 0, after: -1 } : { generation: number, after: equal });
  const text = `${named(ranks)} must hold the same bits and do not, in ${stateText(state)}: ${where}; ${who}; ${since}`;
  job.doubt = { generation: first.generation, after: first.after, text, toldIn: number };
  observe(turn, "goku_twins_differ_total", 1, { job: job.record.job.name });
  const nodes = [...new Set((odd.length > 0 ? odd : ranks).flatMap((rank) => rankNodes[rank] ?? []))];
  const back =
    first.after < 0
      ? "from before it began, which no comparison tells: the older, the safer"
      : `of step ${first.after} of generation ${first.generation} or before`;
  const todo = `drain and diagnose ${nodes.join(" and ")}; to be rid of it stop the job and resume from a checkpoint ${back}`;
  const nodeId = nodes.length === 1 ? nodes[0]! : null;
  const { jobId } = job.record;
  log(turn, { level: "alarm", type: "alarm", jobId, nodeId, text: `${text}; training goes on; ${todo}` });
}

/** A state is restored: people are told if it is one that twins did not agree on; an older one ends the doubt. */
export function noteDoubt(turn: Turn, job: JobState, state: StateName): void {
  const { doubt } = job;
  if (doubt === null) return;
  if (!isInDoubt(doubt, state)) {
    job.doubt = null;
    return;
  }
  const text = `restores ${stateText(state)}, which is in doubt: ${doubt.text}`;
  log(turn, { level: "alarm", type: "alarm", jobId: job.record.jobId, text });
}

function isInDoubt({ generation, after }: NonNullable<JobState["doubt"]>, state: StateName): boolean {
  return state.generation > generation || (state.generation === generation && state.step > after);
}
