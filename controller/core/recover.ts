import type { ErrorCode } from "../../job/errors.js";
import { checkpointsWrite } from "./checkpoints.js";
import { newestCheckpoint } from "./choose_restore.js";
import { persist } from "./durable.js";
import { failureClass } from "./failure_class.js";
import { startGeneration } from "./form.js";
import { addEvidence, decide, mark, nameCulprit, openIncident } from "./incident.js";
import { endJob } from "./jobs.js";
import { awaitsCause, type Culprit, type Fault, judgeFaults } from "./judge_fault.js";
import { awaitRescue } from "./leave.js";
import { membersInput } from "./members.js";
import { type MembersPlan, planMembers } from "./plan_members.js";
import { dropKill, giveUpReaping, orderKills } from "./reap.js";
import { countFinished, tryComplete } from "./run.js";
import type { GenerationState, JobState } from "./state.js";
import { stateKey } from "./state_name.js";
import {
  arm,
  disarm,
  enter,
  hasHeard,
  isReachable,
  jobTimers,
  log,
  observe,
  type Turn,
  tell,
} from "./turn.js";

/** Generations in a row whose restore from memory could not reach a member; then the next source is taken. */
const UNREACHED_ATTEMPTS = 2;

/**
 * The way back from a fault:
 *   settling   abort everybody, collect what others have to say about it, then judge;
 *   answering  only when nobody can be named: ranks that do not answer the abort are the ones that hang;
 *   reaping    end what hangs; what cannot be ended makes its node a bad one;
 *   waiting    for a lost node to bring back its memory, or between attempts;
 *   forming    again, with the same processes where they live.
 * A job that is to stop goes this way to save what memory holds, but waits for nothing.
 */
export function reportFaults(turn: Turn, job: JobState, faults: readonly Fault[]): void {
  const generation = job.generation!;
  switch (job.stage) {
    case "running":
      if (generation.finished !== null) {
        finishWithout(turn, job, generation, faults);
        return;
      }
      beginRecovery(turn, job, generation, faults);
      return;
    case "forming":
      beginRecovery(turn, job, generation, faults);
      return;
    case "settling":
      job.faults.push(...faults);
      note(job, generation, faults);
      return;
    case "answering":
      note(job, generation, faults);
      if (generation.answered.size === generation.layout.worldSize) finishAnswering(turn, job);
      return;
    case "reaping":
      note(job, generation, faults);
      for (const fault of faults) {
        if (fault.source === "exit" && fault.rank !== null) dropKill(turn, job, fault.rank);
      }
      return;
    case "waiting":
      note(job, generation, faults);
      return;
    case "queued":
    case "ending":
    case "ended":
      return;
  }
}

/** The final state is durable already: whoever falls away now has nothing left to lose. */
function finishWithout(
  turn: Turn,
  job: JobState,
  generation: GenerationState,
  faults: readonly Fault[],
): void {
  for (const { rank, nodeId } of faults) {
    const gone = rank !== null ? [rank] : (generation.nodeRanks.get(nodeId ?? "") ?? []);
    for (const each of gone) countFinished(generation, each);
  }
  tryComplete(turn, job, false);
}

function beginRecovery(
  turn: Turn,
  job: JobState,
  generation: GenerationState,
  faults: readonly Fault[],
): void {
  const first = faults[0]!;
  openIncident(turn, job, first);
  job.faults = [...faults];
  generation.answered.clear();
  generation.abortedMs = turn.nowMs;
  note(job, generation, faults);
  observe(turn, "goku_generations_failed_total", 1);
  disarm(turn, jobTimers.stall(job));
  enter(turn, job, "settling", first.text);
  const reason = {
    code: first.code,
    message: first.text,
    peer: first.rank ?? first.peer ?? undefined,
    operation: first.operation,
  };
  for (const nodeId of generation.nodeRanks.keys()) {
    tell(turn, generation, nodeId, {
      $case: "abort",
      value: { generation: BigInt(generation.number), reason },
    });
  }
  generation.abortSent = generation.told.size > 0;
  arm(turn, jobTimers.stage(job), turn.nowMs + turn.state.config.limits.settleMs);
}

/** Evidence for people, and who has answered the abort. */
function note(job: JobState, generation: GenerationState, faults: readonly Fault[]): void {
  for (const fault of faults) {
    if (fault.rank !== null && (fault.source === "exit" || fault.source === "failed")) {
      generation.answered.add(fault.rank);
    }
    const expected = fault.source === "failed" && fault.code === "COMM_ABORTED" && generation.abortedMs > 0;
    if (job.incident !== null && !expected) addEvidence(job.incident, fault.atMs, fault.text);
  }
}

/** The stage timer of a recovery. */
export function onRecoveryTimer(turn: Turn, job: JobState): void {
  switch (job.stage) {
    case "settling":
      judge(turn, job);
      return;
    case "answering":
      finishAnswering(turn, job);
      return;
    case "reaping":
      giveUpReaping(turn, job);
      return;
    case "waiting":
      reform(turn, job);
      return;
    default:
      return;
  }
}

function judge(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  const { settleMs, causeMs } = turn.state.config.limits;
  const nodeOf = (rank: number) => generation.rankNodes[rank] ?? null;
  const isHeard = (nodeId: string) => isReachable(turn, turn.state.nodes.get(nodeId));
  const isEarly = turn.nowMs - generation.abortedMs < causeMs;
  if (isEarly && awaitsCause(job.faults, nodeOf, isHeard)) {
    arm(turn, jobTimers.stage(job), turn.nowMs + settleMs);
    return;
  }
  const culprit = judgeFaults(job.faults, nodeOf);
  if (job.incident !== null) nameCulprit(job.incident, culprit);
  job.waitSinceMs = turn.nowMs;
  const fatal = job.faults.find((f) => isReported(f) && failureClass(f.code) === "fatal");
  if (fatal !== undefined) {
    endJob(turn, job, { phase: "FAILED", code: fatal.code, reason: fatal.text });
    return;
  }
  const missing = job.faults.some(
    (f) => isReported(f) && (failureClass(f.code) === "source" || isUnreached(job, f)),
  );
  if (missing && !isTakenAlong(job)) excludeSource(turn, job, culprit);
  else if (culprit.nodeId !== null) {
    job.blame.set(culprit.nodeId, (job.blame.get(culprit.nodeId) ?? 0) + 1);
  }
  const hung = job.faults.flatMap((f) => (f.remedy === "kill" && f.rank !== null ? [f.rank] : []));
  if (hung.length > 0) {
    orderKills(turn, job, hung, "it holds up the others");
    return;
  }
  if (job.faults.some((f) => f.remedy === "ask")) {
    decide(
      turn,
      job,
      "abort and see which ranks do not answer: their pages do not tell who holds the others up",
    );
    enter(turn, job, "answering", `${culprit.what}: looks for the ranks that do not answer`);
    arm(turn, jobTimers.stage(job), turn.nowMs + turn.state.config.limits.answerMs);
    return;
  }
  mark(turn, job, "aborted");
  reform(turn, job);
}

/** A member whose memory others could not read, again: what the controller can reach is of no use to them. */
function isUnreached({ attempts, generation }: JobState, { code }: Fault): boolean {
  const reads = generation?.stage === "restore" && generation.restore?.kind === "snapshot";
  return reads && attempts >= UNREACHED_ATTEMPTS && code === "COMM_PEER_DIED";
}

function isReported(fault: Fault): boolean {
  return fault.source === "failed" || fault.source === "refused";
}

/** Memory could not be read while a member ended: what that one holds comes back with it, or is found to be lost. */
function isTakenAlong(job: JobState): boolean {
  const ended = job.faults.some(({ source }) => ["exit", "restart", "leaving"].includes(source));
  return ended && job.generation!.restore?.kind === "snapshot";
}

/** What could not be restored is passed over from now on; a checkpoint durably so. */
function excludeSource(turn: Turn, job: JobState, culprit: Culprit): void {
  const choice = job.generation!.restore;
  if (choice === null || choice.kind === "initial") return;
  if (choice.kind === "snapshot") {
    job.excludedSnapshots.add(stateKey(choice.state));
    return;
  }
  const { uri } = choice.source;
  job.excludedCheckpoints.add(uri);
  const entry = job.checkpoints.find((e) => e.uri === uri);
  if (entry !== undefined) {
    entry.unusable = culprit.what;
    persist(turn, [checkpointsWrite(job)]);
  }
  const text = `checkpoint ${uri} cannot be restored (${culprit.what}): takes the next source`;
  log(turn, { level: "alarm", type: "alarm", jobId: job.record.jobId, nodeId: culprit.nodeId, text });
}

/** Time for answers is over, or all have answered: silent ranks hang. */
function finishAnswering(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  mark(turn, job, "aborted");
  const silent: number[] = [];
  for (const [rank, nodeId] of generation.rankNodes.entries()) {
    if (generation.answered.has(rank) || !hasHeard(turn, generation, nodeId)) continue;
    const page = generation.pages[rank];
    const left = page != null && (page.phase === "idle" || page.phase === "forming");
    if (!left && generation.changedMs[rank]! <= generation.abortedMs) silent.push(rank);
  }
  if (silent.length === 0) {
    reform(turn, job);
    return;
  }
  orderKills(turn, job, silent, "it did not answer the abort");
}

/** Forms the next generation if it may and can; else says what it waits for. */
export function reform(turn: Turn, job: JobState): void {
  const { max_attempts } = job.record.job.recovery;
  const { limits } = turn.state.config;
  const rescue = awaitRescue(turn, job);
  if (rescue !== null) {
    decide(turn, job, rescue.reason);
    enter(turn, job, "waiting", rescue.reason);
    arm(turn, jobTimers.stage(job), rescue.untilMs);
    return;
  }
  if (job.attempts >= max_attempts) {
    const why = `${job.attempts} of ${max_attempts} attempts and no step beyond ${job.stepHighest} was completed`;
    giveUp(turn, job, "NO_PROGRESS", why);
    return;
  }
  const readyMs =
    job.formedMs +
    backoffMs({ attempts: job.attempts, firstMs: limits.backoffMs, maxMs: limits.backoffMsMax });
  // Who wants the job to stop wants what memory holds saved at once.
  if (turn.nowMs < readyMs && job.record.stop === null) {
    wait(turn, job, `attempt ${job.attempts + 1} of ${max_attempts} follows a pause`, readyMs);
    return;
  }
  const plan = planMembers(membersInput(turn, job));
  switch (plan.kind) {
    case "form":
      job.attempts += 1;
      startGeneration(turn, job, plan);
      return;
    case "wait":
      wait(turn, job, plan.reason, plan.retryAtMs);
      return;
    case "exhausted":
      goWithout(turn, job, plan);
      return;
  }
}

/** The grace for lost nodes is over and what is left is not enough: waits on, as long as that many graces. */
function goWithout(turn: Turn, job: JobState, plan: Extract<MembersPlan, { kind: "exhausted" }>): void {
  const { max_attempts, node_grace_seconds } = job.record.job.recovery;
  const seconds = max_attempts * node_grace_seconds;
  const untilMs = job.waitSinceMs + 1000 * seconds;
  if (plan.code === "LAYOUT_INVALID") giveUp(turn, job, plan.code, plan.reason);
  else if (turn.nowMs < untilMs)
    wait(turn, job, `${plan.reason}; waits for nodes, at most ${seconds} s`, untilMs);
  else {
    const code = job.incident?.code === "NODE_PREEMPTED" ? job.incident.code : plan.code;
    giveUp(turn, job, code, `no nodes came in ${seconds} s: ${plan.reason}`);
  }
}

function wait(turn: Turn, job: JobState, reason: string, untilMs: number | null): void {
  if (job.record.stop !== null) {
    stopWhereDurable(turn, job, reason);
    return;
  }
  decide(turn, job, reason);
  enter(turn, job, "waiting", reason);
  if (untilMs === null) disarm(turn, jobTimers.stage(job));
  else arm(turn, jobTimers.stage(job), untilMs);
}

/** Pause before the next attempt: none before the first, then doubling. */
export function backoffMs(options: { attempts: number; firstMs: number; maxMs: number }): number {
  const { attempts, firstMs, maxMs } = options;
  return attempts === 0 ? 0 : Math.min(maxMs, firstMs * 2 ** (attempts - 1));
}

function giveUp(turn: Turn, job: JobState, code: ErrorCode, why: string): void {
  if (job.record.stop !== null) {
    stopWhereDurable(turn, job, why);
    return;
  }
  const what = job.incident?.what ?? job.reason;
  const reason = `Cannot recover: ${why}; last fault: ${what}`;
  endJob(turn, job, { phase: "FAILED", code, reason });
}

/** A stop is asked for and nothing runs that could save: the job ends at what is durable, and says what that gives up. */
function stopWhereDurable(turn: Turn, job: JobState, why: string): void {
  const durable = newestCheckpoint(job.checkpoints, job.excludedCheckpoints) ?? job.record.source;
  const step = durable?.state.step ?? 0;
  const lost = Math.max(0, (job.generation?.step ?? 0) - step);
  const kept = durable === null ? "nothing is durable" : `step ${step} is durable at ${durable.uri}`;
  const reason = `stopped as asked, while it could not recover (${why}): ${kept}, ${lost} later steps are given up`;
  endJob(turn, job, { phase: "STOPPED", code: null, reason }, step);
}
