import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { readSnapshotHeader } from "../../../checkpoint/snapshot.js";
import { SLOT_COUNT } from "../../../worker/rank/slots.js";
import type { FromRank, ToRank } from "../../../worker/rank_messages.js";
import { inMemory, native, Rank, smallJob, sourceOf } from "./rank_harness.js";

const folder = mkdtempSync("/dev/shm/goku-test-machine-");
after(() => rmSync(folder, { recursive: true }));

const job = smallJob();

test("RankMachine whose place cannot be had keeps no mapping", async () => {
  let mapped = 0;
  const counting = {
    ...native,
    pageMap: (file: string, bytes: number) => {
      const page = native.pageMap(file, bytes);
      mapped++;
      return page;
    },
    pageUnmap: (page: Uint8Array) => {
      mapped--;
      native.pageUnmap(page);
    },
  };
  const rank = new Rank({ job, folder, native: () => counting });
  writeFileSync(path.join(folder, "taken"), "a file where the set should be");
  assert.equal((await rank.prepare("1", path.join(folder, "taken", "set"))).kind, "failed");
  assert.equal(mapped, 0);
  assert.equal((await rank.prepare("2", path.join(folder, "set"))).kind, "ready");
  assert.equal(mapped, 2 + SLOT_COUNT);
});

test("RankMachine opens the data that the restored state names, whichever are there now", async () => {
  const asked: (string | null)[] = [];
  const rankSeeing = (now: string, pinned: string[]) =>
    new Rank({
      job,
      folder,
      openSource: async (_, digest) => {
        asked.push(digest);
        return sourceOf(job, digest !== null && pinned.includes(digest) ? digest : now);
      },
    });
  const set = path.join(folder, "pinned");

  const first = rankSeeing("first", []);
  await first.prepare("1", set);
  await first.connect("1");
  await first.ask(
    { kind: "restore", generation: "1", source: { kind: "initial" }, rollBacks: [] },
    "restored",
  );
  const saved = await first.ask({ kind: "run", generation: "1" }, "save");
  assert.equal(saved.kind, "save");
  const { slotPath } = saved as Extract<FromRank, { kind: "save" }>;
  const source = inMemory({ generation: "1", step: 1 }, slotPath);
  assert.deepEqual(asked, [null]);

  const restoreAt = async (rank: Rank, generation: string) => {
    await rank.prepare(generation, set);
    await rank.connect(generation);
    return rank.ask({ kind: "restore", generation, source, rollBacks: [] }, "restored");
  };
  const successor = rankSeeing("second", ["first"]);
  const restored = await restoreAt(successor, "2");
  assert.equal(restored.kind === "restored" && restored.dataDigest, "first");
  assert.deepEqual(asked, [null, "first"]);
  assert.equal((await restoreAt(successor, "3")).kind, "restored");
  assert.deepEqual(asked, [null, "first"], "what is open goes on");

  const stranger = await restoreAt(rankSeeing("second", []), "4");
  assert.equal(stranger.kind === "failed" && stranger.code, "DATA_CHANGED");
});

test("RankMachine restores nothing from a snapshot in which a bit flipped, gives it up, and takes the next source", async () => {
  const trainer = new Rank({ job, folder, openSource: async () => sourceOf(job, "data") });
  const set = path.join(folder, "flipped");
  await trainer.prepare("1", set);
  await trainer.connect("1");
  await trainer.ask(
    { kind: "restore", generation: "1", source: { kind: "initial" }, rollBacks: [] },
    "restored",
  );
  const saved = await trainer.ask({ kind: "run", generation: "1" }, "save");
  assert.equal(saved.kind, "save");
  const { slotPath } = saved as Extract<FromRank, { kind: "save" }>;
  const whole = readFileSync(slotPath);
  const { entries } = readSnapshotHeader(slotPath)!;
  let generation = 2;
  // In the set that the rank takes over, and in another, which it would copy.
  for (const own of [true, false]) {
    for (const { byteOffset, bytes } of [entries[0]!, entries.at(-1)!]) {
      const flipped = Buffer.from(whole);
      flipped[byteOffset + bytes - 1]! ^= 64;
      writeFileSync(slotPath, flipped);
      const rank = new Rank({ job, folder, openSource: async () => sourceOf(job, "data") });
      const restore = async (source: Extract<ToRank, { kind: "restore" }>["source"]) => {
        const name = `${generation++}`;
        await rank.prepare(name, own ? set : path.join(folder, "other"));
        await rank.connect(name);
        return rank.ask({ kind: "restore", generation: name, source, rollBacks: [] }, "restored");
      };
      const source = inMemory({ generation: "1", step: 1 }, slotPath);
      const refused = await restore(source);
      assert.equal(refused.kind === "failed" && refused.code, "SNAPSHOT_MISSING");
      assert.match(refused.kind === "failed" ? refused.message : "", /differ from their checksum/);
      assert.equal(readSnapshotHeader(slotPath) === null, own, "nobody takes it for whole any more");
      assert.equal((await restore({ kind: "initial" })).kind, "restored");
      writeFileSync(slotPath, whole);
      assert.equal((await restore(source)).kind, "restored", "it was the bit alone");
    }
  }
});

test("RankMachine that is sent to a GPU which CUDA does not show says so, and what it looked for", async () => {
  const asked: string[] = [];
  const backend = (device: string) => {
    asked.push(`${device} ${process.env.CUDA_VISIBLE_DEVICES}`);
    return native; // shows no device
  };
  const gpu = { visible: "7", memoryBytes: 2 ** 30, ranks: 1 };
  const answer = await new Rank({ job, folder, gpu, native: backend }).prepare("1", path.join(folder, "gpu"));
  assert.equal(answer.kind, "failed");
  const { code, message } = answer as Extract<FromRank, { kind: "failed" }>;
  assert.equal(code, "DEVICE_MISSING");
  assert.match(message, /CUDA shows none with CUDA_VISIBLE_DEVICES=7, see nvidia-smi, or set device: cpu$/);
  assert.deepEqual(asked, ["cuda 7"]);
  delete process.env.CUDA_VISIBLE_DEVICES;
});
