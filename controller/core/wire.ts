import type {
  CheckResult,
  CounterRate,
  Hello,
  NodeSignal,
  PreviewEnded,
  RankProgress,
  StepCompleted,
  HeldState as WireHeld,
  NodeLeaving as WireLeaving,
  RankTimes as WireTimes,
} from "../../gen/goku/v1/agent.pb.js";
import type { ErrorDetail, StateName as WireState } from "../../gen/goku/v1/common.pb.js";
import type { AgentMessage, StateName } from "./contract.js";

/** Sums over the steps that a rank has completed in a generation; see RankTimes on the wire. */
export interface RankTimes {
  steps: number;
  /** Millions of multiply-adds; 0: it had no pack. */
  work: number;
  forwardUs: number;
  backwardUs: number;
  optimizerUs: number;
  dataUs: number;
  waitUs: number;
}

/** A rank's progress page as last told, in numbers. */
export interface RankPage {
  rank: number;
  pid: number;
  step: number;
  microStep: number;
  phase: string;
  /** -1 outside the blocks. */
  layer: number;
  entered: number;
  completed: number;
  collective: string;
  group: string;
  unchangedMs: number;
  /** For how long of that its main thread has been stopped or asleep without a break. */
  blockedMs: number;
  /** Generation that the page is about. */
  generation: number;
  /** Null: the agent does not tell. */
  times: RankTimes | null;
}

/** A whole snapshot of one rank; `layout` as text, for example 1x2x2. */
export interface HeldState {
  state: StateName;
  rank: number;
  layout: string;
}

/** Where bytes of a restored state came from; `insteadOf`: why an earlier source did not serve, empty for the first. */
export interface RestoredPart {
  source: string;
  bytes: number;
  insteadOf: string;
}

/** What became of a preview. */
export type PreviewOutcome =
  | { kind: "drawn"; uri: string; seconds: number }
  | { kind: "skipped"; reason: string }
  | { kind: "failed"; error: ErrorDetail };

/**
 * What an agent says, checked and in numbers. Counts above 2^53 and times and sums above AMOUNT_MAX are malformed: nothing
 * real reaches them.
 */
export type Report =
  | { kind: "hello"; hello: NodeHello }
  | {
      kind: "heartbeat";
      generation: number;
      pages: RankPage[];
      held: HeldState[] | null;
      /** Newest command taken in; null: the agent does not tell. */
      heard: { term: number; commandId: number } | null;
      /** Growth of counters in the last minute. */
      rates: ReadonlyMap<string, number>;
    }
  | { kind: "signals"; generation: number; signals: ToldSign[] }
  | { kind: "ready"; generation: number; rank: number; pid: number; port: number; held: StateName[] }
  | { kind: "connected"; generation: number; rank: number }
  | { kind: "restored"; generation: number; rank: number; state: StateName; parts: RestoredPart[] }
  | { kind: "step"; generation: number; number: number; replicated: number; step: StepCompleted }
  | {
      kind: "exited";
      generation: number;
      rank: number;
      exitCode: number;
      signal: string;
      lastLines: string[];
      page: RankPage | null;
    }
  | {
      kind: "failed";
      generation: number;
      rank: number;
      error: ErrorDetail;
      lastLines: string[];
      /** Ranks of the node that failed alike. */
      others: number[];
    }
  | { kind: "inspected"; generation: number; rank: number; lines: string[] }
  | {
      kind: "saved";
      generation: number;
      state: StateName;
      uri: string;
      bytes: number;
      seconds: number;
    }
  | { kind: "saveFailed"; generation: number; state: StateName; error: ErrorDetail }
  /** `error` null: old checkpoints are gone. */
  | { kind: "retentionEnded"; generation: number; state: StateName; error: ErrorDetail | null }
  /** `writers` are whole, of so many; `damage` null: so is all that the node has read. */
  | {
      kind: "checkpointRead";
      generation: number;
      state: StateName;
      uri: string;
      writers: readonly number[];
      of: number;
      damage: string | null;
    }
  | {
      kind: "replicaFailed";
      generation: number;
      rank: number;
      state: StateName;
      keeperNodeId: string;
      error: ErrorDetail;
    }
  | {
      kind: "twinsDiffer";
      generation: number;
      rank: number;
      state: StateName;
      ranks: readonly number[];
      /** Those that most of them contradict. */
      odd: readonly number[];
      tensor: string;
      start: number;
      length: number;
      chunks: number;
      /** The last step whose states were the same; null: not known. */
      equal: number | null;
    }
  | {
      kind: "storageProof";
      generation: number;
      written: boolean;
      /** Nodes whose file it did not see. */
      missing: ReadonlySet<string>;
      /** Empty: it could write and look. */
      error: string;
    }
  | { kind: "previewDue"; generation: number; state: StateName }
  | { kind: "previewRead"; generation: number; state: StateName }
  | { kind: "previewEnded"; generation: number; state: StateName; outcome: PreviewOutcome }
  | {
      kind: "finished";
      generation: number;
      rank: number;
      state: StateName;
      reason: "steps" | "stop" | "yield";
    }
  | { kind: "released"; jobId: string }
  | ({ kind: "leaving" } & NodeLeaving)
  | { kind: "refusedPrepare"; generation: number; error: ErrorDetail }
  /** An examination has begun; `port`, `pid`: where its collective listens, 0 for none. */
  | { kind: "checkBegun"; checkId: number; clockMs: number; port: number; pid: number }
  /** `busy`: why nothing was examined; empty: it was. */
  | { kind: "checked"; checkId: number; results: CheckResult[]; busy: string }
  /** Rank output: kept by the shell, no decision depends on it. */
  | { kind: "output" };

/** A sign of trouble as an agent tells it; `atMs` on its own clock. */
export interface ToldSign {
  name: string;
  rank: number | null;
  device: string;
  text: string;
  count: number;
  atMs: number;
}

/** An agent was asked to end, by what, and how much of its grace is left. */
export interface NodeLeaving {
  graceMs: number;
  reason: string;
}

/** A CUDA device of a node. */
export interface NodeDevice {
  name: string;
  memoryBytes: number;
}

export interface NodeHello {
  nodeId: string;
  incarnation: string;
  slots: number;
  host: string;
  device: string;
  version: string;
  /** Null: it holds nothing of any job. */
  jobId: string | null;
  generation: number;
  pages: RankPage[];
  held: HeldState[];
  term: number;
  /** Null: it stays. */
  leaving: NodeLeaving | null;
  /** What fails together with it; its own id when nothing else does. */
  failureDomain: string;
  /** Agents with the same one share a machine. */
  machine: string;
  /** Of its agent's PeerService; 0: it has none. */
  peerPort: number;
  /** Where its metrics are read; empty: nowhere. */
  metricsUrl: string;
  /** Its CUDA devices. */
  devices: NodeDevice[];
  /** What this agent process found last when it examined its node; null: it has not. */
  selfCheck: CheckResult[] | null;
  /** What of the machine it cannot watch. */
  unwatched: string[];
}

/** Sums of such amounts stay finite, in milliseconds too. */
const AMOUNT_MAX = 1e30;
/** What an agent quotes, and how much it may leave unwatched. */
const SIGN_TEXT_MAX = 300;
const DAMAGE_LENGTH_MAX = 600;
const UNWATCHED_COUNT_MAX = 8;
/** Counters that there may be. */
const RATES_COUNT_MAX = 64;

class Malformed extends Error {}

/** Null when the message is malformed; the caller counts and drops it. */
export function readReport(message: AgentMessage): Report | null {
  try {
    return convert(message);
  } catch (error) {
    if (error instanceof Malformed) return null;
    throw error;
  }
}

function convert(message: AgentMessage): Report {
  switch (message.$case) {
    case "hello":
      return { kind: "hello", hello: readHello(message.value) };
    case "heartbeat": {
      const { generation, ranks, heldStates, heldStatesChanged, term, commandId, counterRates } =
        message.value;
      const held = heldStatesChanged ? heldStates.map(readHeld) : null;
      const heard =
        term === 0n && commandId === 0n ? null : { term: count(term), commandId: count(commandId) };
      return {
        kind: "heartbeat",
        generation: count(generation),
        pages: readPages(ranks, generation),
        held,
        heard,
        rates: readRates(counterRates),
      };
    }
    case "nodeSignals": {
      const { generation, signals } = message.value;
      return { kind: "signals", generation: count(generation), signals: signals.map(readSign) };
    }
    case "rankReady": {
      const { generation, rank, pid, port, heldStates } = message.value;
      return {
        kind: "ready",
        generation: count(generation),
        rank,
        pid,
        port,
        held: heldStates.map(readState),
      };
    }
    case "rankConnected":
      return { kind: "connected", generation: count(message.value.generation), rank: message.value.rank };
    case "rankRestored": {
      const { generation, rank, state, parts } = message.value;
      return {
        kind: "restored",
        generation: count(generation),
        rank,
        state: readState(state),
        parts: parts.map((part) => ({ ...part, bytes: count(part.bytes) })),
      };
    }
    case "stepCompleted": {
      const step = message.value;
      return {
        kind: "step",
        generation: count(step.generation),
        number: count(step.step),
        replicated: count(step.replicatedStep),
        step: checkStep(step),
      };
    }
    case "nodeReleased":
      return { kind: "released", jobId: message.value.jobId };
    case "nodeLeaving":
      return { kind: "leaving", ...readLeaving(message.value) };
    case "selfCheckBegun": {
      const { checkId, clockMs, port, pid } = message.value;
      return { kind: "checkBegun", checkId: count(checkId), clockMs: count(clockMs), port, pid };
    }
    case "selfCheckReport": {
      const { checkId, results, busy } = message.value;
      return { kind: "checked", checkId: count(checkId), results: results.map(readCheck), busy };
    }
    case "rankLog":
      return { kind: "output" };
    default:
      return convertEnding(message);
  }
}

type EndingMessage = Extract<
  AgentMessage,
  {
    $case:
      | "rankExited"
      | "rankFailed"
      | "checkpointCommitted"
      | "checkpointFailed"
      | "retentionEnded"
      | "checkpointRead"
      | "replicaFailed"
      | "storageProof"
      | "twinsDiffer"
      | "rankInspected"
      | "previewDue"
      | "previewRead"
      | "previewEnded"
      | "rankFinished"
      | "prepareRefused";
  }
>;

function convertEnding(message: EndingMessage): Report {
  const generation = count(message.value.generation);
  switch (message.$case) {
    case "rankExited": {
      const { rank, exitCode, signal, lastLines, progress } = message.value;
      const page = progress === undefined ? null : readPage(progress, message.value.generation);
      return { kind: "exited", generation, rank, exitCode, signal, lastLines, page };
    }
    case "rankFailed": {
      const { rank, error, lastLines, others } = message.value;
      return { kind: "failed", generation, rank, error: present(error), lastLines, others };
    }
    case "rankInspected": {
      const { rank, lines } = message.value;
      return { kind: "inspected", generation, rank, lines };
    }
    case "checkpointCommitted": {
      const { state, uri, bytes, seconds } = message.value;
      return {
        kind: "saved",
        generation,
        state: readState(state),
        uri,
        bytes: count(bytes),
        seconds: amount(seconds),
      };
    }
    case "checkpointFailed": {
      const { state, error } = message.value;
      return { kind: "saveFailed", generation, state: readState(state), error: present(error) };
    }
    case "retentionEnded": {
      const { state, error } = message.value;
      return { kind: "retentionEnded", generation, state: readState(state), error: error ?? null };
    }
    case "checkpointRead": {
      const { state, uri, writers, writerCount, damage } = message.value;
      const line = damage.slice(0, DAMAGE_LENGTH_MAX).replace(/\p{Cc}/gu, " ");
      return {
        kind: "checkpointRead",
        generation,
        state: readState(state),
        uri,
        writers,
        of: writerCount,
        damage: line === "" ? null : line,
      };
    }
    case "replicaFailed": {
      const { rank, state, keeperNodeId, error } = message.value;
      return {
        kind: "replicaFailed",
        generation,
        rank,
        state: readState(state),
        keeperNodeId,
        error: present(error),
      };
    }
    case "twinsDiffer": {
      const { rank, state, ranks, oddRanks, tensor, start, length, chunks, equalStep } = message.value;
      const equal = equalStep === undefined ? null : count(equalStep);
      const place = { tensor, start: count(start), length: count(length), chunks };
      return {
        kind: "twinsDiffer",
        generation,
        rank,
        state: readState(state),
        ranks,
        odd: oddRanks,
        ...place,
        equal,
      };
    }
    case "storageProof": {
      const { written, missingNodeIds, error } = message.value;
      return { kind: "storageProof", generation, written, missing: new Set(missingNodeIds), error };
    }
    case "previewDue":
    case "previewRead": {
      const { $case: kind, value } = message;
      return { kind, generation, state: readState(value.state) };
    }
    case "previewEnded": {
      const { state, outcome } = message.value;
      return { kind: "previewEnded", generation, state: readState(state), outcome: readOutcome(outcome) };
    }
    case "rankFinished": {
      const { rank, state, reason } = message.value;
      if (reason !== "steps" && reason !== "stop" && reason !== "yield") throw new Malformed();
      return { kind: "finished", generation, rank, state: readState(state), reason };
    }
    case "prepareRefused":
      return { kind: "refusedPrepare", generation, error: present(message.value.error) };
  }
}

/**
 * Its amounts go into sums that may only grow. Loss and gradient norm may be any number: that they are not finite is what
 * such a step has to tell.
 */
function checkStep(step: StepCompleted): StepCompleted {
  const { stepSeconds, computeSeconds, commWaitSeconds, dataWaitSeconds, snapshotSeconds } = step;
  const { optimizerSeconds, modelFlops, packFill, learningRate, waits, longestPauseSeconds } = step;
  for (const value of [
    ...[stepSeconds, computeSeconds, commWaitSeconds, dataWaitSeconds, snapshotSeconds, optimizerSeconds],
    ...[modelFlops, packFill, learningRate, longestPauseSeconds],
    ...(waits === undefined ? [] : Object.values(waits)),
  ])
    amount(value);
  return step;
}

function readOutcome(outcome: PreviewEnded["outcome"]): PreviewOutcome {
  switch (outcome?.$case) {
    case "drawn":
      return { kind: "drawn", uri: outcome.value.uri, seconds: amount(outcome.value.seconds) };
    case "skipped":
      return { kind: "skipped", reason: outcome.value };
    case "failed":
      return { kind: "failed", error: outcome.value };
    default:
      throw new Malformed();
  }
}

/** Of nearly all heartbeats. */
const NO_RATES: ReadonlyMap<string, number> = new Map();

function readRates(rates: readonly CounterRate[]): ReadonlyMap<string, number> {
  if (rates.length === 0) return NO_RATES;
  if (rates.length > RATES_COUNT_MAX) throw new Malformed();
  return new Map(rates.map(({ counter, perMinute }) => [counter, amount(perMinute)]));
}

/** What it quotes was written by anybody, and is shown to people: control characters are left out. */
function readSign({ kind, rank, device, text, count: seen, atMs }: NodeSignal): ToldSign {
  const clean = (words: string) => words.slice(0, SIGN_TEXT_MAX).replace(/\p{Cc}/gu, " ");
  if (seen < 1) throw new Malformed();
  return {
    name: kind,
    rank: rank ?? null,
    device: clean(device),
    text: clean(text),
    count: seen,
    atMs: count(atMs),
  };
}

function readHello(hello: Hello): NodeHello {
  if (hello.nodeId === "" || hello.incarnation === "" || hello.slots < 1) throw new Malformed();
  return {
    nodeId: hello.nodeId,
    incarnation: hello.incarnation,
    slots: hello.slots,
    host: hello.host,
    device: hello.device,
    version: hello.version,
    jobId: hello.jobId === "" ? null : hello.jobId,
    generation: count(hello.generation),
    pages: readPages(hello.ranks, hello.generation),
    held: hello.heldStates.map(readHeld),
    term: count(hello.term),
    leaving: hello.leaving === undefined ? null : readLeaving(hello.leaving),
    machine: hello.bootId === "" ? hello.host : hello.bootId,
    failureDomain: hello.failureDomain === "" ? hello.nodeId : hello.failureDomain,
    peerPort: hello.peerPort,
    metricsUrl: hello.metricsUrl,
    devices: hello.devices.map(({ name, memoryBytes }) => ({ name, memoryBytes: count(memoryBytes) })),
    selfCheck: hello.selfCheck === undefined ? null : hello.selfCheck.results.map(readCheck),
    unwatched: hello.unwatched.slice(0, UNWATCHED_COUNT_MAX).map((line) => line.slice(0, SIGN_TEXT_MAX)),
  };
}

function readCheck(result: CheckResult): CheckResult {
  if (result.name === "" || !Number.isFinite(result.value) || !Number.isFinite(result.seconds))
    throw new Malformed();
  return result;
}

function readLeaving({ graceMs, reason }: WireLeaving): NodeLeaving {
  return { graceMs: count(graceMs), reason };
}

function readPages(pages: readonly RankProgress[], generation: bigint): RankPage[] {
  return pages.map((page) => readPage(page, generation));
}

/** @param generation of the message, for agents that do not say which generation a page is about */
function readPage(page: RankProgress, generation: bigint): RankPage {
  return {
    rank: page.rank,
    pid: page.pid,
    step: count(page.step),
    microStep: page.microStep,
    phase: page.phase,
    layer: page.layer,
    entered: count(page.collectiveEntered),
    completed: count(page.collectiveCompleted),
    collective: page.collective,
    group: page.group,
    unchangedMs: count(page.unchangedMs),
    blockedMs: count(page.blockedMs),
    generation: count(page.generation === 0n ? generation : page.generation),
    times: page.times === undefined ? null : readTimes(page.times),
  };
}

function readTimes(times: WireTimes): RankTimes {
  return {
    steps: count(times.steps),
    work: count(times.work),
    forwardUs: count(times.forwardUs),
    backwardUs: count(times.backwardUs),
    optimizerUs: count(times.optimizerUs),
    dataUs: count(times.dataUs),
    waitUs: count(times.waitUs),
  };
}

function readHeld(held: WireHeld): HeldState {
  const { dpReplicate, dpShard, sp } = present(held.layout);
  if (dpReplicate < 1 || dpShard < 1 || sp < 1) throw new Malformed();
  return { state: readState(held.state), rank: held.rank, layout: `${dpReplicate}x${dpShard}x${sp}` };
}

function readState(state: WireState | undefined): StateName {
  const { generation, step } = present(state);
  return { generation: count(generation), step: count(step) };
}

function count(value: bigint): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw new Malformed();
  return number;
}

/** A time, a sum, a share or a rate. */
function amount(value: number): number {
  if (!(value >= 0 && value <= AMOUNT_MAX)) throw new Malformed();
  return value;
}

function present<T>(value: T | undefined): T {
  if (value === undefined) throw new Malformed();
  return value;
}
