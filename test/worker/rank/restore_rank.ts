/** One rank that restores a state from memory and durable storage, forked by restore_ranks.test.ts. */
import path from "node:path";
import type { RestoredPart } from "../../../checkpoint/read_memory.js";
import { snapshotLayout } from "../../../checkpoint/snapshot.js";
import { STATE_KINDS } from "../../../checkpoint/state.js";
import type { Job } from "../../../job/job.js";
import { Layout } from "../../../job/layout.js";
import { parameterSpecs } from "../../../job/parameters.js";
import { flatUnits, shardPieces } from "../../../job/sharding.js";
import { PAGE_BYTES } from "../../../worker/pages.js";
import { abortGroups, closeGroups, createGroups } from "../../../worker/parallel/groups.js";
import { Trainer } from "../../../worker/parallel/trainer.js";
import { Progress } from "../../../worker/progress.js";
import { restoreState } from "../../../worker/rank/restore_state.js";
import { SlotBook } from "../../../worker/rank/slots.js";
import { SnapshotPages } from "../../../worker/rank/snapshot_pages.js";
import { stateMemory } from "../../../worker/rank/state_memory.js";
import type { MemorySource } from "../../../worker/rank_messages.js";
import { bitsOf } from "../../checkpoint/fixtures.js";
import { PEER_ACCESS } from "../../support/peers.js";
import { type RankPlace, serveRank } from "../../support/rank_process.js";
import { TINY } from "../parallel/fleet.js";
import { syntheticSource } from "../parallel/synthetic_packs.js";

export interface RestoreTask {
  job: Job;
  layout: string;
  /** For pages and slots. */
  folder: string;
  dataDigest: string;
  /** Whose snapshots each rank may read, by rank: what other nodes hold is not told. */
  from: MemorySource[];
}

export interface RestoreFound {
  parts: RestoredPart[];
  /** The first element that is not of the state; empty: none. */
  fault: string;
}

async function restore(task: RestoreTask, { native, rank, members }: RankPlace): Promise<RestoreFound> {
  const layout = Layout.parse(task.layout);
  const page = (name: string) => native.pageMap(path.join(task.folder, `${name}.${rank}`), PAGE_BYTES);
  const [abortPage, progressPage] = [page("control"), page("progress")];
  const groups = await createGroups(native, {
    ...{ job: path.basename(task.folder), generation: 1n, layout, rank, members, abortPage, progressPage },
    ...{ timeoutMs: 60_000, transport: "auto" },
  });
  const units = flatUnits(parameterSpecs(TINY));
  const set = path.join(task.folder, `set-${rank}`);
  const pages = new SnapshotPages(native, set, snapshotLayout(units, layout, rank));
  const memory = stateMemory(native, pages);
  const book = new SlotBook(pages.states());
  const common = { native, job: task.job, model: TINY, layout, rank };
  const emptyText = { length: 2, data: new Float32Array(2 * TINY.text_width) };
  const trainer = new Trainer({
    ...{ ...common, groups, progress: new Progress(progressPage), state: memory.tensors(0), emptyText },
  });
  const source = syntheticSource({ model: TINY, packsPerStep: 1, digest: task.dataDigest });
  const from = task.from[rank]!;
  const access = { jobId: "restore", access: PEER_ACCESS, peerOf: () => null };
  try {
    const { parts } = await restoreState(
      {
        ...{ ...common, ...access, trainer, pages, memory, book, groups },
        ...{ openData: async () => source, signal: new AbortController().signal },
      },
      { kind: "snapshot", ...from },
    );
    for (const shard of trainer.shards) {
      for (const kind of STATE_KINDS) {
        const words = new Uint32Array(shard[kind].count);
        if (words.length > 0) native.tensorRead(shard[kind].id, 0, new Uint8Array(words.buffer));
        for (const piece of shardPieces([shard.unit], layout, rank)) {
          const tensor = `${kind}/${piece.parameter}`;
          const wanted = bitsOf(from.state, tensor);
          for (let i = 0; i < piece.length; i++)
            if (words[piece.shardOffset + i] !== wanted(piece.start + i))
              return { parts, fault: `${tensor}[${piece.start + i}] differs` };
        }
      }
    }
    return { parts, fault: "" };
  } catch (error) {
    abortGroups(native, groups);
    return { parts: [], fault: (error as Error).message };
  } finally {
    closeGroups(native, groups);
  }
}

serveRank<RestoreTask, RestoreFound>(restore);
