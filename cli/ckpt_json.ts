import type { InspectReport } from "../checkpoint/inspect.js";
import type { CheckpointEntry } from "../checkpoint/load.js";
import type { StateName } from "../checkpoint/state.js";
import type { VerifyReport } from "../checkpoint/verify.js";

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

function stateJson({ generation, step }: StateName) {
  return { generation: Number(generation), step };
}
