import type { CommitResult } from "../checkpoint/commit.js";
import type { TensorDiff } from "../checkpoint/diff.js";
import type { FactDiff } from "../checkpoint/diff_facts.js";
import type { InspectReport } from "../checkpoint/inspect.js";
import type { Checkpoint, CheckpointEntry } from "../checkpoint/load.js";
import type { PrunePlan, PruneResult } from "../checkpoint/retention.js";
import type { StateName } from "../checkpoint/state.js";
import type { VerifyReport } from "../checkpoint/verify.js";
import { finite } from "../job/finite.js";
import type { Layout } from "../job/layout.js";

/** Checkpoints as JSON: snake_case with plain numbers, like everything that REST and `gokuctl --json` print. */
export function entryJson(entry: CheckpointEntry) {
  const { uri, bytes, layout, committedAt, current } = entry;
  const parent = entry.parent === null ? null : stateJson(entry.parent);
  return { ...stateJson(entry.state), parent, uri, bytes, layout, committed_at: committedAt, current };
}

export function inspectJson({ uri, meta, ...report }: InspectReport) {
  return {
    uri,
    ...stateJson(meta.state),
    parent: meta.parent === null ? null : stateJson(meta.parent),
    layout: meta.layout,
    committed_at: report.committedAt,
    bytes: report.bytes,
    element_count: report.elementCount,
    adam_step: meta.adamStep,
    data_digest: meta.dataDigest,
    exclusions: meta.exclusions,
    left_out: meta.leftOut,
    codec: meta.codec,
    version: meta.version,
    job: meta.job,
    tensors: report.tensors.map(({ intervalCount, ...one }) => ({ ...one, interval_count: intervalCount })),
    files: report.files.map(({ intervalCount, ...one }) => ({ ...one, interval_count: intervalCount })),
    intervals: report.intervals.map(({ chunkCount, ...one }) => ({ ...one, chunk_count: chunkCount })),
  };
}

export function verifyJson({ uri, state, bytes, chunkCount, bad }: VerifyReport) {
  const name = state === null ? { generation: null, step: null } : stateJson(state);
  return { uri, ...name, bytes, chunk_count: chunkCount, bad };
}

/** Distances that are not finite are null, with the count of elements that made them so. */
export function diffJson(report: {
  a: Checkpoint;
  b: Checkpoint;
  facts: readonly FactDiff[];
  tensors: readonly TensorDiff[] | null;
}) {
  const one = ({ uri, meta }: Checkpoint) => ({ uri, ...stateJson(meta.state) });
  const { a, b, facts, tensors } = report;
  return {
    a: one(a),
    b: one(b),
    equal: facts.length === 0 && (tensors ?? []).every(({ differing }) => differing === 0),
    facts,
    tensors:
      tensors?.map(({ tensor, count, differing, nonFinite, maxAbs, relative }) => ({
        tensor,
        count,
        differing,
        non_finite: nonFinite,
        max_abs: finite(maxAbs),
        relative: finite(relative),
      })) ?? null,
  };
}

/** `result`: null where nothing was deleted. */
export function pruneJson({ keep, remove, damaged }: PrunePlan, result: PruneResult | null) {
  const removed = result === null ? null : result.removed.map(({ step }) => step);
  return { keep, remove, damaged, removed, removed_bytes: result?.removedBytes ?? null };
}

/** A checkpoint that was made from another, or from weights. */
export function committedJson({ state, uri, bytes }: CommitResult, layout: Layout) {
  return { ...stateJson(state), uri, layout: layout.size, bytes };
}

function stateJson({ generation, step }: StateName) {
  return { generation: Number(generation), step };
}
