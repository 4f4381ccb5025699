import path from "node:path";
import { type StateName, stateKey } from "../../checkpoint/state.js";
import type {
  NodeEndpoints,
  SnapshotSource,
  StepReplay,
  HeldState as WireHeld,
  SpikeNews as WireSpike,
} from "../../gen/goku/v1/agent.pb.js";
import type {
  ErrorDetail,
  Layout as WireLayout,
  StateName as WireState,
} from "../../gen/goku/v1/common.pb.js";
import { ERRORS, type ErrorCode, type GokuError } from "../../job/errors.js";
import { Layout } from "../../job/layout.js";
import type { SpikeNews } from "../../job/spikes.js";
import type { FromRank, MemorySource, StepMetrics, ToRank } from "../rank_messages.js";
import type { Report } from "./outbox.js";
import type { HeldSnapshot } from "./snapshot_sets.js";

/** Translations between the wire and the words used inside; no decision here. */
export function wireState(state: StateName): WireState {
  return { generation: BigInt(state.generation), step: BigInt(state.step) };
}

export function readState(state: WireState | undefined): StateName {
  return { generation: String(state?.generation ?? 0n), step: Number(state?.step ?? 0n) };
}

/** LAYOUT_INVALID for a layout with a zero. */
export function readLayout(layout: WireLayout | undefined): Layout {
  const { dpReplicate, dpShard, sp } = layout ?? { dpReplicate: 0, dpShard: 0, sp: 0 };
  return new Layout({ dp_replicate: dpReplicate, dp_shard: dpShard, sp });
}

export function wireLayout({ dpReplicate, dpShard, sp }: Layout): WireLayout {
  return { dpReplicate, dpShard, sp };
}

export function wireHeld(held: HeldSnapshot): WireHeld {
  return { state: wireState(held.state), rank: held.rank, layout: wireLayout(Layout.parse(held.layout)) };
}

type Members = Extract<ToRank, { kind: "connect" }>["members"];

/** All ranks, in rank order. */
export function readMembers(nodes: readonly NodeEndpoints[]): Members {
  const members = nodes.flatMap(({ nodeId, host, ranks, ports, pids }) =>
    ranks.map((rank, at) => ({ rank, nodeId, host, port: ports[at] ?? 0, pid: pids[at] ?? 0 })),
  );
  return members.sort((a, b) => a.rank - b.rank);
}

/** What the snapshots of this node that hold `source`'s state add to it; the rank's own set first. */
export function readMemorySource(
  source: SnapshotSource,
  held: readonly HeldSnapshot[],
  ownSet: string,
): MemorySource {
  const state = readState(source.state);
  const layout = readLayout(source.layout);
  const { durable } = source;
  return {
    state,
    layout: layout.size,
    files: held
      .filter((one) => one.layout === layout.toString() && stateKey(one.state) === stateKey(state))
      .sort((a, b) => Number(path.dirname(b.path) === ownSet) - Number(path.dirname(a.path) === ownSet))
      .map(({ rank, path: file }) => ({ rank, path: file })),
    places: source.places,
    durable: durable === undefined ? null : { uri: durable.uri, state: readState(durable.state) },
  };
}

export function wireError(error: GokuError, operation = ""): ErrorDetail {
  return { code: error.code, message: error.message, peer: error.peer ?? undefined, operation };
}

export function readCode(code: string): ErrorCode {
  return Object.hasOwn(ERRORS, code) ? (code as ErrorCode) : "INTERNAL";
}

export function stepReport(
  generation: bigint,
  metrics: StepMetrics,
): Extract<Report, { $case: "stepCompleted" }> {
  const { step, loss, gradNorm, lr, tokens, memoryPeakBytes, replicatedStep, replay, ...others } = metrics;
  const { waits, completedMs, lossSpike, gradientSpike, leftOut, rollBack, ...rest } = others;
  return {
    $case: "stepCompleted",
    value: {
      ...rest,
      generation,
      step: BigInt(step),
      loss: loss ?? undefined,
      gradNorm: gradNorm ?? undefined,
      learningRate: lr,
      tokens: BigInt(tokens),
      memoryPeakBytes: BigInt(memoryPeakBytes),
      replicatedStep: BigInt(replicatedStep),
      replay: wireReplay(replay),
      lossSpike: wireSpike(lossSpike),
      gradientSpike: wireSpike(gradientSpike),
      leftOut: leftOut ?? "",
      rollBack:
        rollBack === null ? undefined : { first: BigInt(rollBack.first), last: BigInt(rollBack.last) },
      waits: waits ?? undefined,
      completedMs: BigInt(completedMs),
    },
  };
}

export function wireReplay(replay: StepMetrics["replay"]): StepReplay | undefined {
  return replay === null
    ? undefined
    : { ...replay, loss: replay.loss ?? undefined, gradient: replay.gradient ?? undefined };
}

export function wireSpike(news: SpikeNews | null): WireSpike | undefined {
  switch (news?.kind) {
    case undefined:
      return undefined;
    case "begins": {
      const { value, limit, median } = news;
      return { kind: { $case: "begins", value: { value, limit, median } } };
    }
    case "ends":
    case "stays":
      return { kind: { $case: news.kind, value: news.steps } };
  }
}

/** The report of a rank's failure; one that nothing retried could mend, before it was ready, refuses the Prepare. */
export function failureReport(
  failed: Extract<FromRank, { kind: "failed" }>,
  context: { ready: boolean; lastLines: string[] },
): Report {
  const code = readCode(failed.code);
  const peer = failed.peer >= 0 ? failed.peer : undefined;
  const error: ErrorDetail = { code, message: failed.message, peer, operation: failed.operation };
  const generation = BigInt(failed.generation);
  if (!context.ready && !ERRORS[code].retriable && code !== "INTERNAL") {
    return { $case: "prepareRefused", value: { generation, error } };
  }
  const { lastLines } = context;
  return { $case: "rankFailed", value: { generation, rank: failed.rank, error, lastLines, others: [] } };
}
