import assert from "node:assert/strict";
import { test } from "node:test";
import { nodeViews } from "../../../controller/core/views.js";
import { CoreHarness, jobOf } from "./harness.js";

const GPU = { device: "cuda", devices: [{ name: "NVIDIA H200", memoryBytes: 141n * 10n ** 9n }] };
const onTwo = { dp_replicate: 1, dp_shard: 2, sp: 1 };

function clusterOf(nodes: Record<string, "cpu" | "cuda">): CoreHarness {
  const core = new CoreHarness();
  core.lead();
  for (const [nodeId, device] of Object.entries(nodes)) core.hello(nodeId, device === "cuda" ? GPU : {});
  return core;
}

test("device: a job on cuda waits for nodes that have a device, and says so; then every member is told of it", () => {
  const core = clusterOf({ a: "cpu" });
  core.submit({ ...jobOf({ layout: onTwo }), device: "cuda" });
  assert.equal(core.job.stage, "queued");
  assert.match(core.job.reason, /1 more node has no CUDA device/);
  core.hello("b", GPU);
  assert.deepEqual(core.job.generation?.rankNodes, ["b", "b"]);
  const prepare = core
    .take()
    .flatMap((effect) =>
      effect.kind === "send" && effect.message.$case === "prepare" ? [effect.message.value] : [],
    );
  assert.deepEqual(
    prepare.map(({ device }) => device),
    ["cuda"],
  );
  assert.match(core.job.reason, /^forming generation 1 as 1x2x1 on cuda: /);
  const [, b] = nodeViews(core.state, core.nowMs);
  assert.deepEqual(b?.devices, [{ name: "NVIDIA H200", memoryBytes: 141e9 }]);
});

test("device: auto is decided by the first generation and kept, also by a new leader", () => {
  const core = clusterOf({ a: "cpu", b: "cuda" });
  core.submit({ ...jobOf({ layout: onTwo }), device: "auto" });
  assert.equal(core.job.generation?.device, "cuda");
  core.lead("c1");
  core.hello("a");
  assert.equal(core.job.prior?.device, "cuda");
  assert.equal(core.job.generation?.device, "cuda");
});
