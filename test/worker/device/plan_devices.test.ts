import assert from "node:assert/strict";
import { test } from "node:test";
import { type PlacedProcess, planDevices } from "../../../worker/device/plan_devices.js";
import { visibleDevices } from "../../../worker/device/visible_devices.js";

const planned = (devices: PlacedProcess["device"][], count: number) => [
  ...planDevices(
    devices.map((device, id) => ({ id, device })),
    count,
  ),
];

test("planDevices() gives every process a device of its own while there are enough, then shares them evenly", () => {
  assert.deepEqual(planned([null, null], 2), [
    [0, 0],
    [1, 1],
  ]);
  assert.deepEqual(
    planned([null, null, null, null, null], 2).map(([, device]) => device),
    [0, 1, 0, 1, 0],
  );
});

test("planDevices() leaves a process where it has begun, and puts a new one where the lost one was", () => {
  assert.deepEqual(new Map(planned([0, null, 2], 3)), new Map([0, 1, 2].map((i) => [i, i])));
  assert.deepEqual(new Map(planned([null, 0, 0, null], 2)).get(0), 1);
});

test("visibleDevices() counts among the devices that the agent itself may see", () => {
  assert.equal(visibleDevices({ inherited: undefined, index: 3 }), "3");
  assert.equal(visibleDevices({ inherited: "4,6", index: 1 }), "6");
  assert.equal(visibleDevices({ inherited: "GPU-a, GPU-b", index: 1 }), "GPU-b");
});
