import { chunkCount } from "./digest.js";
import { findCheckpoint } from "./load.js";
import { mapLimit, READS_AT_ONCE } from "./map_limit.js";
import { checkpointFolder } from "./names.js";
import { readCommittedWriter } from "./records.js";
import type { StateMeta } from "./state.js";
import type { Storage } from "./storage/storage.js";

export interface InspectReport {
  uri: string;
  meta: StateMeta;
  committedAt: string;
  /** Of tensor data. */
  bytes: number;
  elementCount: number;
  tensors: { name: string; shape: readonly number[]; count: number; bytes: number; intervalCount: number }[];
  files: { name: string; writer: number; bytes: number; intervalCount: number }[];
  intervals: {
    tensor: string;
    start: number;
    length: number;
    file: string;
    offset: number;
    bytes: number;
    chunkCount: number;
  }[];
}

/** What a checkpoint holds, where, without reading tensor data. `uri` and `step` as in openCheckpoint. */
export async function inspectCheckpoint(
  uri: string | Storage,
  step: number | null = null,
): Promise<InspectReport> {
  const { storage, record } = await findCheckpoint(uri, step);
  const writers = await mapLimit(record.writers, READS_AT_ONCE, (_, writer) =>
    readCommittedWriter(storage, record, writer),
  );
  const intervalCounts = new Map<string, number>();
  const intervals: InspectReport["intervals"] = [];
  const files: InspectReport["files"] = [];
  for (const { writer, file, intervals: held } of writers) {
    if (file === null) continue;
    files.push({ name: file.name, writer, bytes: file.bytes, intervalCount: held.length });
    for (const { tensor, start, length, offset, bytes } of held) {
      intervals.push({
        tensor,
        start,
        length,
        file: file.name,
        offset,
        bytes,
        chunkCount: chunkCount(bytes),
      });
      intervalCounts.set(tensor, (intervalCounts.get(tensor) ?? 0) + 1);
    }
  }
  const tensors = record.kinds.flatMap((kind) =>
    record.parameters.map(({ name, shape, count }) => {
      const tensor = `${kind}/${name}`;
      return { name: tensor, shape, count, bytes: 4 * count, intervalCount: intervalCounts.get(tensor) ?? 0 };
    }),
  );
  return {
    uri: `${storage.uri}/${checkpointFolder(record.meta.state.step)}`,
    meta: record.meta,
    committedAt: record.committedAt,
    bytes: record.bytes,
    elementCount: record.bytes / 4,
    tensors,
    files,
    intervals,
  };
}
