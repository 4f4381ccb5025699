import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { listPreviews } from "../../checkpoint/previews.js";
import { entryPoint } from "../../job/entry_points.js";
import { startTicks } from "../../worker/agent/process_records.js";
import { gokuctl } from "../support/gokuctl.js";
import { readTfEvents } from "../support/read_tfevents.js";
import { until } from "../support/until.js";
import {
  type RunRecord,
  type TestCluster,
  type TestClusterOptions,
  testJob,
  withCluster,
} from "./cluster.js";

/** Far more than are done: a test stops its job when it has seen what it waits for. */
const MANY_STEPS = ["train.steps=100000", "checkpoint.keep_last=100000"];
/** Rank 0 is busy in every block, and the others sleep in their collectives: a core is left for what draws. */
const CORE_TO_SPARE = "forward.block/0:slow=30";
const PROMPTS = "sample.prompts=[a red circle, a blue square moving right]";
const LIMIT = { timeout: 600_000 };
const scratch = mkdtempSync(path.join(tmpdir(), "goku-previews-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const told = (record: RunRecord, what: RegExp) =>
  record.events.filter(({ kind, message }) => kind === "preview" && what.test(message));

/** A job with previews on a cluster of its own, for as long as the test body takes. */
async function withJob(
  options: TestClusterOptions & { overrides: string[] },
  body: (cluster: TestCluster, uri: string) => Promise<void>,
): Promise<void> {
  const failpoints = [CORE_TO_SPARE, ...(options.failpoints ? [options.failpoints] : [])].join(",");
  await withCluster({ ...options, failpoints }, async (cluster) => {
    const job = await testJob(cluster.folder, [PROMPTS, "sample.steps=2", ...options.overrides]);
    await cluster.submit(job);
    await body(cluster, job.checkpoint.uri);
  });
}

async function stop(cluster: TestCluster): Promise<void> {
  await cluster.client.call("stopJob", { name: "faults" });
  assert.equal((await cluster.follow()).phase, "STOPPED");
}

/** What the node of rank 0 wrote about its previews. */
function said(cluster: TestCluster, message: string): { bytesMax?: number; peakBytes?: number }[] {
  const lines = ["node-a", "node-b"].flatMap((node) =>
    readFileSync(path.join(cluster.folder, `${node}.log`), "utf8").split("\n"),
  );
  return lines.filter((line) => line.includes(`"${message}"`)).map((line) => JSON.parse(line));
}

/** Pids of the processes that draw for nodes of this cluster. */
function drawing(cluster: TestCluster): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const own = readFileSync(`/proc/${pid}/environ`, "utf8").includes(cluster.folder);
        return own && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(entryPoint("preview"));
      } catch {
        return false; // it ended meanwhile
      }
    });
}

function release(cluster: TestCluster, marker: RegExp): void {
  const name = cluster.fired.find((fired) => marker.test(fired))!;
  writeFileSync(path.join(cluster.folder, "fired", `${name}.released`), "");
}

test(
  "previews: drawn beside the training from the shards of two nodes: the bits that gokuctl sample draws from the checkpoint of that step",
  LIMIT,
  async () => {
    const overrides = [...MANY_STEPS, "sample.every_steps=10", "sample.frames=5"];
    await withJob({ overrides }, async (cluster, uri) => {
      await cluster.follow((record) => told(record, /is drawn/).length >= 2);
      const { controller } = cluster.local;
      const table = await gokuctl(["previews", "faults", "--controller", controller]);
      assert.match(table.stdout, /^STEP +PICTURES .*\n\d+ +2 prompts +32x32x5 +1 /);
      const previews = await listPreviews(uri);
      const { step } = previews[0]!.state;
      const fetched = path.join(scratch, "fetched");
      const args = ["previews", "--step", String(step), "--out", fetched, "--controller", controller];
      const out = await gokuctl(args);
      assert.equal(out.code, 0, out.stderr);
      await stop(cluster);
      const sheet = path.join(scratch, "sheet.png");
      const clip = path.join(scratch, "clip.mp4");
      const ckpt = `${uri.replace("file://", "")}/checkpoint-${step}`;
      for (const file of [sheet, clip]) {
        const drawn = await gokuctl(["sample", "--ckpt", ckpt, "--out", file, "--frames", "5"]);
        assert.equal(drawn.code, 0, drawn.stderr);
      }
      const generation = previews[0]!.state.generation;
      const same = (name: string, file: string) =>
        assert.ok(
          readFileSync(path.join(fetched, `step-${step}-g${generation}-${name}`)).equals(readFileSync(file)),
          `${name} differs`,
        );
      same("sheet.png", sheet);
      const board = path.join(uri.replace("file://", ""), "tensorboard/previews");
      const shown = readdirSync(board).flatMap((name) => readTfEvents(readFileSync(path.join(board, name))));
      const pictures = shown.find((event) => event.step === step && event.pictures.size > 0)!.pictures;
      assert.deepEqual(
        [...pictures.keys()],
        ["samples/1: a red circle", "samples/2: a blue square moving right"],
      );
      same("clip-1.mp4", clip.replace(".mp4", "-1.mp4"));
      same("clip-2.mp4", clip.replace(".mp4", "-2.mp4"));
      assert.deepEqual(drawing(cluster), []);
      const [begun, drawn] = [said(cluster, "preview begun"), said(cluster, "preview drawn")];
      for (const [i, { peakBytes }] of drawn.entries())
        assert.ok(peakBytes! <= begun[i]!.bytesMax!, `${peakBytes} of ${begun[i]!.bytesMax} bytes planned`);
    });
  },
);

test(
  "previews: the process that draws is killed: told as a failed preview, the next one is drawn, no step is computed again",
  LIMIT,
  async () => {
    const overrides = [...MANY_STEPS, "sample.every_steps=20"];
    await withJob({ overrides, failpoints: "preview.draw@20:kill" }, async (cluster, uri) => {
      const record = await cluster.follow((now) => told(now, /is drawn/).length > 0);
      const failed = told(record, /failed/);
      assert.equal(failed.length, 1);
      assert.match(
        failed[0]!.message,
        /^preview of step 20 .* failed \(PREVIEW_FAILED: Cannot draw: the process ended by SIGKILL: failpoint .* fires .*\); training goes on$/,
      );
      await stop(cluster);
      assert.equal(new Set(record.steps.map(({ generation }) => generation)).size, 1);
      const previews = await listPreviews(uri);
      assert.ok(previews.every(({ state }) => state.step > 20));
      const names = previews[0]!.files.map(({ name }) => name.replace(/^g\d+-/, ""));
      assert.deepEqual(names, ["sheet.png", "picture-1.png", "picture-2.png"]);
    });
  },
);

test(
  "previews: one that is due while the last is being drawn is left out with the reason, and training does not wait for it",
  LIMIT,
  async () => {
    const overrides = [...MANY_STEPS, "sample.every_steps=10"];
    await withJob({ overrides, failpoints: "preview.read@10:hold" }, async (cluster, uri) => {
      const record = await cluster.follow((now) => told(now, /step 30 .* is left out/).length > 0);
      assert.match(
        told(record, /step 20 .* is left out/)[0]!.message,
        /: that of step 10 is still being drawn: raise sample.every_steps$/,
      );
      release(cluster, /^preview\.read/);
      await cluster.follow((now) => told(now, /step 10 .* is drawn/).length > 0);
      await stop(cluster);
      assert.equal((await listPreviews(uri))[0]!.state.step, 10);
    });
  },
);

for (const place of ["preview.read", "preview.draw"] as const)
  test(
    `previews: a rank dies while one is being drawn (${place}): its process ends at once, the recovery is as any other`,
    LIMIT,
    async () => {
      const overrides = [...MANY_STEPS, "sample.every_steps=20"];
      await withJob({ overrides, failpoints: `${place}@20:hold` }, async (cluster) => {
        await cluster.follow(() => cluster.fired.some((name) => name.startsWith("preview.")));
        const pids = drawing(cluster);
        assert.equal(pids.length, 1);
        const [, victim] = await cluster.pidsOn("node-b");
        process.kill(victim!, "SIGKILL");
        await until(() => startTicks(pids[0]!) === null);
        const record = await cluster.follow((now) => told(now, /is drawn/).length > 0);
        assert.match(
          told(record, /step 20 /).at(-1)!.message,
          /is left out: generation \d+ ended while it was being drawn$/,
        );
        const { incidents } = await cluster.client.call("listIncidents", { job: "faults" });
        assert.deepEqual(
          incidents.map(({ code, stepsLost }) => [code, Number(stepsLost) <= 1]),
          [["RANK_DIED", true]],
        );
        await stop(cluster);
      });
    },
  );

test("previews: a stop ends the process that draws, and does not wait for it", LIMIT, async () => {
  const overrides = [...MANY_STEPS, "sample.every_steps=10"];
  await withJob({ overrides, failpoints: "preview.draw@10:hold" }, async (cluster, uri) => {
    await cluster.follow(() => cluster.fired.some((name) => name.startsWith("preview.")));
    const [pid] = drawing(cluster);
    await stop(cluster);
    assert.equal(startTicks(pid!), null);
    assert.ok(!existsSync(`${uri.replace("file://", "")}/previews/step-10/preview.json`));
  });
});
