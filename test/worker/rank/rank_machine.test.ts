import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { jobSchema } from "../../../job/job.js";
import type { PackSource } from "../../../worker/data/pack_batch.js";
import { loadNative } from "../../../worker/engine/load_native.js";
import { RankMachine } from "../../../worker/rank/rank_machine.js";
import type { FromRank, ToRank } from "../../../worker/rank_messages.js";

const folder = mkdtempSync("/dev/shm/goku-test-machine-");
after(() => rmSync(folder, { recursive: true }));

const job = jobSchema.parse({
  name: "machine",
  model: { preset: "goku-nano", depth: 1, width: 8, heads: 2, text_width: 8, frequency_width: 8 },
  data: { media: "unused" },
  train: { steps: 1 },
  checkpoint: { uri: "file:///unused" },
});

test("RankMachine whose place cannot be had keeps the data for the next try, and no mapping", async () => {
  const native = loadNative();
  let opened = 0;
  let mapped = 0;
  const answers: FromRank[] = [];
  let answered = () => {};
  const machine = new RankMachine({
    native: {
      ...native,
      pageMap: (file, bytes) => {
        const page = native.pageMap(file, bytes);
        mapped++;
        return page;
      },
      pageUnmap: (page) => {
        mapped--;
        native.pageUnmap(page);
      },
    },
    version: "0",
    openSource: async () => {
      opened++;
      return {} as PackSource;
    },
    send: (message) => {
      answers.push(message);
      answered();
    },
  });
  const prepare = (generation: string, snapshotDir: string) => {
    const answer = new Promise<void>((resolve) => {
      answered = resolve;
    });
    const message: ToRank = {
      kind: "prepare",
      generation,
      jobId: "j",
      job,
      layout: { dp_replicate: 1, dp_shard: 1, sp: 1 },
      rank: 0,
      localRank: 0,
      localWorldSize: 1,
      nodeId: "n",
      host: "127.0.0.1",
      controlPage: path.join(folder, "control"),
      progressPage: path.join(folder, "progress"),
      snapshotDir,
      pinned: [],
      threads: 1,
    };
    machine.receive(message);
    return answer;
  };
  writeFileSync(path.join(folder, "taken"), "a file where the set should be");
  await prepare("1", path.join(folder, "taken", "set"));
  assert.equal(mapped, 0);
  await prepare("2", path.join(folder, "set"));
  assert.deepEqual(
    answers.map(({ kind }) => kind),
    ["failed", "ready"],
  );
  assert.equal(mapped, 5, "two pages, three slots");
  assert.equal(opened, 1);
});
