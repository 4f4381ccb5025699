import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { runRanks } from "../../support/rank_process.js";
import type { VerifyResult, VerifyTask } from "./verify_groups_rank.js";

const MODULE = new URL("./verify_groups_rank.js", import.meta.url);
async function verify(
  layout: string,
  data: string[],
  revisions: (string | null)[] = data.map(() => null),
): Promise<string[]> {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-verify-"));
  try {
    return await runRanks<VerifyTask, VerifyResult>(MODULE, data.length, { folder, layout, data, revisions });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("verifyGroups() passes when every group gives the right sums and all ranks see the same data", async () => {
  assert.deepEqual(await verify("2x1x2", ["d", "d", "d", "d"]), Array(4).fill("agreed 1.2.3"));
});

test("verifyGroups() stops every rank when one of them sees other data", async () => {
  const found = await verify("1x3x1", ["d", "other", "d"]);
  for (const text of found) assert.match(text, /^DATA_CHANGED: .*ranks differ in data,/);
});

test("agreeCodeVersion() names the revision of all ranks, and none where they were built from several", async () => {
  const [a, b] = ["a".repeat(40), `${"b".repeat(40)}.dirty`];
  assert.deepEqual(await verify("1x2x1", ["d", "d"], [b, b]), Array(2).fill(`agreed 1.2.3+git.${b}`));
  assert.deepEqual(await verify("1x3x1", ["d", "d", "d"], [a, b, a]), Array(3).fill("agreed 1.2.3+mixed"));
  assert.deepEqual(await verify("1x2x1", ["d", "d"], [a, null]), Array(2).fill("agreed 1.2.3+mixed"));
});
