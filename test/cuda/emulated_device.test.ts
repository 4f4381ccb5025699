import assert from "node:assert/strict";
import { test } from "node:test";
import { loadNative } from "../../worker/engine/load_native.js";

/** What the device emulated on the CPU promises (native/cuda/emulated_device.h); goku_cuda_emulated.node alone has it. */
const { emulatedProbe } = loadNative() as unknown as { emulatedProbe: (kind: string) => number };

test("threads of a block meet at a barrier, and a missing one shows in one of the two orders", () => {
  assert.equal(emulatedProbe("barrier"), 0);
  assert.ok(emulatedProbe("missing barrier") > 0);
});

test("a barrier that not all threads reach is an error", () => {
  assert.throws(() => emulatedProbe("divergent barrier"), {
    code: "NATIVE_DEVICE",
    message: /block 0 .* barrier/,
  });
  assert.equal(emulatedProbe("barrier"), 0, "the device works afterwards");
});

test("lanes of a warp exchange numbers, and warps do not mix", () => {
  assert.equal(emulatedProbe("lanes"), 0);
});

test("a copy is there for its thread after a wait, for others after a barrier, and for nobody before", () => {
  assert.equal(emulatedProbe("copy"), 0);
  assert.ok(emulatedProbe("copy without wait") > 0);
  assert.ok(emulatedProbe("copy without barrier") > 0);
});
