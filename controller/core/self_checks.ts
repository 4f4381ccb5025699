import type { CheckResult } from "../../gen/goku/v1/agent.pb.js";
import { jobTraits } from "../../job/command_job.js";
import { durableKeys } from "./contract.js";
import { isDiagnosed, onDiagnosed, pursueDiagnosis } from "./diagnosis.js";
import { persist } from "./durable.js";
import { fleetNode, mediansFor } from "./fleet.js";
import { reconsider } from "./jobs.js";
import { badText, judgeChecks } from "./judge_checks.js";
import { isExpired, quarantineForChecks } from "./quarantine.js";
import type { CheckReading, CheckRun, JobState, NodeHealth, NodeState } from "./state.js";
import { arm, armSooner, CHECKS_TIMER, isReachable, log, observe, send, type Turn } from "./turn.js";
import type { NodeHello, Report } from "./wire.js";

/** What a node can examine alone, in order. */
const LONE_CHECKS = ["memory", "matrix", "copy", "disk", "checkpoint_disk", "loopback"];
/** What it examines each of its CUDA devices with, in order. */
const DEVICE_CHECKS = ["device_memory", "device_matrix", "device_upload", "device_download", "device_copy"];
/** A node that was slow once is measured for so much longer before it is called slow. */
const CONFIRM_FACTOR = 5;
/** A node has come: what is known of it, and whether it is to be examined before it is used. */
export function onNodeHello(turn: Turn, node: NodeState, hello: NodeHello): void {
  if (turn.state.config.limits.selfCheckMs === 0) return;
  const { health } = turn.state;
  const known = health.get(node.nodeId);
  if (known?.incarnation === node.incarnation) {
    if (known.run !== null) endRun(known); // its answer may be lost with the stream
  } else health.set(node.nodeId, newcomer(turn, node, hello));
  considerChecks(turn, node);
  pursueDiagnosis(turn);
}

function newcomer(turn: Turn, node: NodeState, { selfCheck }: NodeHello): NodeHealth {
  const { incarnation } = node;
  const base = { incarnation, run: null, awaitedUntilMs: null } as const;
  if (!selfCheck?.every(({ ok }) => ok))
    return { ...base, state: "due", why: "it joined", readings: [], checkedMs: null };
  const readings = selfCheck.map(readingOf);
  return { ...base, state: "passed", why: "passed before", readings, checkedMs: turn.nowMs };
}

function endRun(health: NodeHealth): void {
  const { run } = health;
  health.run = null;
  if (run !== null && health.state === "running") health.state = "due";
}

/** Examines a node that nobody uses, where that is due. */
export function considerChecks(turn: Turn, node: NodeState): void {
  const health = turn.state.health.get(node.nodeId);
  if (health === undefined || health.run !== null || !mayExamine(turn, node)) return;
  if (turn.state.quarantine.has(node.nodeId)) health.state = "due";
  if (health.state === "due") startChecks(turn, node, "use");
}

/** One whose quarantine may end need not be free: its job may wait for nothing but this node. Ranks that still leave it say so. */
function mayExamine(turn: Turn, node: NodeState): boolean {
  const bad = turn.state.quarantine.get(node.nodeId);
  if (bad === undefined) return isFree(turn, node);
  return isExpired(turn, bad) && isReachable(turn, node) && !node.releasing && node.leaving === null;
}

/** Nobody's ranks or snapshots are there, and it stays. */
export function isFree(turn: Turn, node: NodeState): boolean {
  return (
    isReachable(turn, node) &&
    node.jobId === null &&
    node.heldJobId === null &&
    !node.releasing &&
    node.leaving === null
  );
}

/** Whether a job may be given this node, as far as self-checks go: one that it has already, or one that passed. */
export function mayServe(turn: Turn, job: JobState, node: NodeState): boolean {
  const health = turn.state.health.get(node.nodeId);
  const isPassed = health === undefined || health.state === "passed";
  if (isPassed && !isDiagnosed(turn.state, node.nodeId)) return true;
  return node.heldJobId === job.record.jobId || (job.generation?.nodeRanks.has(node.nodeId) ?? false);
}

/** Asks the agent to examine its node. */
export function startChecks(
  turn: Turn,
  node: NodeState,
  purpose: "use" | "diagnosis",
  isSecond = false,
): void {
  const { selfCheckMs, diagnoseMs } = turn.state.config.limits;
  const budgetMs = (isSecond ? CONFIRM_FACTOR : 1) * (purpose === "diagnosis" ? diagnoseMs : selfCheckMs);
  const checkpointUri = checkpointFolder(turn);
  const lone = LONE_CHECKS.filter((name) => name !== "checkpoint_disk" || checkpointUri !== "");
  const checks = node.devices.length === 0 ? lone : [...lone, ...DEVICE_CHECKS];
  const checkId = BigInt(beginRun(turn, node, purpose, isSecond));
  send(turn, node, { $case: "selfCheck", value: { checkId, checks, budgetMs, checkpointUri } });
}

/** Notes that a node is being examined; returns the number of the check. */
export function beginRun(
  turn: Turn,
  node: NodeState,
  purpose: CheckRun["purpose"],
  isSecond = false,
): number {
  const { state, nowMs } = turn;
  const health = state.health.get(node.nodeId)!;
  const checkId = ++state.checkLast;
  const deadlineMs = nowMs + state.config.limits.selfCheckAnswerMs;
  health.state = "running";
  health.run = { checkId, session: node.session!, sentMs: nowMs, deadlineMs, purpose, isSecond, clock: null };
  armSooner(turn, CHECKS_TIMER, deadlineMs); // looks at one node, not at all: many begin at the same time
  return checkId;
}

/** Where the newest living job writes, or the newest of all: a disk worth a look. Empty: none on a disk. */
function checkpointFolder(turn: Turn): string {
  const jobs = [...turn.state.jobs.values()];
  const job = jobs.findLast(({ record }) => record.outcome === null) ?? jobs.at(-1);
  const uri = (job && jobTraits(job.record.job).checkpoint?.uri) ?? "";
  return uri.startsWith("file://") ? uri : "";
}

/** The agent has begun: its clock, read while the question and the answer were under way. */
export function onCheckBegun(turn: Turn, node: NodeState, report: Report & { kind: "checkBegun" }): void {
  const run = runOf(turn, node, report.checkId);
  if (run === null) return;
  const uncertaintyMs = (turn.nowMs - run.sentMs) / 2;
  run.clock ??= { skewMs: report.clockMs - (run.sentMs + uncertaintyMs), uncertaintyMs };
  if (run.purpose === "pair") pursueDiagnosis(turn, { node, begun: report });
}

export function onCheckReport(turn: Turn, node: NodeState, report: Report & { kind: "checked" }): void {
  const run = runOf(turn, node, report.checkId);
  if (run === null) return;
  const health = turn.state.health.get(node.nodeId)!;
  if (run.purpose === "pair") {
    health.run = null;
    health.state = "passed"; // only nodes that have passed are paired
    pursueDiagnosis(turn, {
      node,
      result: report.busy === "" ? (report.results.map(readingOf)[0] ?? null) : null,
    });
    return;
  }
  endRun(health);
  if (report.busy !== "") {
    // A job that waits for it asks again soon, and so does the timer where it is free.
    if (run.purpose === "diagnosis")
      onDiagnosed(turn, node.nodeId, { verdict: "skipped", reason: `busy: ${report.busy}` });
    armChecks(turn);
    return;
  }
  health.readings = report.results.map(readingOf);
  if (run.clock !== null) health.readings.push(clockReading(run.clock));
  health.checkedMs = turn.nowMs;
  conclude(turn, node, health, run);
}

function runOf(turn: Turn, node: NodeState, checkId: number): CheckRun | null {
  const run = turn.state.health.get(node.nodeId)?.run ?? null;
  return run !== null && run.checkId === checkId && run.session === node.session ? run : null;
}

/** All checks of a node have ended: it may be used, is measured once more, or is a bad one. */
function conclude(turn: Turn, node: NodeState, health: NodeHealth, run: CheckRun): void {
  const { nodeId } = node;
  const judged = judgeChecks(fleetNode(turn.state, nodeId)!, mediansFor(turn.state));
  const bad = badText(judged);
  const failed = judged.some(({ verdict }) => verdict === "failed");
  // One slow measurement may be that of a machine that was busy just then.
  if (bad !== null && !failed && !run.isSecond && run.purpose !== "pair") {
    log(turn, { level: "warning", type: "node", nodeId, text: `${nodeId} is measured once more: ${bad}` });
    startChecks(turn, node, run.purpose, true);
    return;
  }
  observe(turn, "goku_selfchecks_total", 1, { verdict: bad === null ? "passed" : "failed" });
  health.awaitedUntilMs = null;
  if (bad === null) pass(turn, node, health);
  else fail(turn, nodeId, bad);
  if (run.purpose === "diagnosis") {
    onDiagnosed(turn, nodeId, { verdict: bad === null ? "passed" : "failed", reason: bad ?? "" });
  }
  reconsider(turn);
}

function pass(turn: Turn, { nodeId }: NodeState, health: NodeHealth): void {
  health.state = "passed";
  health.why = "its self-checks passed";
  const seconds = health.readings.reduce((sum, reading) => sum + reading.seconds, 0);
  const text = `${nodeId} passed ${health.readings.length} self-checks in ${seconds.toFixed(1)} s`;
  log(turn, { level: "info", type: "node", nodeId, text });
  const bad = turn.state.quarantine.get(nodeId);
  if (bad === undefined || !isExpired(turn, bad)) return;
  turn.state.quarantine.delete(nodeId);
  persist(turn, [{ key: durableKeys.quarantine(nodeId), record: null }]);
  log(turn, {
    level: "info",
    type: "node",
    nodeId,
    text: `${nodeId} may be used again: its quarantine is over`,
  });
}

/** The node gets no ranks until it passes. */
export function fail(turn: Turn, nodeId: string, bad: string): void {
  const health = turn.state.health.get(nodeId);
  if (health !== undefined) {
    health.state = "failed";
    health.why = bad;
  }
  quarantineForChecks(turn, nodeId, `self-check: ${bad}`);
  armChecks(turn);
}

/** A person vouches for it: its word goes above what the checks found. */
export function vouch(turn: Turn, nodeId: string): void {
  const health = turn.state.health.get(nodeId);
  if (health === undefined || health.run !== null) return;
  health.state = "passed";
  health.why = "a person released it";
}

/** Agents that have not answered are asked again; quarantines that are over lead to new checks. */
export function onChecksTimer(turn: Turn): void {
  const { state, nowMs } = turn;
  for (const [nodeId, health] of state.health) {
    const node = state.nodes.get(nodeId);
    const { run } = health;
    if (run !== null && nowMs >= run.deadlineMs) {
      const text = `${nodeId} has not said what its self-check found: asked again`;
      log(turn, { level: "warning", type: "node", nodeId, text });
      endRun(health);
      if (run.purpose === "diagnosis")
        onDiagnosed(turn, nodeId, { verdict: "skipped", reason: "it did not answer" });
    }
    if (node !== undefined) considerChecks(turn, node);
  }
  pursueDiagnosis(turn);
  armChecks(turn);
}

/** Wakes this up for whatever is due next. */
export function armChecks(turn: Turn): void {
  const { health, quarantine, diagnosis, nodes } = turn.state;
  const isAskedAgain = [...health].some(([nodeId, { state, run }]) => {
    const node = nodes.get(nodeId);
    return state === "due" && run === null && node !== undefined && mayExamine(turn, node);
  });
  const times = [
    ...(isAskedAgain ? [turn.nowMs + turn.state.config.limits.heartbeatMs] : []),
    ...[...health.values()].flatMap(({ run }) => (run === null ? [] : [run.deadlineMs])),
    ...[...quarantine.values()].flatMap(({ untilMs }) => (untilMs === null ? [] : [untilMs])),
    ...(diagnosis?.stage === "pairs" ? [diagnosis.waveUntilMs] : []),
  ].filter((atMs) => atMs > turn.nowMs);
  if (times.length > 0) arm(turn, CHECKS_TIMER, Math.min(...times));
}

export function readingOf({ name, ok, value, unit, detail, seconds, device }: CheckResult): CheckReading {
  return { name, ok, value, unit, detail, seconds, uncertainty: 0, device: device ?? null };
}

function clockReading({ skewMs, uncertaintyMs }: { skewMs: number; uncertaintyMs: number }): CheckReading {
  return {
    name: "clock",
    ok: true,
    value: skewMs,
    unit: "ms",
    detail: `ahead of the controller's, within ${uncertaintyMs.toFixed(1)} ms`,
    seconds: 0,
    uncertainty: uncertaintyMs,
    device: null,
  };
}
