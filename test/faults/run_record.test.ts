import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { curve, readTfEvents } from "../support/read_tfevents.js";
import { TestCluster, testJob } from "./cluster.js";

test("faults: the node of rank 0 is lost, then the controller: the record of the run has every step once", {
  timeout: 600_000,
}, async () => {
  const cluster = await TestCluster.start({ nodes: 3 });
  try {
    const job = await testJob(cluster.folder, ["train.steps=5000", "checkpoint.every_steps=500"]);
    await cluster.submit(job);
    await cluster.replicated(20);
    await cluster.lose(await cluster.nodeOf(0));
    const far = () => Math.max(...cluster.record.losses.keys());
    const lost = far();
    await cluster.follow(({ steps }) => steps.some(({ generation }) => generation > 1));
    await cluster.replicated(lost + 20);
    await cluster.kill("controller");
    const before = far();
    await cluster.follow(({ losses }) => losses.has(before + 40));
    await cluster.client.call("stopJob", { name: job.name });
    await cluster.follow();
    assert.equal(cluster.record.phase, "STOPPED");

    const folder = path.join(cluster.folder, "run");
    const lines = readFileSync(path.join(folder, "metrics.jsonl"), "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { step: number; loss: number; generation: number });
    const last = lines.at(-1)!.step;
    assert.ok(last >= before + 40, `${last}`);
    assert.deepEqual(
      lines.map(({ step }) => step),
      Array.from({ length: last }, (_, i) => i + 1),
      "every step once, in order",
    );
    for (const { step, loss } of lines)
      assert.equal(loss, cluster.record.losses.get(step) ?? loss, `loss of step ${step}`);
    const generations = new Set(lines.map(({ generation }) => generation));
    assert.ok(generations.size >= 2, `steps of generations ${[...generations]}`);

    const names = readdirSync(path.join(folder, "tensorboard")).sort();
    assert.ok(names.length >= 2, `${names}`);
    const files = names.map((name) => readTfEvents(readFileSync(path.join(folder, "tensorboard", name))));
    assert.deepEqual(
      curve(files, "train/loss"),
      lines.map(({ step, loss }) => [step, Math.fround(loss)]),
    );
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${cluster.logs}`, { cause: error });
  } finally {
    await cluster.stop();
  }
});
