import assert from "node:assert/strict";
import { closeSync, openSync, readSync, statSync, writeSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import type { CheckpointRecord } from "../../gen/goku/v1/controller.pb.js";
import { until } from "../support/until.js";
import { type TestCluster, testJob, withCluster } from "./cluster.js";

async function checkpoints(cluster: TestCluster): Promise<CheckpointRecord[]> {
  return (await cluster.client.call("listCheckpoints", { job: "faults" })).checkpoints;
}

/** The next one, once it is committed. */
async function save(cluster: TestCluster): Promise<CheckpointRecord> {
  const before = (await checkpoints(cluster)).at(-1)?.uri;
  await cluster.client.call("saveJob", { name: "faults" });
  await until(async () => (await checkpoints(cluster)).at(-1)?.uri !== before);
  return (await checkpoints(cluster)).at(-1)!;
}

async function latest(cluster: TestCluster, uri: string): Promise<CheckpointRecord> {
  return (await checkpoints(cluster)).find((one) => one.uri === uri)!;
}

/** One that its writers find damaged: on a machine that is held up they may have read the file before it is harmed. */
async function saveAndHarm(cluster: TestCluster): Promise<{ first: CheckpointRecord; name: string }> {
  for (;;) {
    const first = await save(cluster);
    const name = `g${first.state!.generation}-w3.safetensors`;
    flip(path.join(first.uri.replace("file://", ""), name));
    await until(async () => {
      const { unusable, read } = await latest(cluster, first.uri);
      return unusable !== "" || read?.whole === 4;
    });
    if ((await latest(cluster, first.uri)).unusable !== "") return { first, name };
  }
}

function flip(file: string): void {
  const handle = openSync(file, "r+");
  const at = statSync(file).size - 100;
  const byte = new Uint8Array(1);
  readSync(handle, byte, 0, 1, at);
  writeSync(
    handle,
    byte.map((value) => value ^ 1),
    0,
    1,
    at,
  );
  closeSync(handle);
}

test("faults: a byte flips in a committed file: its writer names file and MiB, training goes on, and the next checkpoint is verified", {
  timeout: 600_000,
}, async () => {
  await withCluster({}, async (cluster) => {
    await cluster.submit(
      await testJob(cluster.folder, ["train.steps=1000000", "checkpoint.every_steps=1000000"]),
    );
    await cluster.follow(({ losses }) => losses.has(3));
    const { first, name } = await saveAndHarm(cluster);
    const damaged = await latest(cluster, first.uri);
    const place = `checkpoint-${first.state!.step}/${name}`;
    assert.match(
      damaged.unusable,
      new RegExp(`^damaged: Cannot read ${place}: MiB \\d+ of \\S+ \\(bytes \\d+ to \\d+\\) differs`),
    );
    const next = await save(cluster);
    await until(async () => {
      const { read } = await latest(cluster, next.uri);
      return read?.whole === 4;
    });
    const { job } = await cluster.client.call("getJob", { name: "faults" });
    assert.deepEqual([job!.checkpointUri, job!.checkpointRead?.of, job!.incidents], [next.uri, 4, 0]);
    const { events } = await cluster.follow(({ events: told }) =>
      told.some(({ kind, message }) => kind === "checkpoint" && message.includes("was read back")),
    );
    const alarms = events.filter(({ kind }) => kind === "alarm").map(({ message }) => message);
    assert.equal(alarms.length, 1, alarms.join("\n"));
    assert.ok(alarms[0]!.includes(place), alarms[0]);
  });
});
