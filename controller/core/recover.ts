import { type ErrorCode, READ_MEMORY } from "../../job/errors.js";
import { awaitAnswers, finishAnswering, onAnswersDue } from "./answers.js";
import { checkpointsWrite } from "./checkpoints.js";
import { newestCheckpoint } from "./choose_restore.js";
import type { Command } from "./contract.js";
import { cutOff, cutPairs } from "./cut_pairs.js";
import { awaitChecks, countBlame, suspectNode } from "./doubt.js";
import { persist } from "./durable.js";
import { failureClass } from "./failure_class.js";
import { explainByFate } from "./fate.js";
import { awaitListing } from "./find_checkpoints.js";
import { startGeneration } from "./form.js";
import { passOverFormer } from "./former.js";
import { addEvidence, decide, isFullOfEvidence, mark, nameCulprit, openIncident } from "./incident.js";
import { endJob } from "./jobs.js";
import { awaitsCause, type Culprit, type Fault, judgeFaults } from "./judge_fault.js";
import { awaitRescue, endShortOfTime } from "./leave.js";
import { furthestStep, membersInput } from "./members.js";
import { onNotFinite } from "./not_finite.js";
import { type MembersPlan, planMembers } from "./plan_members.js";
import { forgiveAttempts, programOf } from "./program.js";
import { dropKill, giveUpReaping, orderKills } from "./reap.js";
import { rollBack } from "./roll_back.js";
import { countFinished, tryComplete } from "./run.js";
import { explainBySigns } from "./signals.js";
import type { GenerationState, JobState } from "./state.js";
import { stateKey } from "./state_name.js";
import { awaitPairs } from "./try_pairs.js";
import { arm, disarm, enter, isReachable, jobTimers, log, observe, type Turn, tell } from "./turn.js";
import type { Report } from "./wire.js";

/** Generations in a row whose restore from memory could not reach a member; then the next source is taken. */
const UNREACHED_ATTEMPTS = 2;
/** The trainer has given up because of what its steps came to. */
const BAD_NUMBERS: ReadonlySet<ErrorCode> = new Set<ErrorCode>(["NOT_FINITE", "NUMBERS_SPIKED"]);

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
      // Nobody has more to say.
      if (generation.answered.size === generation.layout.worldSize) judge(turn, job);
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

/**
 * A rank says what another one of its node has said just before it: it counts, and need not be kept. Thousands of survivors
 * miss the same peer. False: it has to be reported like any other, as long as people are to read it, too.
 */
export function isEcho(job: JobState, nodeId: string, report: Report & { kind: "failed" }): boolean {
  const last = job.faults.at(-1);
  if (job.stage !== "settling" || last === undefined || job.incident === null) return false;
  const { rank, error } = report;
  const isSame =
    last.source === "failed" &&
    last.nodeId === nodeId &&
    last.code === error.code &&
    last.peer === (error.peer ?? null) &&
    last.operation === error.operation;
  // The steps before a failure are told by the agent of rank 0: that it has failed is looked for by name.
  if (!isSame || rank === 0 || !isFullOfEvidence(job.incident)) return false;
  last.echoes += 1;
  job.generation!.answered.add(rank);
  if (last.code !== "COMM_ABORTED") addEvidence(job.incident, last.atMs, last.text);
  return true;
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
  forgiveAttempts(turn, job);
  openIncident(turn, job, first);
  job.faults = [...faults];
  generation.answered.clear();
  generation.asked = null;
  generation.askedAgainId = 0;
  generation.abortedMs = turn.nowMs;
  note(job, generation, faults);
  observe(turn, "goku_generations_failed_total", 1);
  observe(turn, "goku_detections_total", 1, { job: job.record.job.name, source: first.source });
  disarm(turn, jobTimers.stall(job));
  enter(turn, job, "settling", first.text);
  const reason = {
    code: first.code,
    message: first.text,
    peer: first.rank ?? first.peer ?? undefined,
    operation: first.operation,
  };
  const abort: Command = { $case: "abort", value: { generation: BigInt(generation.number), reason } };
  for (const nodeId of generation.nodeRanks.keys()) tell(turn, generation, nodeId, abort);
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
      onAnswersDue(turn, job);
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
  const fatal = job.faults.find((f) => isReported(f) && failureClass(f.code) === "fatal");
  const badNumbers = fatal !== undefined && BAD_NUMBERS.has(fatal.code) ? fatal : undefined;
  const rolledBack = job.faults.some((f) => isReported(f) && f.code === "ROLLED_BACK");
  // Steps are told by the agent of rank 0, before it tells the end of that rank.
  const awaitsSteps = (badNumbers !== undefined || rolledBack) && !job.faults.some(({ rank }) => rank === 0);
  if (isEarly && (awaitsSteps || awaitsCause(job.faults, nodeOf, isHeard))) {
    arm(turn, jobTimers.stage(job), turn.nowMs + settleMs);
    return;
  }
  const culprit = named(job, judgeFaults(job.faults, nodeOf));
  if (job.incident !== null) nameCulprit(job.incident, culprit);
  explainByFate(turn, job);
  const cause = explainBySigns(turn, job, culprit);
  job.waitSinceMs = turn.nowMs;
  if (!rolledBack) job.numbers.rollBack = null; // the ranks that told it have ended otherwise
  if (badNumbers !== undefined) {
    if (!onNotFinite(turn, job, badNumbers)) return;
    mark(turn, job, "aborted");
    reform(turn, job);
    return;
  }
  if (fatal !== undefined) {
    endJob(turn, job, { phase: "FAILED", code: fatal.code, reason: fatal.text });
    return;
  }
  const unreached = job.faults.filter((fault) => isReported(fault) && isUnreached(job, fault));
  // Where no member is named it was a node without a place that could not be read.
  const readers = job.faults.filter((fault) => isReported(fault) && isUnread(fault) && fault.peer === null);
  if (readers.length > 0)
    passOverFormer(
      turn,
      job,
      readers.flatMap(({ nodeId }) => nodeId ?? []),
    );
  const missing =
    unreached.some(({ peer }) => peer !== null) ||
    job.faults.some((fault) => isReported(fault) && failureClass(fault.code) === "source");
  if (missing && !isTakenAlong(job)) excludeSource(turn, job, culprit);
  else if (culprit.nodeId !== null && cause !== "program")
    blame(turn, job, culprit.nodeId, cause === "machine" ? "HARDWARE_FAULT" : culprit.code);
  for (const [nodeId, why] of cutOff(cutPairs(job.faults, nodeOf, isHeard))) job.unconnected.set(nodeId, why);
  const hung = job.faults.flatMap((f) => (f.remedy === "kill" && f.rank !== null ? [f.rank] : []));
  if (hung.length > 0) {
    orderKills(turn, job, hung, "it holds up the others");
    return;
  }
  if (job.faults.some((f) => f.remedy === "ask")) {
    awaitAnswers(turn, job, culprit.what);
    return;
  }
  mark(turn, job, "aborted");
  reform(turn, job);
}

/** Whichever rank told that the run is rolled back, it is no fault of that rank: the step's numbers are. */
function named(job: JobState, culprit: Culprit): Culprit {
  if (culprit.code !== "ROLLED_BACK") return culprit;
  const what = job.numbers.bad.at(-1)?.text ?? culprit.what;
  return { ...culprit, what, rank: null, nodeId: null, lastLines: [] };
}

/** A fault is laid to a node, which no program said to be its own. */
function blame(turn: Turn, job: JobState, nodeId: string, code: ErrorCode): void {
  countBlame(turn, job, nodeId);
  suspectNode(turn, job, nodeId, code);
}

/** A member whose memory others could not read, again: what the controller can reach is of no use to them. */
function isUnreached({ attempts }: JobState, fault: Fault): boolean {
  return attempts >= UNREACHED_ATTEMPTS && isUnread(fault);
}

function isUnread({ code, operation }: Fault): boolean {
  return code === "COMM_PEER_DIED" && operation === READ_MEMORY;
}

function isReported(fault: Fault): boolean {
  return fault.source === "failed" || fault.source === "refused";
}

/** Memory could not be read while a member ended: what that one holds comes back with it, or is found to be lost. */
function isTakenAlong(job: JobState): boolean {
  const ended = job.faults.some(({ source }) => ["exit", "restart", "leaving", "fate"].includes(source));
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

/** Its ranks have ended by a vote that was asked for: no attempt failed, and it cannot be taken back. */
export function endedAsAsked(turn: Turn, job: JobState): void {
  job.generation!.abortSent = true;
  job.waitSinceMs = turn.nowMs;
  job.attempts = 0;
  job.faults = [];
}

/** Forms the next generation if it may and can; else says what it waits for. */
export function reform(turn: Turn, job: JobState): void {
  const { max_attempts } = job.record.job.recovery;
  const { limits } = turn.state.config;
  if (job.numbers.rollBack !== null) {
    if (awaitListing(turn, job, "the run goes back to what is left")) return;
    rollBack(turn, job, job.numbers.rollBack);
  }
  const rescue = awaitRescue(turn, job);
  if (rescue !== null) {
    standBy(turn, job, rescue.reason, rescue.untilMs);
    return;
  }
  if (endShortOfTime(turn, job)) return;
  const examined = awaitChecks(turn, job);
  if (examined !== null) {
    wait(turn, job, examined.reason, examined.untilMs);
    return;
  }
  const tried = awaitPairs(turn, job);
  if (tried !== null) {
    wait(turn, job, tried.reason, tried.untilMs);
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
    const told = job.incident?.code;
    const code = told === "NODE_PREEMPTED" || told === "RANK_CORRUPT" ? told : plan.code;
    giveUp(turn, job, code, `no nodes came in ${seconds} s: ${plan.reason}`);
  }
}

function wait(turn: Turn, job: JobState, reason: string, untilMs: number | null): void {
  if (job.record.stop !== null) {
    stopWhereDurable(turn, job, reason);
    return;
  }
  standBy(turn, job, reason, untilMs);
}

function standBy(turn: Turn, job: JobState, reason: string, untilMs: number | null): void {
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
  if (programOf(job) !== null) {
    const reason = `stopped as asked, while it could not recover (${why})`;
    endJob(turn, job, { phase: "STOPPED", code: null, reason });
    return;
  }
  const rescue = awaitRescue(turn, job, true);
  if (rescue !== null) {
    standBy(turn, job, rescue.reason, rescue.untilMs);
    return;
  }
  if (awaitListing(turn, job, "it is to stop, and its ranks cannot save")) return;
  const durable = newestCheckpoint(job.checkpoints, job.excludedCheckpoints) ?? job.record.source;
  const step = durable?.state.step ?? 0;
  const lost = Math.max(0, furthestStep(turn, job) - step);
  const kept = durable === null ? "nothing is durable" : `step ${step} is durable at ${durable.uri}`;
  const reason = `stopped as asked, while it could not recover (${why}): ${kept}, ${lost} later steps are given up`;
  endJob(turn, job, { phase: "STOPPED", code: null, reason }, step);
}
