import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { pathToFileURL } from "node:url";
import {
  type CheckPlace,
  type CheckResult,
  DEVICE_CHECKS,
  type DeviceCheck,
} from "../../worker/check_messages.js";

/** Each self-check of a CUDA device, on the one of the addon that GOKU_NATIVE names here: real or emulated. */
const scratch = mkdtempSync(path.join(tmpdir(), "goku-device-checks-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
const place: CheckPlace = {
  budgetMs: 20,
  host: "127.0.0.1",
  peerPort: 0,
  stateDir: scratch,
  checkpointDir: "",
};

/** Runs one check in a process of its own that sees one device, with a failpoint set there. */
function runWith(name: DeviceCheck, failpoints = ""): CheckResult {
  const module = (file: string) =>
    JSON.stringify(pathToFileURL(path.join(import.meta.dirname, "../../worker", file)).href);
  const script = `import { openDevice } from ${module("checks/open_device.js")};
    import { runCheck } from ${module("checks/run_check.js")};
    console.log(JSON.stringify(await runCheck(openDevice(0), "${name}", ${JSON.stringify(place)})));`;
  const done = spawnSync(process.execPath, ["--input-type=module", "--eval", script], {
    encoding: "utf8",
    env: {
      ...process.env,
      GOKU_NATIVE_CUDA: path.resolve(process.env.GOKU_NATIVE!),
      CUDA_VISIBLE_DEVICES: "0",
      GOKU_FAILPOINTS: failpoints,
    },
  });
  assert.equal(done.status, 0, done.stderr);
  return JSON.parse(done.stdout) as CheckResult;
}

test("every check of a good device passes, says how much it did, and leaves no file behind", () => {
  for (const name of DEVICE_CHECKS) {
    const result = runWith(name);
    assert.ok(result.ok && result.value > 0, JSON.stringify(result));
    assert.equal(result.name, name);
  }
  assert.deepEqual(readdirSync(scratch), []);
});

test("device_memory: a bit that turns in the device's memory is told with its word and bit", () => {
  const result = runWith("device_memory", "selfcheck.device.memory:flip");
  assert.ok(!result.ok);
  assert.match(
    result.detail,
    /^pattern 0: word 2097159 holds 0x00000080, want 0x00000000: bits 0x00000080 differ$/,
  );
});

test("device_matrix: a bit of a product that turns is told with its block and precision", () => {
  const result = runWith("device_matrix", "selfcheck.device.matrix:flip");
  assert.ok(!result.ok);
  assert.match(result.detail, /^round 1, fp32: block 0 of 1 differs from the exact product$/);
});

test("a copy that the device refuses fails its check with the error", () => {
  for (const way of ["upload", "download", "copy"] as const) {
    const result = runWith(`device_${way}`, `selfcheck.device.${way}:throw`);
    assert.ok(!result.ok);
    assert.match(result.detail, /^INTERNAL: Cannot go on: failpoint/);
  }
});
