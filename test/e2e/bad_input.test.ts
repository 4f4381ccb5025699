import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { type RunningController, runController } from "../../controller/main.js";
import { gokuctl } from "../support/gokuctl.js";

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
  const controller = await runController({ host: "127.0.0.1", port: 0, restPort: 0, storeFolder });
  try {
    await body(controller, storeFolder);
  } finally {
    await controller.close();
  }
}

async function refused(args: string[], code: number, pattern: RegExp): Promise<void> {
  const result = await gokuctl(args);
  assert.equal(result.code, code, `${args.join(" ")}\n${result.stdout}${result.stderr}`);
  assert.match(result.stderr, pattern);
  assert.equal(result.stderr.trim().split("\n").length, 1, `more than one line: ${result.stderr}`);
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

test("resume: layouts that cannot be read", async () => {
  await refused(["ckpt", "inspect", scratch, "--step", "x"], 2, /ARGUMENT_INVALID: .*--step.*"x"/);
  await refused(["sample", "--ckpt", scratch, "--out", "a.gif"], 2, /\.png or \.mp4/);
});

test("gokuctl: an unknown command suggests the nearest one", async () => {
  const result = await gokuctl(["statsu"]);
  assert.equal(result.code, 2);
  assert.match(result.stderr, /Did you mean status\?/);
});

test("gokuctl --json: errors are JSON too", async () => {
  const result = await gokuctl(["--json", "jobs", "--controller", "127.0.0.1:1"]);
  assert.equal(result.code, 21);
  assert.equal(JSON.parse(result.stderr).error.code, "CONTROLLER_UNREACHABLE");
  assert.equal(result.stdout, "");
});

test("controller: a port in use and an address beyond loopback are refused", async () => {
  const store = ["--store", path.join(scratch, "store-a")];
  const blocker = createServer();
  await new Promise<void>((resolve) => blocker.listen(0, "127.0.0.1", resolve));
  const port = String((blocker.address() as AddressInfo).port);
  const said = (await gokuctl(["controller", "--port", "0", "--rest-port", port, ...store])).stderr;
  blocker.close();
  assert.match(said, new RegExp(`PORT_IN_USE: .*127\\.0\\.0\\.1:${port}.*--rest-port`));
  await refused(["controller", "--host", "0.0.0.0", ...store], 2, /beyond loopback.*TLS or a token/);
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
