import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import pino from "pino";
import { type ProofFound, StorageProver } from "../../../worker/agent/storage_prover.js";
import { until } from "../../support/until.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-prover-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
const log = pino({ level: "silent" });

let count = 0;
/** A folder that is made by whoever writes there first. */
const newFolder = () => path.join(scratch, `run-${count++}`);

const NODES = ["node-a", "node-b", "node-c"];
/** Agents of a generation, each with the folder that it sees. */
function provers(folders: readonly string[], { generation = 2n, waitMs = 300, lingerMs = 60_000 } = {}) {
  const tools = { waitMs, lingerMs };
  return folders.map((folder, i) => {
    const node = NODES[i]!;
    const others = NODES.slice(0, folders.length).filter((other) => other !== node);
    const prover = new StorageProver(log, tools);
    const found = new Promise<ProofFound>((resolve) => {
      prover.begin({ jobId: "job-1", generation, node, others, folder }, resolve);
    });
    return { prover, found };
  });
}

test("StorageProver: agents that see one folder see each other's files; nothing stays", async () => {
  const folder = newFolder();
  const all = provers([folder, folder, folder], { waitMs: 60_000 });
  for (const { found } of all) assert.deepEqual(await found, { written: true, missing: [], error: null });
  await Promise.all(all.map(({ prover }) => prover.end()));
  assert.deepEqual(readdirSync(folder), []);
});

test("StorageProver: agents that see different folders name each other; nothing stays in either", async () => {
  const [one, other] = [newFolder(), newFolder()];
  const all = provers([one, other, one]);
  const missing = await Promise.all(all.map(async ({ found }) => (await found).missing));
  assert.deepEqual(missing, [["node-b"], ["node-a", "node-c"], ["node-b"]]);
  await Promise.all(all.map(({ prover }) => prover.end()));
  assert.deepEqual([readdirSync(one), readdirSync(other)], [[], []]);
});

test("StorageProver: the files go by themselves some time after the look", async () => {
  const folder = newFolder();
  const all = provers([folder, folder], { waitMs: 60_000, lingerMs: 1 });
  await Promise.all(all.map(({ found }) => found));
  await until(() => readdirSync(folder).length === 0);
});

test("StorageProver: what a killed agent left goes with a later generation of the job, and nobody else's", async () => {
  const folder = newFolder();
  for (const name of [".shared-job-1-g1", ".shared-job-2-g1", ".shared-job-1-g9", "checkpoint-4"]) {
    mkdirSync(path.join(folder, name), { recursive: true });
    writeFileSync(path.join(folder, name, "node-x"), "");
  }
  const all = provers([folder, folder], { waitMs: 60_000 });
  await Promise.all(all.map(({ found }) => found));
  await until(() => !existsSync(path.join(folder, ".shared-job-1-g1")));
  await Promise.all(all.map(({ prover }) => prover.end()));
  assert.deepEqual(readdirSync(folder).sort(), [".shared-job-1-g9", ".shared-job-2-g1", "checkpoint-4"]);
});

test("StorageProver: a folder that cannot be written is told as such, not as one that others do not see", async () => {
  const file = path.join(scratch, "file");
  writeFileSync(file, "");
  const { written, error } = await provers([path.join(file, "run")])[0]!.found;
  assert.equal(written, false);
  assert.match(error!, /ENOTDIR/);
});

test("StorageProver: a file system that never answers costs its own time alone, and its end is not waited for", async () => {
  // A write into a pipe that nobody reads waits as one into a file server that is gone.
  const folder = newFolder();
  const place = path.join(folder, ".shared-job-1-g2");
  mkdirSync(place, { recursive: true });
  execFileSync("mkfifo", [path.join(place, "node-a")]);
  const { prover, found } = provers([folder], { waitMs: 50 })[0]!;
  const { written, error } = await found;
  assert.deepEqual([written, error], [false, "the file system does not answer"]);
  await prover.end();
  await readFile(path.join(place, "node-a")); // the write that waits ends
});

test("StorageProver: a generation that is over before the look is tells nothing, and leaves nothing", async () => {
  const folder = newFolder();
  let told = 0;
  const prover = new StorageProver(log);
  const order = { jobId: "job-1", generation: 3n, node: "node-a", others: ["node-b"], folder };
  prover.begin(order, () => told++);
  await until(() => existsSync(path.join(folder, ".shared-job-1-g3", "node-a")));
  await prover.end();
  assert.deepEqual([told, readdirSync(folder)], [0, []]);
});
