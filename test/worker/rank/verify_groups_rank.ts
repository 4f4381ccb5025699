import path from "node:path";
import { toGokuError } from "../../../job/errors.js";
import { Layout } from "../../../job/layout.js";
import { PAGE_BYTES } from "../../../worker/pages.js";
import { closeGroups, createGroups } from "../../../worker/parallel/groups.js";
import { agreeCodeVersion } from "../../../worker/rank/agree_code_version.js";
import { verifyGroups } from "../../../worker/rank/verify_groups.js";
import { serveRank } from "../../support/rank_process.js";

export interface VerifyTask {
  /** Of the ranks' pages. */
  folder: string;
  layout: string;
  /** Digest of the data that each rank sees. */
  data: string[];
  /** That each rank was built from. */
  revisions: (string | null)[];
}

/** "agreed" and the code version, or the code and message of what was found. */
export type VerifyResult = string;

serveRank<VerifyTask, VerifyResult>(async (task, { native, rank, members }) => {
  const layout = Layout.parse(task.layout);
  const page = (name: string) => native.pageMap(path.join(task.folder, `${name}-${rank}`), PAGE_BYTES);
  const groups = await createGroups(native, {
    job: "verify",
    generation: 1n,
    layout,
    rank,
    members,
    abortPage: page("control"),
    progressPage: page("progress"),
    timeoutMs: 20_000,
    transport: "auto",
  });
  try {
    verifyGroups(native, groups, { layout, rank }, [
      { name: "data", digest: task.data[rank]! },
      { name: "job", digest: "{}" },
    ]);
    const own = { version: "1.2.3", revision: task.revisions[rank]! };
    return `agreed ${agreeCodeVersion(native, groups.world, own)}`;
  } catch (error) {
    const { code, message } = toGokuError(error);
    return `${code}: ${message}`;
  } finally {
    closeGroups(native, groups);
  }
});
