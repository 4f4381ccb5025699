import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gokuctl } from "../support/gokuctl.js";

/** The emulated device takes its numbers from the environment, as a machine has its own. */
const environment = (more: Record<string, string>): Record<string, string> => ({
  ...(process.env as Record<string, string>),
  GOKU_NATIVE: "",
  GOKU_NATIVE_CUDA: path.resolve(process.env.GOKU_NATIVE!),
  ...more,
});

function run(program: string, more: Record<string, string>): unknown {
  const module = fileURLToPath(new URL("../../worker/", import.meta.url));
  const source = `const at = (file) => import(${JSON.stringify(module)} + file);\n${program}`;
  const done = spawnSync(process.execPath, ["--input-type=module", "--eval", source], {
    encoding: "utf8",
    env: environment(more),
  });
  assert.equal(done.status, 0, done.stderr);
  return JSON.parse(done.stdout);
}

const find = (more: Record<string, string>) =>
  run(
    `const { findDevices } = await at("device/find_devices.js");
    console.log(JSON.stringify(await findDevices()));`,
    more,
  );

test("findDevices() tells the devices that CUDA_VISIBLE_DEVICES shows, or why there are none", () => {
  const device = (number: number) => ({ name: `emulated ${number}`, memoryBytes: 64 * 2 ** 20 });
  const machine = { GOKU_EMULATED_DEVICES: "3", GOKU_EMULATED_MIB: "64" };
  assert.deepEqual(find(machine), { devices: [0, 1, 2].map(device), why: "" });
  assert.deepEqual(find({ ...machine, CUDA_VISIBLE_DEVICES: "2,0" }), {
    devices: [2, 0].map(device),
    why: "",
  });
  assert.deepEqual(find({ ...machine, CUDA_VISIBLE_DEVICES: "7" }), {
    devices: [],
    why: "the driver shows no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES",
  });
  const { devices, why } = find({ GOKU_NATIVE_CUDA: "/missing.node" }) as { devices: []; why: string };
  assert.deepEqual(devices, []);
  assert.match(why, /^Cannot load the CUDA backend \/missing\.node: .*, run make cuda \(docs\/cuda\.md\)$/);
});

test("a tensor that the device has no room for: the error says so, and the process goes on", () => {
  const [code, message, live] = run(
    `const { loadNative } = await at("engine/load_native.js");
    const { Arena } = await at("engine/tensor.js");
    const arena = new Arena(loadNative("cuda"));
    const kept = arena.alloc("f32", 1024, 1024);
    const peak = () => arena.native.memoryStats().peakBytes;
    try { arena.alloc("f32", 16, 1024, 1024, 5); }
    catch (error) { console.log(JSON.stringify([error.code, error.message, peak()])); }
    arena.zeros("f32", 8, 1024, 1024);`,
    { GOKU_EMULATED_MIB: "300" },
  ) as [string, string, number];
  assert.equal(code, "NATIVE_OUT_OF_MEMORY");
  assert.match(message, /^Cannot make f32 \[16, 1024, 1024, 5\]: .* 4194304 bytes are in use/);
  assert.match(message, /the device has 46137344 of its 314572800 bytes left, for all processes on it/);
  assert.match(message, /; here live 1 x f32 \[1024, 1024\] \(4 MiB\)$/);
  assert.equal(live, 4 * 2 ** 20, "the high-water mark is of what was had");
});

test("gokuctl doctor tells the devices; gokuctl train --local says at once what to do without one", async () => {
  const { stdout } = await gokuctl(["doctor", "--json"], {
    env: environment({ GOKU_EMULATED_DEVICES: "2" }),
  });
  const { findings } = JSON.parse(stdout) as { findings: { check: string; state: string; found: string }[] };
  const finding = findings.find(({ check }) => check === "CUDA devices")!;
  assert.deepEqual([finding.state, finding.found], ["ok", "emulated 0 (8.0 GiB), emulated 1 (8.0 GiB)"]);
  const without = environment({ GOKU_NATIVE_CUDA: "", CUDA_VISIBLE_DEVICES: "" });
  const refused = await gokuctl(["train", "examples/shapes.yaml", "device=cuda", "--local", "1x1"], {
    env: without,
  });
  assert.equal(refused.code, 22);
  assert.match(refused.stderr, /Cannot train shapes on cuda: this machine has no CUDA device/);
});
