import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { type RunningController, runController } from "../../controller/main.js";
import { gokuctl } from "../support/gokuctl.js";
import { refused } from "../support/refused.js";

/** Whatever is wrong, a person gets one line that says what to do, and an exit code of its own. */
const scratch = mkdtempSync(path.join(tmpdir(), "goku-bad-input-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const JOB = `name: tiny
model: { preset: goku-nano }
data: { media: ${scratch}/media }
layout: { dp_shard: 2 }
train: { steps: 2 }
checkpoint: { uri: "file://${scratch}/run" }
`;

function jobFile(text: string): string {
  const file = path.join(mkdtempSync(path.join(scratch, "job-")), "job.yaml");
  writeFileSync(file, text);
  return file;
}

/** A controller on a store of its own for the time of `body`. */
async function withController(
  body: (controller: RunningController, storeFolder: string) => Promise<void>,
): Promise<void> {
  const storeFolder = mkdtempSync(path.join(scratch, "store-"));
  const controller = await runController({
    host: "127.0.0.1",
    port: 0,
    restPort: 0,
    advertise: null,
    store: { kind: "embedded", folder: storeFolder },
    tls: null,
    tokensFile: null,
    cluster: "goku",
    requestsPerSecond: 100,
    kubernetes: null,
  });
  try {
    await body(controller, storeFolder);
  } finally {
    await controller.close();
  }
}

test("train: an unknown key is named with its line and the nearest known key", async () => {
  const file = jobFile(JOB.replace("train: { steps: 2 }", "train: { step: 2 }"));
  await refused(
    ["train", file, "--dry-run"],
    2,
    /JOB_INVALID: .*train\.step \(line 5, column \d+\).*did you mean train\.steps/,
  );
});

test("train: a wrong value in an override is named by the override", async () => {
  await refused(
    ["train", jobFile(JOB), "train.steps=soon", "--dry-run"],
    2,
    /train\.steps \(set by train\.steps=soon\) is "soon"/,
  );
});

test("train: a job file that is not there, or not YAML", async () => {
  await refused(["train", path.join(scratch, "none.yaml")], 3, /NOT_FOUND: .*none\.yaml: it does not exist/);
  await refused(["train", jobFile("name: [")], 2, /JOB_INVALID: .*line 1/);
});

test("train: nobody listens at the controller's address", async () => {
  await refused(
    ["train", jobFile(JOB), "--controller", "127.0.0.1:1"],
    21,
    /CONTROLLER_UNREACHABLE: .*127\.0\.0\.1:1.*gokuctl controller/,
  );
});

test("resume: a folder without a committed checkpoint", async () => {
  await refused(["resume", "--ckpt", path.join(scratch, "nowhere")], 3, /NOT_FOUND/);
  mkdirSync(path.join(scratch, "empty/checkpoint-3"), { recursive: true });
  await refused(["resume", "--ckpt", path.join(scratch, "empty")], 3, /NOT_FOUND/);
});

test("gokuctl --json: errors are JSON too", async () => {
  const result = await gokuctl(["--json", "jobs", "--controller", "127.0.0.1:1"]);
  assert.equal(result.code, 21);
  assert.equal(JSON.parse(result.stderr).error.code, "CONTROLLER_UNREACHABLE");
  assert.equal(result.stdout, "");
});

test("controller: a port in use, for gRPC or REST, and an address beyond loopback are refused", async () => {
  const store = ["--store", path.join(scratch, "store-a")];
  const blocker = createServer();
  await new Promise<void>((resolve) => blocker.listen(0, "127.0.0.1", resolve));
  const taken = String((blocker.address() as AddressInfo).port);
  for (const [option, other] of [
    ["--port", "--rest-port"],
    ["--rest-port", "--port"],
  ]) {
    const args = ["controller", option!, taken, other!, "0", ...store];
    await refused(args, 8, new RegExp(`PORT_IN_USE: .*127\\.0\\.0\\.1:${taken}.*${option}`));
  }
  blocker.close();
  await refused(["controller", "--port", "99999", ...store], 2, /ARGUMENT_INVALID: .*--port.*65535/);
  await refused(
    ["controller", "--host", "0.0.0.0", ...store],
    2,
    /beyond loopback.*needs TLS and tokens or client certificates/,
  );
});

test("controller: an etcd that is not there, and options that do not fit, are named", async () => {
  const args = ["controller", "--port", "0", "--rest-port", "0", "--store"];
  await refused(
    [...args, "etcd://127.0.0.1:1,127.0.0.1:2"],
    21,
    /STORE_UNAVAILABLE: .*127\.0\.0\.1:1 \(connect ECONNREFUSED.*127\.0\.0\.1:2 \(.*see that etcd runs there/,
  );
  await refused(
    [...args, "etcd://127.0.0.1"],
    2,
    /ARGUMENT_INVALID: .*--store: its member 1 is no HOST:PORT/,
  );
  await refused([...args, "etcd://10.0.0.1:1", "--store-user", "goku"], 2, /there is no password/);
});

test("controller: a second one on the same store is refused and the first goes on", () =>
  withController(async (first, storeFolder) => {
    const second = ["controller", "--port", "0", "--rest-port", "0", "--store", storeFolder];
    await refused(second, 9, /STORE_LOCKED: .*another controller holds it/);
    const answer = await gokuctl(["jobs", "--json", "--controller", first.grpc]);
    assert.deepEqual(JSON.parse(answer.stdout), { jobs: [] });
  }));

test("submit: an impossible layout prints the arithmetic while the job waits", () =>
  withController(async ({ grpc }) => {
    const done = await gokuctl(["train", jobFile(JOB), "--detach", "--json", "--controller", grpc]);
    assert.equal(done.code, 0, done.stderr);
    const job = JSON.parse(done.stdout);
    assert.equal(job.phase, "QUEUED");
    assert.match(job.reason, /dp_replicate 1 \* dp_shard 2 \* sp 1 = 2 ranks: 0 slots free on 0 nodes/);
    await refused(["status", "other", "--controller", grpc], 3, /NOT_FOUND: .*"other".*known are tiny/);
  }));
