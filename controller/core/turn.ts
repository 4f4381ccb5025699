import type { Command, Effect, LogEntry, MetricLabels, MetricName, Reply } from "./contract.js";
import type { CoreState, GenerationState, JobState, NodeState } from "./state.js";

/** One call of `step`: the state, the time, and the effects so far. */
export interface Turn {
  readonly state: CoreState;
  readonly nowMs: number;
  readonly effects: Effect[];
}

/** Commands a node, fenced by this leader's term; nothing when it is not connected: the next Hello repeats it. */
export function send(turn: Turn, node: NodeState | undefined, message: Command): void {
  const { leader } = turn.state;
  if (leader === null || !leader.ready) throw new Error("send: this controller does not lead yet");
  if (node === undefined || node.session === null) return;
  turn.state.commandLast += 1;
  turn.effects.push({
    kind: "send",
    nodeId: node.nodeId,
    session: node.session,
    term: leader.term,
    commandId: turn.state.commandLast,
    message,
  });
}

/** Commands every node of a generation. */
export function sendAll(turn: Turn, generation: GenerationState, message: Command): void {
  for (const nodeId of generation.nodeRanks.keys()) send(turn, turn.state.nodes.get(nodeId), message);
}

/** Commands a node something whose effect will be judged: see `hasHeard`. */
export function tell(turn: Turn, generation: GenerationState, nodeId: string, message: Command): void {
  const node = turn.state.nodes.get(nodeId);
  send(turn, node, message);
  if (node === undefined || node.session === null) generation.told.delete(nodeId);
  else {
    const { commandLast, leader } = turn.state;
    const { session } = node;
    generation.told.set(nodeId, { session, term: leader!.term, commandId: commandLast, atMs: turn.nowMs });
  }
}

/**
 * Whether what the node was told last has reached it. On a network that passes messages one way only, a node that
 * sends heartbeats and does not obey is not a node that hangs.
 * @param afterId and some command that was sent after this one, too
 */
export function hasHeard(turn: Turn, generation: GenerationState, nodeId: string, afterId = 0): boolean {
  const told = generation.told.get(nodeId);
  const node = turn.state.nodes.get(nodeId);
  if (told === undefined || !isReachable(turn, node) || node.session !== told.session) return false;
  const heard = node.heardCommand;
  if (heard === null) return true;
  const leastId = Math.max(told.commandId, afterId + 1);
  return heard.term > told.term || (heard.term === told.term && heard.commandId >= leastId);
}

export function log(turn: Turn, entry: Omit<LogEntry, "jobId" | "nodeId"> & Partial<LogEntry>): void {
  turn.effects.push({ kind: "log", entry: { jobId: null, nodeId: null, ...entry } });
}

/** Moves a job to a stage with its reason; the change reaches the event log once. */
export function enter(turn: Turn, job: JobState, stage: JobState["stage"], reason: string): void {
  const changed = job.stage !== stage || job.reason !== reason;
  job.stage = stage;
  job.reason = reason;
  if (changed) log(turn, { level: "info", type: "phase", jobId: job.record.jobId, text: reason });
}

export function arm(turn: Turn, timer: string, atMs: number): void {
  if (turn.state.timers.get(timer) === atMs) return;
  turn.state.timers.set(timer, atMs);
  turn.effects.push({ kind: "armTimer", timer, atMs });
}

/** A timer that looks at what may have changed: it may only be moved to fire earlier. */
export function armSooner(turn: Turn, timer: string, atMs: number): void {
  const armedMs = turn.state.timers.get(timer);
  if (armedMs === undefined || armedMs > atMs) arm(turn, timer, atMs);
}

export function disarm(turn: Turn, timer: string): void {
  if (turn.state.timers.delete(timer)) turn.effects.push({ kind: "cancelTimer", timer });
}

/** Its labels are those of the catalogue, neither more nor fewer: a series that lacks one is none of its job's. */
export function observe<Name extends MetricName>(
  turn: Turn,
  metric: Name,
  value: number,
  ...[labels]: keyof MetricLabels<Name> extends never ? [] : [labels: MetricLabels<Name>]
): void {
  turn.effects.push({ kind: "observe", metric, value, labels: labels ?? {} });
}

export function reply(turn: Turn, requestId: string, result: Reply): void {
  turn.effects.push({ kind: "reply", requestId, result });
}

/** Connected, and heard of within three heartbeats. */
export function isReachable(turn: Turn, node: NodeState | undefined): node is NodeState {
  return node !== undefined && node.session !== null && turn.nowMs - node.heardMs <= silenceMs(turn);
}

/** Reachable, and for long enough since a silence that what it tells is news. */
export function isInSight(turn: Turn, nodeId: string): boolean {
  const node = turn.state.nodes.get(nodeId);
  return isReachable(turn, node) && turn.nowMs >= node.steadyMs;
}

/** When a node was last heard; a new leader counts silence from its own election. */
export function heardMs(turn: Turn, nodeId: string): number {
  const { leader, nodes } = turn.state;
  return Math.max(leader!.electedMs, nodes.get(nodeId)?.heardMs ?? 0);
}

/** Least time without a change that says anything: pages are up to a heartbeat old, and as late as a message may be without its node counting as silent. */
export function pageAgeMs(turn: Turn): number {
  return silenceMs(turn) + turn.state.config.limits.heartbeatMs;
}

/** A node silent for longer is unreachable. */
export function silenceMs(turn: Turn): number {
  return 3 * turn.state.config.limits.heartbeatMs;
}

/** Timers of one job. `stage` belongs to whatever stage it is in; `stall` to a running generation; `leave` to one with a member that leaves; `words` to one with a rank that wrote of broken hardware. */
export const jobTimers = {
  stage: (job: JobState) => `job/${job.record.jobId}/stage`,
  stall: (job: JobState) => `job/${job.record.jobId}/stall`,
  leave: (job: JobState) => `job/${job.record.jobId}/leave`,
  words: (job: JobState) => `job/${job.record.jobId}/words`,
};
export const RECONSIDER_TIMER = "reconsider";
export const STORE_TIMER = "store";
/** Self-checks that are not answered, quarantines that end. */
export const CHECKS_TIMER = "checks";
