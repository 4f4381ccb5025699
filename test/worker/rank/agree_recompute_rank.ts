import path from "node:path";
import type { Recompute } from "../../../job/block_memory.js";
import { Layout } from "../../../job/layout.js";
import { PAGE_BYTES } from "../../../worker/pages.js";
import { closeGroups, createGroups } from "../../../worker/parallel/groups.js";
import { agreeRecompute } from "../../../worker/rank/agree_recompute.js";
import { serveRank } from "../../support/rank_process.js";

export interface AgreeTask {
  /** Of the ranks' pages. */
  folder: string;
  /** What each rank wants. */
  wanted: Recompute[];
}

serveRank<AgreeTask, Recompute>(async (task, { native, rank, members }) => {
  const page = (name: string) => native.pageMap(path.join(task.folder, `${name}-${rank}`), PAGE_BYTES);
  const groups = await createGroups(native, {
    job: "agree",
    generation: 1n,
    layout: Layout.parse(`1x${members.length}x1`),
    rank,
    members,
    abortPage: page("control"),
    progressPage: page("progress"),
    timeoutMs: 20_000,
    transport: "auto",
  });
  try {
    return agreeRecompute(native, groups.world, task.wanted[rank]!);
  } finally {
    closeGroups(native, groups);
  }
});
