import type { AgentMessage, StateName } from "../../controller/core/contract.js";
import type { Hello } from "../../gen/goku/v1/agent.pb.js";
import type { Layout as WireLayout, StateName as WireState } from "../../gen/goku/v1/common.pb.js";
import { Layout } from "../../job/layout.js";
import type { SimMemory } from "./sim_memory.js";

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

export function restored({ generation, rank }: Sender, state: StateName): AgentMessage {
  return {
    $case: "rankRestored",
    value: { generation: BigInt(generation), rank, state: wire(state), parts: [] },
  };
}

export function step(
  generation: number,
  number: number,
  { stepSeconds, replicatedStep }: { stepSeconds: number; replicatedStep: number },
): AgentMessage {
  return {
    $case: "stepCompleted",
    value: {
      generation: BigInt(generation),
      step: BigInt(number),
      loss: 1 / number,
      gradNorm: 1,
      learningRate: 1e-3,
      applied: true,
      tokens: 2048n,
      images: 4,
      videos: 1,
      stepSeconds,
      computeSeconds: stepSeconds,
      commWaitSeconds: 0,
      dataWaitSeconds: 0,
      snapshotSeconds: 0,
      memoryPeakBytes: 0n,
      packFill: 0.9,
      unreadable: 0,
      replicatedStep: BigInt(replicatedStep),
    },
  };
}

export function finished(
  { generation, rank }: Sender,
  state: StateName,
  reason: "steps" | "stop",
): AgentMessage {
  return {
    $case: "rankFinished",
    value: { generation: BigInt(generation), rank, state: wire(state), reason },
  };
}

export function failed({ generation, rank }: Sender, { code, peer, operation }: Failure): AgentMessage {
  const error = { code, message: "Cannot go on with the collective", peer, operation };
  return { $case: "rankFailed", value: { generation: BigInt(generation), rank, error, lastLines: [] } };
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

export function saveFailed(generation: number, state: StateName): AgentMessage {
  const error = {
    code: "STORAGE_FULL",
    message: "Cannot write: no space left",
    peer: undefined,
    operation: "",
  };
  return { $case: "checkpointFailed", value: { generation: BigInt(generation), state: wire(state), error } };
}

export function leaving(graceMs: number): AgentMessage & { $case: "nodeLeaving" } {
  return { $case: "nodeLeaving", value: { graceMs: BigInt(Math.max(0, graceMs)), reason: "SIGTERM" } };
}

export function heldStates(memory: SimMemory): Hello["heldStates"] {
  return memory
    .held()
    .map(({ state, rank, layout }) => ({ state: wire(state), rank, layout: wireLayout(layout) }));
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
