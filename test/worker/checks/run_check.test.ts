import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { connect, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { pathToFileURL } from "node:url";
import type { CheckPlace, CheckResult, LoneCheck } from "../../../worker/check_messages.js";
import {
  PRODUCT,
  PRODUCT_DIGEST,
  PRODUCT_SEEDS,
  productInput,
} from "../../../worker/checks/matrix_product.js";
import { runCheck } from "../../../worker/checks/run_check.js";
import { loadNative } from "../../../worker/engine/load_native.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-checks-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const place: CheckPlace = {
  budgetMs: 20,
  host: "127.0.0.1",
  peerPort: 0,
  stateDir: scratch,
  checkpointDir: path.join(scratch, "not", "there", "yet"),
};

/** Runs one check in a process of its own, with a failpoint set there. */
function runWith(failpoints: string, name: LoneCheck): CheckResult {
  const module = (file: string) =>
    JSON.stringify(pathToFileURL(path.join(import.meta.dirname, "../../../worker", file)).href);
  const script = `import { loadNative } from ${module("engine/load_native.js")};
    import { runCheck } from ${module("checks/run_check.js")};
    console.log(JSON.stringify(await runCheck(loadNative(), "${name}", ${JSON.stringify(place)})));`;
  const done = spawnSync(process.execPath, ["--input-type=module", "--eval", script], {
    encoding: "utf8",
    env: { ...process.env, GOKU_FAILPOINTS: failpoints },
  });
  assert.equal(done.status, 0, done.stderr);
  return JSON.parse(done.stdout) as CheckResult;
}

test("every check passes here, says how much it did, and leaves no file behind", async () => {
  const native = loadNative();
  for (const name of ["memory", "matrix", "copy", "disk", "checkpoint_disk", "loopback"] as const) {
    const result = await runCheck(native, name, place);
    assert.ok(result.ok && result.value > 0, JSON.stringify(result));
    assert.equal(result.name, name);
  }
  assert.deepEqual(readdirSync(scratch), []);
});

test("matrix: the digest is that of exact integer products, computed without the engine", () => {
  const { blockRows, K, F } = PRODUCT;
  const x = productInput(blockRows * K, PRODUCT_SEEDS.x);
  const w = productInput(F * K, PRODUCT_SEEDS.w);
  const y = new Float32Array(blockRows * F);
  let most = 0;
  for (let r = 0; r < blockRows; r++) {
    for (let f = 0; f < F; f++) {
      let sum = 0n;
      let magnitude = 0;
      for (let k = 0; k < K; k++) {
        const product = x[r * K + k]! * w[f * K + k]!;
        sum += BigInt(product);
        magnitude += Math.abs(product);
      }
      y[r * F + f] = Number(sum);
      most = Math.max(most, magnitude);
    }
  }
  assert.equal(createHash("sha256").update(new Uint8Array(y.buffer)).digest("hex"), PRODUCT_DIGEST);
  assert.ok(most < 2 ** 24, `partial sums up to ${most} are exact in fp32 in any order`);
});

test("memory: one bit that turns between write and read is told with its word and bit", () => {
  const result = runWith("selfcheck.memory:flip", "memory");
  assert.ok(!result.ok);
  assert.match(
    result.detail,
    /^pattern 0: word \d+ holds 0x00000080, want 0x00000000: bits 0x00000080 differ$/,
  );
});

test("matrix: one bit of one thread's block that turns is told", () => {
  const result = runWith("selfcheck.matrix:flip", "matrix");
  assert.ok(!result.ok);
  assert.match(
    result.detail,
    /^round 1, fp32: block \d+ of \d+ over \d+ threads differs from the exact product$/,
  );
});

test("disk: one bit that turns on the disk after the sync is told with its place", () => {
  for (const name of ["disk", "checkpoint_disk"] as const) {
    const result = runWith("selfcheck.disk:flip", name);
    assert.ok(!result.ok);
    assert.match(result.detail, /^MiB \d+ of \d+ written to .* came back with other bytes$/);
  }
});

test("disk: a folder that cannot be written to fails, whoever runs the check", async () => {
  const result = await runCheck(loadNative(), "checkpoint_disk", { ...place, checkpointDir: "/proc/none" });
  assert.ok(!result.ok);
  assert.match(result.detail, /^\/proc/);
});

test("loopback: an address that is not this machine's, and a port where nobody listens, fail", async () => {
  const native = loadNative();
  const foreign = await runCheck(native, "loopback", { ...place, host: "192.0.2.1" });
  assert.ok(!foreign.ok);
  assert.match(foreign.detail, /192\.0\.2\.1.*EADDRNOTAVAIL/);
  const silent = await runCheck(native, "loopback", { ...place, peerPort: 1 });
  assert.ok(!silent.ok);
  assert.match(silent.detail, /ECONNREFUSED/);
});

test("loopback: strangers that reach its port first, silent or talking, are let go and change nothing", async () => {
  const strangers: { socket: Socket; gone: Promise<unknown> }[] = [];
  const onListen = (message: unknown) => {
    const { port } = (message as { server: Server }).server.address() as { port: number };
    for (const words of ["", "GET / HTTP/1.1\r\nHost: whoever.example\r\n\r\n"]) {
      const socket = connect({ host: place.host, port }, () => socket.write(words));
      socket.on("error", () => {}).resume();
      strangers.push({ socket, gone: new Promise((resolve) => socket.once("close", resolve)) });
    }
  };
  subscribe("tracing:net.server.listen:asyncEnd", onListen);
  try {
    const result = await runCheck(loadNative(), "loopback", place);
    assert.ok(result.ok && result.value > 0, JSON.stringify(result));
    assert.equal(strangers.length, 2);
    await Promise.all(strangers.map(({ gone }) => gone));
  } finally {
    unsubscribe("tracing:net.server.listen:asyncEnd", onListen);
    for (const { socket } of strangers) socket.destroy();
  }
});

test("an error in a check is a failure of it", () => {
  const result = runWith("selfcheck.copy:throw", "copy");
  assert.ok(!result.ok);
  assert.match(result.detail, /^INTERNAL: Cannot go on: failpoint/);
});
