import assert from "node:assert/strict";
import { test } from "node:test";
import { Prepare } from "../../../gen/goku/v1/agent.pb.js";
import { readPlace } from "../../../worker/agent/place.js";
import { smallJob } from "../rank/rank_harness.js";

const GPU = { devices: [{ name: "NVIDIA H200", memoryBytes: 141e9 }], why: "" };
const NONE = { devices: [], why: "its backend is not built: make cuda" };

function place(device: string, gpus: typeof GPU | typeof NONE) {
  const wire = Prepare.fromPartial({
    generation: 3n,
    jobId: "j",
    job: JSON.parse(JSON.stringify(smallJob())),
    layout: { dpReplicate: 1, dpShard: 1, sp: 1 },
    ranks: [0],
    peerSecret: "s",
    device,
  });
  return readPlace(wire, { node: "a", slots: 1, gpus });
}

test("readPlace(): ranks compute on the device that the controller names, the CPU where it is an older one", () => {
  assert.equal(place("cuda", GPU).device, "cuda");
  assert.equal(place("cpu", GPU).device, "cpu");
  assert.equal(place("", NONE).device, "cpu");
});

test("readPlace() refuses a device that the node does not have, and says why it has none", () => {
  assert.throws(() => place("cuda", NONE), {
    code: "DEVICE_MISSING",
    message: /generation 3 on cuda: a has no CUDA device \(its backend is not built: make cuda\)$/,
  });
  assert.throws(() => place("tpu", GPU), {
    code: "STATE_INVALID",
    message: /device tpu, want one of cpu, cuda$/,
  });
});
