import { forgive } from "./avoid.js";
import type { Event } from "./contract.js";
import { cutOff } from "./cut_pairs.js";
import { fleetNode, medians } from "./fleet.js";
import { addEvidence } from "./incident.js";
import { reconsider } from "./jobs.js";
import { badText, type FleetMedians, judgeChecks } from "./judge_checks.js";
import { planPairs } from "./plan_pairs.js";
import { armChecks, beginRun, fail, isFree, startChecks } from "./self_checks.js";
import type {
  CheckReading,
  CoreState,
  DiagnosisState,
  JobState,
  NodeState,
  NodeVerdict,
  PairGroup,
} from "./state.js";
import { isReachable, log, reply, send, type Turn } from "./turn.js";
import type { Report } from "./wire.js";

/** Beside its work, a wave of collectives starts processes and connects them. */
const WAVE_SLACK_MS = 15_000;
const PAIR_CHECK = "collective";

/** A person wants to know how nodes are: each is examined alone, then those that passed in pairs. */
export function diagnose(turn: Turn, event: Event & { kind: "diagnosisRequested" }): void {
  const { requestId, nodeIds } = event;
  const { state } = turn;
  const unknown = nodeIds.find((nodeId) => !state.nodes.has(nodeId));
  if (unknown !== undefined) {
    const message = `Cannot diagnose node ${unknown}: it has never come, see gokuctl nodes`;
    reply(turn, requestId, { ok: false, code: "NOT_FOUND", message });
    return;
  }
  if (state.diagnosis !== null && state.diagnosis.stage !== "done") {
    const message = `Cannot diagnose nodes: diagnosis ${state.diagnosis.id} is under way, wait for its end`;
    reply(turn, requestId, { ok: false, code: "CONFLICT", message });
    return;
  }
  const diagnosis = open(turn, "nodes", null);
  for (const nodeId of (nodeIds.length > 0 ? nodeIds : [...state.nodes.keys()]).sort()) {
    const node = state.nodes.get(nodeId)!;
    const reason = reasonToSkip(turn, node);
    diagnosis.nodes.set(nodeId, { verdict: reason === null ? "running" : "skipped", reason: reason ?? "" });
    if (reason === null) startChecks(turn, node, "diagnosis");
  }
  reply(turn, requestId, { ok: true, jobId: "" });
  pursueDiagnosis(turn);
}

/** The nodes of a job that waits, and free ones as witnesses, are tried in pairs; all of them have passed alone. */
export function diagnosePairs(turn: Turn, jobId: string, nodeIds: readonly string[]): DiagnosisState {
  const diagnosis = open(turn, "pairs", jobId);
  for (const nodeId of nodeIds) diagnosis.nodes.set(nodeId, { verdict: "passed", reason: "" });
  nextWave(turn, diagnosis);
  return diagnosis;
}

function open(turn: Turn, stage: "nodes" | "pairs", jobId: string | null): DiagnosisState {
  const { state } = turn;
  const id = (state.diagnosis?.id ?? 0) + 1;
  const base = { nodes: new Map(), trials: [], wave: [], waveUntilMs: 0, badLinks: [] };
  state.diagnosis = { id, jobId, startedMs: turn.nowMs, stage, ...base };
  return state.diagnosis;
}

function reasonToSkip(turn: Turn, node: NodeState): string | null {
  const { jobs, health } = turn.state;
  const jobId = node.jobId ?? node.heldJobId;
  if (node.session === null) return "it cannot be reached";
  if (jobId !== null) return `busy: runs job ${jobs.get(jobId)?.record.job.name ?? jobId}`;
  if (!isFree(turn, node)) return node.leaving === null ? "busy: is being freed" : "it leaves";
  return health.has(node.nodeId) ? null : "self-checks are off";
}

/** A diagnosis is under way that still wants this node: no job is given it before the end. */
export function isDiagnosed({ diagnosis }: CoreState, nodeId: string): boolean {
  if (diagnosis === null || diagnosis.stage === "done") return false;
  const verdict = diagnosis.nodes.get(nodeId)?.verdict;
  return verdict === "running" || verdict === "passed";
}

/** What a node's own checks have come to. */
export function onDiagnosed(turn: Turn, nodeId: string, verdict: NodeVerdict): void {
  turn.state.diagnosis?.nodes.set(nodeId, verdict);
  pursueDiagnosis(turn);
}

/** Takes in what a member of a collective said, and does what is next. */
export function pursueDiagnosis(
  turn: Turn,
  heard?:
    | { node: NodeState; begun: Report & { kind: "checkBegun" } }
    | { node: NodeState; result: CheckReading | null },
): void {
  const { diagnosis } = turn.state;
  if (diagnosis === null || diagnosis.stage === "done") return;
  if (heard !== undefined) {
    const { nodeId } = heard.node;
    const group = diagnosis.wave.find(({ members }) => members.includes(nodeId));
    if (group === undefined) return;
    if ("begun" in heard) onListening(turn, group, nodeId, heard.begun);
    else if (heard.result === null) lose(diagnosis, nodeId);
    else group.results.set(nodeId, heard.result);
  }
  dropLost(turn, diagnosis);
  if (diagnosis.stage === "nodes") {
    if ([...diagnosis.nodes.values()].some(({ verdict }) => verdict === "running")) return;
    diagnosis.stage = "pairs";
    nextWave(turn, diagnosis);
    return;
  }
  const overdue = turn.nowMs >= diagnosis.waveUntilMs;
  if (!overdue && !diagnosis.wave.every((group) => isOver(diagnosis, group))) return;
  endWave(turn, diagnosis);
  nextWave(turn, diagnosis);
}

/** Nodes that went away, or are not there for it any more; their partners are not blamed for that. */
function dropLost(turn: Turn, diagnosis: DiagnosisState): void {
  for (const [nodeId, { verdict }] of diagnosis.nodes) {
    const group = diagnosis.wave.find(({ members }) => members.includes(nodeId));
    const isAsked =
      verdict === "running" || (verdict === "passed" && group !== undefined && !group.results.has(nodeId));
    if (isAsked && !isUnderWay(turn, nodeId)) lose(diagnosis, nodeId);
  }
}

/** Its agent still owes the answer to what this diagnosis asked. */
function isUnderWay(turn: Turn, nodeId: string): boolean {
  const run = turn.state.health.get(nodeId)?.run;
  const session = turn.state.nodes.get(nodeId)?.session ?? null;
  const isOurs = run?.purpose === "diagnosis" || run?.purpose === "pair";
  return isOurs && session !== null && run.session === session;
}

function lose(diagnosis: DiagnosisState, nodeId: string): void {
  diagnosis.nodes.set(nodeId, { verdict: "skipped", reason: "it was lost meanwhile" });
}

/** All its members have answered, or one of them is not there any more. */
function isOver(diagnosis: DiagnosisState, { members, results }: PairGroup): boolean {
  const isLost = members.some((nodeId) => diagnosis.nodes.get(nodeId)?.verdict !== "passed");
  return isLost || results.size === members.length;
}

/** Nodes that take part in collectives: those that have passed alone. */
function paired(diagnosis: DiagnosisState): string[] {
  return [...diagnosis.nodes].filter(([, { verdict }]) => verdict === "passed").map(([nodeId]) => nodeId);
}

/** The next collectives, of nodes that are all there: those that have gone since they passed are lost. */
function planWave(turn: Turn, diagnosis: DiagnosisState): ReturnType<typeof planPairs> {
  for (;;) {
    const plan = planPairs(paired(diagnosis), diagnosis.trials);
    if (plan.kind === "done") return plan;
    const gone = plan.groups.flat().filter((nodeId) => !isThere(turn, diagnosis, nodeId));
    if (gone.length === 0) return plan;
    for (const nodeId of gone) lose(diagnosis, nodeId);
  }
}

/** It is connected and free, and still what passed alone: another process of it would be examined first. */
function isThere(turn: Turn, { jobId }: DiagnosisState, nodeId: string): boolean {
  const node = turn.state.nodes.get(nodeId);
  if (node === undefined || turn.state.health.get(nodeId)?.state !== "passed") return false;
  return isFree(turn, node) || (jobId !== null && isAtRest(turn, node, jobId));
}

/** The job that has it is between two generations: no rank works there, and its memory is left as it is. */
export function isAtRest(turn: Turn, node: NodeState, jobId: string): boolean {
  const isIts = node.heldJobId === jobId || node.jobId === jobId;
  const isHere = isReachable(turn, node) && !node.releasing && node.leaving === null;
  const stage = turn.state.jobs.get(jobId)?.stage;
  return isIts && isHere && stage !== "running" && stage !== "forming";
}

function nextWave(turn: Turn, diagnosis: DiagnosisState): void {
  const { state, nowMs } = turn;
  const plan = planWave(turn, diagnosis);
  if (plan.kind === "done") {
    finish(turn, diagnosis, plan);
    return;
  }
  const { diagnosePairMs } = state.config.limits;
  diagnosis.waveUntilMs = nowMs + diagnosePairMs + WAVE_SLACK_MS;
  diagnosis.wave = plan.groups.map((members) => ({
    number: ++state.checkLast,
    members,
    ports: new Map(),
    results: new Map(),
  }));
  for (const nodeId of plan.groups.flat()) {
    const node = state.nodes.get(nodeId)!;
    const checkId = BigInt(beginRun(turn, node, "pair"));
    const value = { checkId, checks: [PAIR_CHECK], budgetMs: diagnosePairMs, checkpointUri: "" };
    send(turn, node, { $case: "selfCheck", value });
  }
  armChecks(turn);
}

/** A member listens; when all do, they are told of each other. */
function onListening(
  turn: Turn,
  group: PairGroup,
  nodeId: string,
  { port, pid }: Report & { kind: "checkBegun" },
): void {
  const { state } = turn;
  group.ports.set(nodeId, { port, pid });
  if (group.ports.size < group.members.length) return;
  const members = group.members.map((member, rank) => ({
    rank,
    nodeId: member,
    host: state.nodes.get(member)?.host ?? "",
    ...group.ports.get(member)!,
  }));
  // Terms make the numbers of another leader others.
  const number = (BigInt(state.leader!.term) << 32n) | BigInt(group.number);
  for (const member of group.members) {
    const run = state.health.get(member)?.run;
    if (run == null) continue;
    // The secret is the shell's: decisions need none.
    const value = { checkId: BigInt(run.checkId), group: number, members, secret: "" };
    send(turn, state.nodes.get(member), { $case: "selfCheckConnect", value });
  }
}

function endWave(turn: Turn, diagnosis: DiagnosisState): void {
  const { wave } = diagnosis;
  diagnosis.wave = [];
  for (const { members, results } of wave) {
    for (const nodeId of members) {
      if (diagnosis.nodes.get(nodeId)?.verdict !== "passed") continue; // it was lost
      const health = turn.state.health.get(nodeId)!;
      if (health.run !== null) {
        health.run = null;
        health.state = "passed";
      }
      const others = health.readings.filter(({ name }) => name !== PAIR_CHECK);
      health.readings = [...others, results.get(nodeId) ?? silence()];
    }
  }
  // Judged when all of them are in, since what is slow is told by the others. A slow one does not say whose fault that is,
  // nor whether it was chance: its members are tried with others, like those of one that failed.
  const fleet = medians(turn.state);
  for (const { members, results } of wave) {
    const isWell = (nodeId: string) =>
      results.get(nodeId)?.ok === true && !isSlowPair(turn.state, nodeId, fleet);
    diagnosis.trials.push({ members, ok: members.every(isWell) });
  }
}

function isSlowPair(state: CoreState, nodeId: string, fleet: FleetMedians): boolean {
  const node = fleetNode(state, nodeId);
  const judged = node === null ? [] : judgeChecks(node, fleet);
  return judged.some(({ reading, verdict }) => reading.name === PAIR_CHECK && verdict === "slow");
}

function silence(): CheckReading {
  const detail = "it did not say what came of it";
  const base = { name: PAIR_CHECK, ok: false, value: 0, unit: "GB/s", detail, seconds: 0 };
  return { ...base, uncertainty: 0, device: null };
}

function finish(
  turn: Turn,
  diagnosis: DiagnosisState,
  { bad, suspect, badLinks }: { bad: string[]; suspect: string[]; badLinks: string[][] },
): void {
  diagnosis.stage = "done";
  diagnosis.badLinks = badLinks;
  for (const nodeId of paired(diagnosis))
    if (!bad.includes(nodeId) && !isLastOk(diagnosis, nodeId)) forgetCollective(turn, nodeId);
  const fleet = medians(turn.state);
  for (const nodeId of paired(diagnosis)) {
    if (suspect.includes(nodeId)) {
      const reason =
        "its collectives fail or are slow, and too few nodes are good to say whose fault that is";
      diagnosis.nodes.set(nodeId, { verdict: "suspect", reason });
      continue;
    }
    const why = badText(judgeChecks(fleetNode(turn.state, nodeId)!, fleet));
    if (why === null) {
      forgive(turn, nodeId, "it passed a diagnosis");
      continue;
    }
    diagnosis.nodes.set(nodeId, { verdict: "failed", reason: why });
    fail(turn, nodeId, why);
  }
  for (const members of badLinks) {
    const text = `collectives fail or are slow between ${members.join(" and ")}, which succeed with others: look at the network between them`;
    log(turn, { level: "alarm", type: "alarm", text });
  }
  const tally = [...diagnosis.nodes.values()].filter(({ verdict }) => verdict !== "skipped");
  const good = tally.filter(({ verdict }) => verdict === "passed").length;
  const text = `diagnosis ${diagnosis.id}: ${good} of ${tally.length} nodes passed`;
  log(turn, { level: good === tally.length ? "info" : "alarm", type: "node", text });
  const job = turn.state.jobs.get(diagnosis.jobId ?? "");
  if (job !== undefined) tellJob(turn, job, diagnosis);
  reconsider(turn);
}

/** What its nodes' collectives came to is evidence, and of a bad way it uses one end no more where it can. */
function tellJob(turn: Turn, job: JobState, { id, nodes, badLinks }: DiagnosisState): void {
  const bad = [...nodes].filter(([, { verdict }]) => verdict === "failed" || verdict === "suspect");
  const found = [
    ...bad.map(([nodeId, { verdict, reason }]) => `${nodeId} ${verdict}: ${reason}`),
    ...badLinks.map((members) => `the way between ${members.join(" and ")} is bad`),
  ];
  const what = found.length === 0 ? "all succeed" : found.join("; ");
  if (job.incident !== null)
    addEvidence(job.incident, turn.nowMs, `collectives in pairs (diagnosis ${id}): ${what}`);
  const cuts = badLinks.map(([fromNode, toNode]) => ({ fromNode: fromNode!, toNode: toNode! }));
  for (const [nodeId, why] of cutOff(cuts)) job.unconnected.set(nodeId, why);
}

/** The last collective that it took part in went well. */
function isLastOk({ trials }: DiagnosisState, nodeId: string): boolean {
  return trials.findLast(({ members }) => members.includes(nodeId))?.ok ?? true;
}

/** Of a good node whose last collective failed, or was slow, since its partner is bad, or the way there: that says nothing of it. */
function forgetCollective(turn: Turn, nodeId: string): void {
  const health = turn.state.health.get(nodeId);
  if (health === undefined) return;
  health.readings = health.readings.filter(({ name }) => name !== PAIR_CHECK);
}
