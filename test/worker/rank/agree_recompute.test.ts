import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import type { Recompute } from "../../../job/block_memory.js";
import { agreeRecompute } from "../../../worker/rank/agree_recompute.js";
import type { FromRank } from "../../../worker/rank_messages.js";
import { runRanks } from "../../support/rank_process.js";
import type { AgreeTask } from "./agree_recompute_rank.js";
import { native, Rank, smallJob, sourceOf } from "./rank_harness.js";

const folder = mkdtempSync(path.join(tmpdir(), "goku-agree-"));
after(() => rmSync(folder, { recursive: true }));

test("agreeRecompute(): all ranks take the most that any of them wants", async () => {
  const module = new URL("./agree_recompute_rank.js", import.meta.url);
  const agree = (wanted: Recompute[]) =>
    runRanks<AgreeTask, Recompute>(module, wanted.length, { folder, wanted });
  assert.deepEqual(await agree(["selective", "full", "selective"]), ["full", "full", "full"]);
  assert.deepEqual(await agree(["selective", "selective"]), ["selective", "selective"]);
  assert.equal(agreeRecompute(native, null, "full"), "full", "a rank alone agrees with itself");
});

/** Most bytes of tensors in a step of a rank whose node has so much memory. */
async function peakOf(name: string, recompute: Recompute | "auto", memoryBytes: number): Promise<number> {
  const base = smallJob();
  const job = { ...base, recompute, model: { ...base.model, depth: 3 } };
  let peak = 0;
  const onAnswer = (answer: FromRank) => {
    if (answer.kind === "step") peak = answer.metrics.memoryPeakBytes;
  };
  const own = path.join(folder, name);
  mkdirSync(own);
  const rank = new Rank({
    job,
    folder: own,
    memoryBytes,
    onAnswer,
    openSource: async () => sourceOf(job, "data"),
  });
  await rank.prepare("1", path.join(own, "set"));
  await rank.connect("1");
  await rank.ask(
    { kind: "restore", generation: "1", source: { kind: "initial" }, rollBacks: [] },
    "restored",
  );
  await rank.ask({ kind: "run", generation: "1" }, "save");
  return peak;
}

test("a rank whose job leaves it to the memory recomputes fully where that alone fits", async () => {
  const [plenty, little] = [2 ** 36, 2 ** 20];
  const full = await peakOf("full", "full", plenty);
  const selective = await peakOf("selective", "selective", little);
  assert.notEqual(full, selective);
  assert.equal(await peakOf("auto-plenty", "auto", plenty), selective);
  assert.equal(await peakOf("auto-little", "auto", little), full);
});
