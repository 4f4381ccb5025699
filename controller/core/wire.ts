import type {
  Hello,
  RankProgress,
  StepCompleted,
  HeldState as WireHeld,
  NodeLeaving as WireLeaving,
} from "../../gen/goku/v1/agent.pb.js";
import type { ErrorDetail, StateName as WireState } from "../../gen/goku/v1/common.pb.js";
import type { AgentMessage, StateName } from "./contract.js";

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
  /** Generation that the page is about. */
  generation: number;
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

/** What an agent says, checked and in numbers. Counts above 2^53 are malformed: nothing real reaches them. */
export type Report =
  | { kind: "hello"; hello: NodeHello }
  | {
      kind: "heartbeat";
      generation: number;
      pages: RankPage[];
      held: HeldState[] | null;
      /** Newest command taken in; null: the agent does not tell. */
      heard: { term: number; commandId: number } | null;
    }
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
  | { kind: "failed"; generation: number; rank: number; error: ErrorDetail; lastLines: string[] }
  | {
      kind: "saved";
      generation: number;
      state: StateName;
      uri: string;
      bytes: number;
      seconds: number;
    }
  | { kind: "saveFailed"; generation: number; state: StateName; error: ErrorDetail }
  | { kind: "finished"; generation: number; rank: number; state: StateName; reason: "steps" | "stop" }
  | { kind: "released"; jobId: string }
  | ({ kind: "leaving" } & NodeLeaving)
  | { kind: "refusedPrepare"; generation: number; error: ErrorDetail }
  /** Rank output: kept by the shell, no decision depends on it. */
  | { kind: "output" };

/** An agent was asked to end, by what, and how much of its grace is left. */
export interface NodeLeaving {
  graceMs: number;
  reason: string;
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
  /** Of its agent's PeerService; 0: it has none. */
  peerPort: number;
}

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
      const { generation, ranks, heldStates, heldStatesChanged, term, commandId } = message.value;
      const held = heldStatesChanged ? heldStates.map(readHeld) : null;
      const heard =
        term === 0n && commandId === 0n ? null : { term: count(term), commandId: count(commandId) };
      return {
        kind: "heartbeat",
        generation: count(generation),
        pages: readPages(ranks, generation),
        held,
        heard,
      };
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
        step,
      };
    }
    case "nodeReleased":
      return { kind: "released", jobId: message.value.jobId };
    case "nodeLeaving":
      return { kind: "leaving", ...readLeaving(message.value) };
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
      const { rank, error, lastLines } = message.value;
      return { kind: "failed", generation, rank, error: present(error), lastLines };
    }
    case "checkpointCommitted": {
      const { state, uri, bytes, seconds } = message.value;
      return { kind: "saved", generation, state: readState(state), uri, bytes: count(bytes), seconds };
    }
    case "checkpointFailed": {
      const { state, error } = message.value;
      return { kind: "saveFailed", generation, state: readState(state), error: present(error) };
    }
    case "rankFinished": {
      const { rank, state, reason } = message.value;
      if (reason !== "steps" && reason !== "stop") throw new Malformed();
      return { kind: "finished", generation, rank, state: readState(state), reason };
    }
    case "prepareRefused":
      return { kind: "refusedPrepare", generation, error: present(message.value.error) };
  }
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
    failureDomain: hello.failureDomain === "" ? hello.nodeId : hello.failureDomain,
    peerPort: hello.peerPort,
  };
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
    generation: count(page.generation === 0n ? generation : page.generation),
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

function present<T>(value: T | undefined): T {
  if (value === undefined) throw new Malformed();
  return value;
}
