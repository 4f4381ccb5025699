import type { StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import type { JobState } from "./state.js";
import { log, observe, type Turn } from "./turn.js";

/** People are told at most so often: where slots are short, every step may tell. */
const TELL_MS = 600_000;

/**
 * A step whose snapshot was left out, or whose save was put off, since some rank had no slot free. Training goes on as it should; a
 * fault costs the steps that no snapshot holds. Counted, and told now and then.
 */
export function onMissed(turn: Turn, job: JobState, step: StepCompleted): void {
  const { snapshotSkipped, savePutOff } = step;
  if (!snapshotSkipped && !savePutOff) return;
  const { missed } = job;
  const { name } = job.record.job;
  if (snapshotSkipped) {
    missed.snapshots += 1;
    observe(turn, "goku_snapshots_skipped_total", 1, { job: name });
  }
  if (savePutOff) {
    missed.saves += 1;
    observe(turn, "goku_saves_put_off_total", 1, { job: name });
  }
  if (turn.nowMs < missed.toldMs + TELL_MS) return;
  missed.toldMs = turn.nowMs;
  const what = snapshotSkipped
    ? "has no snapshot: some rank had no slot free, since saves, previews or copies to other nodes still read the others"
    : "makes the save of the step before, of which some rank had no whole snapshot";
  const sum = `so far ${missed.snapshots} snapshots were skipped and ${missed.saves} saves put off`;
  const text = `step ${step.step} ${what}; a fault costs more steps (${sum}, told at most every ten minutes)`;
  log(turn, { level: "warning", type: "checkpoint", jobId: job.record.jobId, text });
}
