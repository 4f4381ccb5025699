import type { ErrorCode } from "../../job/errors.js";
import { COUNTERS, type CounterName } from "../../job/signals/counters.js";
import { avoid } from "./avoid.js";
import { durableKeys, EVIDENCE_COUNT_MAX } from "./contract.js";
import { doubt } from "./doubt.js";
import { persist } from "./durable.js";
import { addEvidence } from "./incident.js";
import { isOver, reconsider } from "./jobs.js";
import { type Culprit, type Fault, faultOf } from "./judge_fault.js";
import { explaining, kindOf, type NodeSign, signText, signWords, standsOut } from "./judge_signals.js";
import { presentStepMs } from "./members.js";
import { programOf } from "./program.js";
import { quarantine } from "./quarantine.js";
import { reportFaults } from "./recover.js";
import { replaceFirst } from "./replace_node.js";
import { considerChecks } from "./self_checks.js";
import type { GenerationState, JobState, NodeState } from "./state.js";
import { armSooner, isInSight, isReachable, jobTimers, log, observe, pageAgeMs, type Turn } from "./turn.js";
import type { Report } from "./wire.js";

/** Signs remembered of each node, newest last. */
export const SIGNS_COUNT_MAX = 16;
/** Of one incident's evidence, what its own node and what others said before it; the rest is left to who saw the fault itself. */
const OWN_EVIDENCE_MAX = 6;
const OTHER_EVIDENCE_MAX = 4;
/** A rank that moves for so long after such words has got over it. */
const WORDS_MS = 60_000;
/** What others said longer before a fault is of another one. */
const OTHERS_MS = 60_000;

/** What faults of these codes follow from may have been told by a machine or a program. */
const EXPLAINED: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "RANK_DIED",
  "PROGRAM_FAILED",
  "RANK_STALLED",
  "NATIVE_DEVICE",
  "COMM_PEER_DIED",
  "COMM_TIMEOUT",
  "STORAGE_FAILED",
]);

/**
 * An agent has read signs of trouble. All are remembered, shown, and become evidence of the faults that follow; what a kind leads to
 * at once stands in the catalogue (docs/hardware-signals.md).
 */
export function onSignals(turn: Turn, node: NodeState, report: Report & { kind: "signals" }): void {
  for (const told of report.signals) {
    const kind = kindOf(told.name);
    if (kind === null) continue; // of a newer agent
    const sign = { ...kind, ...told, generation: report.generation, heardMs: turn.nowMs };
    if (!isNews(node, sign)) continue;
    observe(turn, "goku_signals_total", 1, { class: sign.class, cause: sign.cause });
    if (!isAlone(turn, node, sign)) continue;
    remember(node, sign);
    act(turn, node, sign);
  }
}

/** A repeat after a broken stream says nothing new; nor does the output of a generation that is over. */
function isNews({ signs }: NodeState, sign: NodeSign): boolean {
  return !signs.some((known) => isSame(known, sign) && known.atMs >= sign.atMs);
}

function isSame(a: NodeSign, b: NodeSign): boolean {
  return a.name === b.name && a.device === b.device && a.rank === b.rank && a.generation === b.generation;
}

function remember(node: NodeState, sign: NodeSign): void {
  const others = node.signs.filter((known) => !isSame(known, sign));
  node.signs = [...others, sign].slice(-SIGNS_COUNT_MAX);
}

/** Where the whole fleet counts alike, no machine of it is at fault; that is told all the same. */
function isAlone(turn: Turn, node: NodeState, sign: NodeSign): boolean {
  const counter = sign.name.slice("counter.".length) as CounterName;
  const kind = sign.source === "counter" ? COUNTERS[counter] : undefined;
  if (kind === undefined || !kind.compared) return true;
  const machines = new Map<string, number>();
  for (const other of turn.state.nodes.values()) {
    if (other.machine === node.machine || !isReachable(turn, other)) continue;
    const before = machines.get(other.machine) ?? 0;
    machines.set(other.machine, Math.max(before, other.rates.get(counter) ?? 0));
  }
  // Its own rate comes with the next heartbeat, and is above the limit for certain.
  const own = Math.max(node.rates.get(counter) ?? 0, kind.perMinuteMax);
  if (standsOut(own, [...machines.values()])) return true;
  const text = `${signText(node.nodeId, sign)}: other machines count alike, so that none of them is suspected`;
  log(turn, { level: "info", type: "node", nodeId: node.nodeId, text });
  return false;
}

function act(turn: Turn, node: NodeState, sign: NodeSign): void {
  const { nodeId } = node;
  const text = signText(nodeId, sign);
  const job = jobOf(turn, node, sign);
  if (sign.source !== "log")
    log(turn, {
      level: sign.source === "counter" && sign.cause === "machine" ? "alarm" : "warning",
      type: "node",
      nodeId,
      jobId: node.jobId,
      text,
    });
  if (job?.incident != null && job.incident.nodeId === nodeId) addSigns(job.incident, [{ nodeId, sign }]);
  if (sign.source === "log") {
    if (job !== null && sign.action !== "note") awaitStandstill(turn, job, sign);
    return;
  }
  switch (sign.action) {
    case "quarantine":
      quarantine(turn, nodeId, signWords(sign), node.machine);
      if (job !== null)
        reportFaults(turn, job, [
          faultOf({ atMs: turn.nowMs, source: "signal", code: "HARDWARE_FAULT", nodeId, text }),
        ]);
      reconsider(turn);
      return;
    case "replace":
      suspect(turn, node, text);
      if (job !== null) leave(turn, job, nodeId, text);
      return;
    case "suspect":
      suspect(turn, node, text);
      return;
    case "note":
      return;
  }
}

/** The job whose generation has the node as a member, of a rank's sign the one that it is about. */
function jobOf(turn: Turn, node: NodeState, { source, generation: number, rank }: NodeSign): JobState | null {
  const job = node.jobId === null ? undefined : turn.state.jobs.get(node.jobId);
  const generation = job?.generation;
  if (job === undefined || generation == null || isOver(job) || !generation.nodeRanks.has(node.nodeId))
    return null;
  const isStale =
    source === "log" && (number !== generation.number || generation.rankNodes[rank ?? -1] !== node.nodeId);
  return isStale ? null : job;
}

/** It is examined as soon as nobody uses it. */
function suspect(turn: Turn, node: NodeState, text: string): void {
  doubt(turn, node.nodeId, text);
  considerChecks(turn, node);
}

/** Its ranks go to a free node by way of a checkpoint; without one, the job's next generation looks again. */
function leave(turn: Turn, job: JobState, nodeId: string, text: string): void {
  avoid(turn, job, nodeId, text);
  replaceFirst(turn, job, [{ nodeId, rank: null, code: "HARDWARE_FAULT", what: text, evidence: text }]);
}

/** Words alone may be anybody's; a rank that stands still after it said them waits for nothing else. */
function awaitStandstill(turn: Turn, job: JobState, sign: NodeSign): void {
  armSooner(turn, jobTimers.words(job), sign.heardMs + standstillMs(turn, job));
}

function standstillMs(turn: Turn, job: JobState): number {
  return Math.max(pageAgeMs(turn), 2 * presentStepMs(job));
}

/** A rank has said what only a broken machine makes it say: does it still go on? */
export function onWordsTimer(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  if (job.stage !== "running" || generation.stage !== "run" || generation.finished !== null) return;
  const faults: Fault[] = [];
  for (const nodeId of generation.nodeRanks.keys())
    for (const sign of turn.state.nodes.get(nodeId)?.signs ?? []) {
      if (sign.source !== "log" || sign.action === "note" || sign.generation !== generation.number) continue;
      if (turn.nowMs - sign.heardMs > WORDS_MS) continue; // it went on all the while
      const sinceMs = movedMs(turn, job, generation, nodeId, sign);
      const untilMs = sinceMs + standstillMs(turn, job);
      if (untilMs === Number.POSITIVE_INFINITY) continue;
      if (turn.nowMs < untilMs) armSooner(turn, jobTimers.words(job), untilMs);
      else faults.push(wordsFault(turn, nodeId, sign));
    }
  if (faults.length > 0) reportFaults(turn, job, faults);
}

/** When it wrote that, or moved after it; infinite where nobody can see whether it does. */
function movedMs(
  turn: Turn,
  job: JobState,
  generation: GenerationState,
  nodeId: string,
  { rank, heardMs }: NodeSign,
): number {
  const page = rank === null ? null : generation.pages[rank];
  if (rank === null || page == null || page.phase === "finished") return Number.POSITIVE_INFINITY;
  if (programOf(job) !== null && page.microStep === 0) return Number.POSITIVE_INFINITY; // it sends no heartbeats
  return isInSight(turn, nodeId) ? Math.max(heardMs, generation.changedMs[rank]!) : turn.nowMs;
}

function wordsFault(turn: Turn, nodeId: string, sign: NodeSign): Fault {
  const { rank } = sign;
  const text = `rank ${rank} on ${nodeId} stands still after it wrote: ${sign.text} (${sign.meaning})`;
  const named = { rank, nodeId, operation: "", text, remedy: "kill" } as const;
  return faultOf({ atMs: turn.nowMs, source: "signal", code: "HARDWARE_FAULT", ...named });
}

/**
 * A fault has been judged: what its node and its rank said before may tell why, and who is to be asked.
 * @returns who is; null: nobody said
 */
export function explainBySigns(turn: Turn, job: JobState, culprit: Culprit): NodeSign["cause"] | null {
  const { incident } = job;
  if (incident === null) return null;
  noteSigns(turn, job);
  const { rank, nodeId, code } = culprit;
  const signs = turn.state.nodes.get(nodeId ?? "")?.signs;
  if (nodeId === null || signs === undefined) return null;
  const isNamed = code === "HARDWARE_FAULT";
  const killed = /SIGKILL/.test(culprit.what);
  const fault = { atMs: turn.nowMs, generation: job.generation!.number, rank, killed };
  const sign = EXPLAINED.has(code) ? explaining(signs, fault) : null;
  const cause = isNamed ? "machine" : (sign?.cause ?? null);
  if (sign !== null && incident.decisions.length === 0) {
    if (sign.cause === "machine") incident.code = "HARDWARE_FAULT";
    else if (sign.name === "kernel.oom_kill") incident.code = "NODE_OUT_OF_MEMORY";
    const why = sign.source === "log" ? `it wrote "${sign.text}"` : sign.meaning;
    incident.what = `${culprit.what}: ${why}`;
  }
  if (cause === "machine" && !turn.state.quarantine.has(nodeId)) avoid(turn, job, nodeId, incident.what);
  return cause;
}

/** Evidence of all members: of the node that is named what it said last, of others what they said first. */
function noteSigns(turn: Turn, job: JobState): void {
  const incident = job.incident!;
  const generation = job.generation!;
  const own: { nodeId: string; sign: NodeSign }[] = [];
  const others: { nodeId: string; sign: NodeSign }[] = [];
  for (const nodeId of generation.nodeRanks.keys())
    for (const sign of turn.state.nodes.get(nodeId)?.signs ?? []) {
      const isStale = sign.source === "log" && sign.generation !== generation.number;
      if (isStale || turn.nowMs - sign.heardMs > OTHERS_MS) continue;
      (nodeId === incident.nodeId ? own : others).push({ nodeId, sign });
    }
  addSigns(incident, own.slice(-OWN_EVIDENCE_MAX));
  others.sort((a, b) => a.sign.heardMs - b.sign.heardMs);
  addSigns(incident, others.slice(0, OTHER_EVIDENCE_MAX));
}

function addSigns(
  incident: NonNullable<JobState["incident"]>,
  signs: readonly { nodeId: string; sign: NodeSign }[],
): void {
  for (const { nodeId, sign } of signs) {
    const text = signText(nodeId, sign);
    const isKnown = incident.what === text || incident.evidence.some((line) => line.text === text);
    if (!isKnown && incident.evidence.length < EVIDENCE_COUNT_MAX) addEvidence(incident, sign.heardMs, text);
  }
  incident.evidence.sort((a, b) => a.atMs - b.atMs);
}

/** A machine that has booted anew since it was quarantined may be well: it is used again when it passes its self-checks. */
export function considerBoot(turn: Turn, node: NodeState): void {
  const { nodeId, machine } = node;
  const bad = turn.state.quarantine.get(nodeId);
  if (bad === undefined || bad.drained || bad.untilMs !== null) return;
  if (bad.machine === undefined || bad.machine === machine) return;
  const text = `${nodeId} runs on another machine, or that has booted, since it was quarantined (${bad.reason})`;
  const isExamined = turn.state.config.limits.selfCheckMs > 0;
  const record = isExamined ? { ...bad, untilMs: turn.nowMs } : null;
  if (record === null) turn.state.quarantine.delete(nodeId);
  else turn.state.quarantine.set(nodeId, record);
  persist(turn, [{ key: durableKeys.quarantine(nodeId), record }]);
  const next = isExamined ? "it is examined" : "it may be used again";
  log(turn, { level: "info", type: "node", nodeId, text: `${text}: ${next}` });
}
