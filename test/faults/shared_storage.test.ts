import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { until } from "../support/until.js";
import { testJob, withCluster } from "./cluster.js";

const LIMIT = { timeout: 600_000 };
const scratch = mkdtempSync(path.join(tmpdir(), "goku-unshared-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

/** Runs what follows with a file system of its own, in memory, at the folder: another one than all others see there. */
const elsewhere = (folder: string) => [
  ...["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"],
  ...['mount -t tmpfs none "$0" && exec "$@"', folder],
];

/** Where a process may not have file systems of its own, nobody can be shown another folder. */
function unsharable(): string | false {
  try {
    execFileSync("unshare", ["--user", "--map-root-user", "--mount", "true"], { stdio: "ignore" });
    return false;
  } catch {
    return "no mount namespaces here";
  }
}

test("faults: two nodes whose checkpoint folder is not one and the same: the job ends within seconds, with their names and what to do", {
  ...LIMIT,
  skip: unsharable(),
}, async () => {
  const folder = path.join(scratch, "run");
  mkdirSync(folder);
  const place = { host: "127.0.0.1", enter: [], env: {} };
  const placeOf = (member: string) => (member === "node-b" ? { ...place, enter: elsewhere(folder) } : place);
  await withCluster({ placeOf }, async (cluster) => {
    const overrides = [
      `checkpoint.uri=file://${folder}`,
      "train.steps=100000",
      "checkpoint.every_steps=50000",
    ];
    await cluster.submit(await testJob(cluster.folder, overrides));
    const { phase } = await cluster.follow();
    const { job } = await cluster.client.call("getJob", { name: "faults" });
    assert.deepEqual([phase, job?.error?.code], ["FAILED", "STORAGE_NOT_SHARED"], job?.reason);
    assert.match(job!.reason, /^Cannot save to file:.*: node-[ab] does not see what node-[ab] wrote there/);
    await until(() => readdirSync(folder).every((name) => !name.startsWith(".shared")));
  });
});

test(
  "faults: two nodes that share their checkpoint folder: it is proven beside the first steps, and nothing stays of that",
  LIMIT,
  async () => {
    await withCluster({}, async (cluster) => {
      const job = await testJob(cluster.folder);
      await cluster.submit(job);
      const { phase, events } = await cluster.follow();
      assert.equal(phase, "COMPLETED");
      assert.ok(!events.some(({ message }) => message.includes("shared by all nodes")));
      const run = path.join(cluster.folder, "run");
      await until(() => readdirSync(run).every((name) => !name.startsWith(".shared")));
    });
  },
);
