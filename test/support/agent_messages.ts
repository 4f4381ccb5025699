import type { AgentMessage, StateName } from "../../controller/core/contract.js";
import type { Hello, StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import type { Layout as WireLayout, StateName as WireState } from "../../gen/goku/v1/common.pb.js";
import { Layout } from "../../job/layout.js";

type StepReplay = NonNullable<StepCompleted["replay"]>;

/** What agents say, with plausible numbers in the fields that no decision depends on. */
interface Sender {
  generation: number;
  rank: number;
}
export interface Failure {
  code: string;
  peer?: number;
  operation: string;
}

export function ready(sender: Sender & { pid: number }, held: readonly StateName[]): AgentMessage {
  const { generation, rank, pid } = sender;
  const heldStates = held.map(wire);
  return {
    $case: "rankReady",
    value: { generation: BigInt(generation), rank, pid, port: 20_000 + rank, heldStates },
  };
}

export function connected({ generation, rank }: Sender): AgentMessage {
  return { $case: "rankConnected", value: { generation: BigInt(generation), rank } };
}

/** @param insteadOf why an earlier source did not serve; empty: the first did */
export function restored({ generation, rank }: Sender, state: StateName, insteadOf = ""): AgentMessage {
  const parts = insteadOf === "" ? [] : [{ source: "another node", bytes: 1n, insteadOf }];
  return {
    $case: "rankRestored",
    value: { generation: BigInt(generation), rank, state: wire(state), parts },
  };
}

export function replicaFailed(
  { generation, rank }: Sender,
  { state, keeperNodeId, code }: { state: StateName; keeperNodeId: string; code: string },
): AgentMessage {
  const error = { code, message: "Cannot send the snapshot", peer: undefined, operation: "" };
  return {
    $case: "replicaFailed",
    value: { generation: BigInt(generation), rank, state: wire(state), keeperNodeId, error },
  };
}

export function preview(
  $case: "previewDue" | "previewRead",
  generation: number,
  state: StateName,
): AgentMessage {
  return { $case, value: { generation: BigInt(generation), state: wire(state) } };
}

export function previewEnded(
  generation: number,
  state: StateName,
  how: "drawn" | "skipped" | "failed",
): AgentMessage {
  const outcome = {
    drawn: { $case: "drawn" as const, value: { uri: "file:///previews", bytes: 1n, seconds: 1 } },
    skipped: { $case: "skipped" as const, value: "no room" },
    failed: {
      $case: "failed" as const,
      value: { code: "SNAPSHOT_MISSING", message: "gone", peer: undefined, operation: "" },
    },
  }[how];
  return { $case: "previewEnded", value: { generation: BigInt(generation), state: wire(state), outcome } };
}

export function step(
  generation: number,
  number: number,
  {
    stepSeconds,
    longestPauseSeconds = 0,
    replicatedStep,
    applied = true,
    replay,
    ...told
  }: {
    stepSeconds: number;
    longestPauseSeconds?: number;
    replicatedStep: number;
    applied?: boolean;
    replay?: StepReplay | undefined;
  } & Partial<Pick<StepCompleted, "leftOut" | "rollBack" | "lossSpike" | "gradientSpike">>,
): AgentMessage {
  return {
    $case: "stepCompleted",
    value: {
      generation: BigInt(generation),
      step: BigInt(number),
      loss: applied ? 1 / number : Number.NaN,
      gradNorm: applied ? 1 : Number.NaN,
      learningRate: 1e-3,
      applied,
      tokens: 2048n,
      images: 4,
      videos: 1,
      stepSeconds,
      computeSeconds: stepSeconds,
      commWaitSeconds: 0,
      dataWaitSeconds: 0,
      snapshotSeconds: 0,
      snapshotSkipped: false,
      savePutOff: false,
      memoryPeakBytes: 0n,
      packFill: 0.9,
      unreadable: 0,
      replicatedStep: BigInt(replicatedStep),
      lossSpike: undefined,
      gradientSpike: undefined,
      leftOut: applied ? "" : "not_finite",
      rollBack: undefined,
      replay,
      optimizerSeconds: 0,
      waits: undefined,
      modelFlops: 0,
      completedMs: 0n,
      longestPauseSeconds,
      ...told,
    },
  };
}

export function finished(
  { generation, rank }: Sender,
  state: StateName,
  reason: "steps" | "stop" | "yield",
): AgentMessage {
  return {
    $case: "rankFinished",
    value: { generation: BigInt(generation), rank, state: wire(state), reason },
  };
}

export function failed(
  { generation, rank }: Sender,
  { code, peer, operation }: Failure,
  lastLines: string[] = [],
): AgentMessage {
  const error = { code, message: "Cannot go on with the collective", peer, operation };
  return {
    $case: "rankFailed",
    value: { generation: BigInt(generation), rank, error, lastLines, others: [] },
  };
}

export function exited(sender: Sender & { pid: number; signal: string }): AgentMessage {
  const { generation, rank, pid, signal } = sender;
  const lastLines = [`rank ${rank} says goodbye`];
  return {
    $case: "rankExited",
    value: {
      generation: BigInt(generation),
      rank,
      pid,
      exitCode: -1,
      signal,
      lastLines,
      progress: undefined,
    },
  };
}

export function committed(generation: number, state: StateName, uri: string): AgentMessage {
  return {
    $case: "checkpointCommitted",
    value: { generation: BigInt(generation), state: wire(state), uri, bytes: 1_000n, seconds: 1 },
  };
}

export function saveFailed(generation: number, state: StateName, code = "STORAGE_FULL"): AgentMessage {
  const error = {
    code,
    message: "Cannot write: no space left",
    peer: undefined,
    operation: "",
  };
  return { $case: "checkpointFailed", value: { generation: BigInt(generation), state: wire(state), error } };
}

export function retentionEnded(generation: number, state: StateName, message: string | null): AgentMessage {
  const error =
    message === null ? undefined : { code: "STORAGE_FAILED", message, peer: undefined, operation: "" };
  return { $case: "retentionEnded", value: { generation: BigInt(generation), state: wire(state), error } };
}

export function leaving(graceMs: number): AgentMessage & { $case: "nodeLeaving" } {
  return { $case: "nodeLeaving", value: { graceMs: BigInt(Math.max(0, graceMs)), reason: "SIGTERM" } };
}

/** @param port where it listens for its group; 0: it is examined alone */
export function checkBegun(checkId: bigint, nowMs: number, port = 0): AgentMessage {
  return {
    $case: "selfCheckBegun",
    value: { checkId, clockMs: BigInt(nowMs), port, pid: port === 0 ? 0 : 77 },
  };
}

export function storageProof(
  generation: number,
  { written, missing, error }: { written: boolean; missing: string[]; error: string },
): AgentMessage {
  const value = { generation: BigInt(generation), written, missingNodeIds: missing, error };
  return { $case: "storageProof", value };
}

/** What a collective with others came to. */
export function paired(checkId: bigint, ok: boolean): AgentMessage {
  const detail = ok ? "" : "a peer did not answer";
  const value = ok ? 10 : 0;
  const result = { name: "collective", ok, value, unit: "GB/s", detail, seconds: 0.1, device: undefined };
  return { $case: "selfCheckReport", value: { checkId, results: [result], busy: "" } };
}

export function checked(
  checkId: bigint,
  { broken, busy }: { broken: boolean; busy: string },
): AgentMessage & { $case: "selfCheckReport" } {
  const detail = broken ? "word 7 holds 0x00000080, want 0x00000000" : "16 patterns";
  const memory = {
    name: "memory",
    ok: !broken,
    value: broken ? 0 : 64,
    unit: "MiB",
    detail,
    seconds: 0.1,
    device: undefined,
  };
  return { $case: "selfCheckReport", value: { checkId, results: busy === "" ? [memory] : [], busy } };
}

/** @param held `layout` as text, for example 1x2x2 */
export function heldStates(
  held: readonly { state: StateName; rank: number; layout: string }[],
): Hello["heldStates"] {
  return held.map(({ state, rank, layout }) => ({ state: wire(state), rank, layout: wireLayout(layout) }));
}

export function layoutText({ dpReplicate, dpShard, sp }: WireLayout): string {
  return `${dpReplicate}x${dpShard}x${sp}`;
}

const layouts = new Map<string, WireLayout>();

function wireLayout(text: string): WireLayout {
  let layout = layouts.get(text);
  if (layout === undefined) {
    const { dpReplicate, dpShard, sp } = Layout.parse(text);
    layout = { dpReplicate, dpShard, sp };
    layouts.set(text, layout);
  }
  return layout;
}

export function wire(state: StateName): WireState {
  return { generation: BigInt(state.generation), step: BigInt(state.step) };
}

export function plain(state: WireState): StateName {
  return { generation: Number(state.generation), step: Number(state.step) };
}
