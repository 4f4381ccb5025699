import { GokuError } from "../job/errors.js";
import type { Layout } from "../job/layout.js";
import { flatUnits } from "../job/sharding.js";
import type { Checkpoint } from "./checkpoint.js";
import type { CommitResult } from "./commit.js";
import { CHUNK_BYTES } from "./digest.js";
import type { PlannedInterval } from "./plan.js";
import { STATE_KINDS } from "./state.js";
import type { Storage } from "./storage/storage.js";
import { writeCheckpoint } from "./write_checkpoint.js";

/** Held at once. */
const PART_BYTES = 8 * CHUNK_BYTES;

/**
 * Writes a checkpoint once more, into an empty run, as the writers of another layout would have. Every byte is checked against
 * its digest on the way. The state stays as it is, with its meta: that says what computed it, and no file layout changes it.
 * Throws CHECKPOINT_CORRUPT, CHECKPOINT_MISMATCH, and as writeCheckpoint.
 */
export async function reshardCheckpoint(options: {
  checkpoint: Checkpoint;
  layout: Layout;
  storage: Storage;
  onProgress?: (progress: { bytesDone: number; bytesTotal: number }) => void;
}): Promise<CommitResult> {
  const { checkpoint, layout, storage } = options;
  const { meta, specs, kinds, bytes: bytesTotal, uri } = checkpoint;
  const lacking = STATE_KINDS.find((kind) => !kinds.includes(kind));
  if (lacking !== undefined)
    throw new GokuError(
      "CHECKPOINT_MISMATCH",
      `Cannot reshard ${uri}: it holds no ${lacking}, want a whole state`,
    );
  let bytesDone = 0;
  async function* read({ tensor, start, length }: PlannedInterval): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < length; at += PART_BYTES / 4) {
      const part = { tensor, start: start + at, length: Math.min(PART_BYTES / 4, length - at) };
      yield new Uint8Array((await checkpoint.readInterval(part)).buffer);
      bytesDone += 4 * part.length;
      options.onProgress?.({ bytesDone, bytesTotal });
    }
  }
  return writeCheckpoint({
    storage,
    source: { meta, read, requireUnchanged: () => {} },
    units: flatUnits(specs),
    layout,
    generation: checkpoint.generation,
  });
}
