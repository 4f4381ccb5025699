import assert from "node:assert/strict";
import { test } from "node:test";
import { chooseRecompute, gpuRoom, nodeRoom } from "../../job/choose_recompute.js";
import {
  FRAGMENT_FRACTION,
  GPU_FRACTION,
  PROCESS_MEMORY,
  SYSTEM_FRACTION,
} from "../../job/process_memory.js";

const MIB = 2 ** 20;
const needs = { none: 300 * MIB, selective: 200 * MIB, full: 50 * MIB };

/** Memory of a node whose two ranks each have room for just so many bytes of tensors. */
const memoryFor = (room: number) =>
  (2 * (room * (1 + FRAGMENT_FRACTION) + 10 * MIB + PROCESS_MEMORY.rankBytes) + PROCESS_MEMORY.nodeBytes) /
  (1 - SYSTEM_FRACTION);
const chosen = (memoryBytes: number) =>
  chooseRecompute({
    room: nodeRoom({ memoryBytes, ranks: 2, otherBytes: 10 * MIB }),
    tensorBytes: (recompute) => needs[recompute],
  });

test("chooseRecompute() is selective while that fits beside processes and snapshots of all ranks, then full", () => {
  assert.equal(chosen(memoryFor(200 * MIB) + 1).recompute, "selective");
  assert.equal(chosen(memoryFor(199 * MIB)).recompute, "full");
  assert.equal(chosen(memoryFor(10_000 * MIB)).recompute, "selective", "never none");
});

test("chooseRecompute() says what was needed and what there was", () => {
  assert.match(
    chosen(memoryFor(100 * MIB)).reason,
    /selective would need 250 MiB .* room for 125 MiB, full 63 MiB/,
  );
  assert.match(chosen(MIB).reason, /room for 0 MiB/);
});

test("chooseRecompute() on a GPU: ranks that share it share its memory, each with a training state, and snapshots take none of it", () => {
  const onGpu = (memoryBytes: number, ranks: number, stateBytes = 0) =>
    chooseRecompute({
      room: gpuRoom({ memoryBytes, ranks, stateBytes }),
      tensorBytes: (recompute) => needs[recompute],
    });
  const memoryBytes = (200 * MIB * (1 + FRAGMENT_FRACTION)) / (1 - GPU_FRACTION) + 1;
  assert.equal(onGpu(memoryBytes, 1).recompute, "selective");
  assert.equal(onGpu(memoryBytes, 2).recompute, "full");
  assert.match(onGpu(memoryBytes, 2).reason, /the GPU has room for 126 MiB/);
  assert.equal(onGpu(memoryBytes, 1, 1).recompute, "full");
  assert.match(onGpu(memoryBytes, 1, 50 * MIB).reason, /the GPU has room for 201 MiB/);
});
