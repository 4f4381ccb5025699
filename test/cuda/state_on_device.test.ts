import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { test } from "node:test";
import { readSnapshotHeader, snapshotLayout, verifySnapshot } from "../../checkpoint/snapshot.js";
import type { StateMeta } from "../../checkpoint/state.js";
import { Layout } from "../../job/layout.js";
import { flatUnits } from "../../job/sharding.js";
import { nothingSeen } from "../../job/spikes.js";
import { loadNative } from "../../worker/engine/load_native.js";
import type { Native } from "../../worker/engine/native.js";
import { readFloats, writeFloats } from "../../worker/engine/tensor.js";
import { CHECKSUM_ORDER } from "../../worker/parallel/sum_state.js";
import type { StateTensors } from "../../worker/parallel/trainer.js";
import { SnapshotPages } from "../../worker/rank/snapshot_pages.js";
import { stateMemory } from "../../worker/rank/state_memory.js";
import { onEmulatedDevice } from "../support/emulated_device.js";

/**
 * A training state on a device, and its slots. Work on a stream of the emulated device runs as late as events and waits allow, so
 * whoever writes the state too early, or copies it too early, is found out.
 */
const native = loadNative();
const layout = Layout.parse("1x2x1");
const RANK = 1;
const units = flatUnits(
  [
    { name: "patch_embed.weight", shape: [90, 7] },
    { name: "blocks.0.norm2.weight", shape: [40] },
    { name: "final_proj.bias", shape: [1] }, // rank 1 holds nothing of the end of a small unit
  ].map((spec) => ({ ...spec, count: spec.shape.reduce((a, b) => a * b, 1) })),
);
const plan = snapshotLayout(units, layout, RANK);

type Numbers = number[][];
const numbers = (state: readonly StateTensors[]): Numbers =>
  state.flatMap((unit) => CHECKSUM_ORDER.map((kind) => [...readFloats(native, unit[kind])]));

function meta(step: number): StateMeta {
  const state = { generation: "1", step };
  const rest = { parent: null, job: {}, adamStep: step, dataDigest: "d", codec: null, exclusions: [] };
  return { state, layout: layout.size, version: "0", leftOut: [], numbers: nothingSeen(), ...rest };
}

/** A state with its slots; `on`: the backend as the state sees it. */
class Subject {
  readonly folder = mkdtempSync("/dev/shm/goku-test-device-");
  readonly pages = new SnapshotPages(native, this.folder, plan);
  readonly memory;
  private readonly gradients;

  constructor(on: Native = native) {
    this.memory = stateMemory(on, this.pages);
    let next = 1;
    for (const unit of this.memory.begin(0, false).tensors)
      for (const kind of CHECKSUM_ORDER)
        writeFloats(
          native,
          unit[kind],
          0,
          Float32Array.from({ length: unit[kind].count }, () => next++ / 999),
        );
    this.gradients = this.memory.tensors(0).map(({ model: { count } }) => {
      const gradient = native.tensorAlloc(0, count);
      if (count > 0) native.tensorFill(gradient, 0.5);
      return gradient;
    });
  }

  /** One optimizer step, to be a snapshot of that slot; returns at once. */
  step(slot: number, step: number): void {
    const { tensors } = this.memory.begin(slot, true);
    for (const [i, { model, adam_m, adam_v, ema }] of tensors.entries()) {
      if (model.count === 0) continue;
      const ids = [model.id, adam_m.id, adam_v.id, ema.id] as const;
      const segments = Float64Array.of(0, model.count, 1);
      const settings = [0.1, 0.9, 0.95, 1e-8, 0.01, 1, 0.9, step] as const;
      native.adamwStep(...ids, ...ids, this.gradients[i]!, 0, segments, ...settings, new Uint32Array(0));
    }
  }

  seal(slot: number, step: number): Numbers {
    this.memory.copied(slot);
    this.pages.seal(slot, { meta: meta(step), rank: RANK });
    return numbers(this.pages.tensors(slot));
  }

  close(): void {
    this.memory.close();
    for (const gradient of this.gradients) native.tensorFree(gradient);
    this.pages.close();
    rmSync(this.folder, { recursive: true });
  }
}

/** The state after each of so many steps, each read before the next begins. */
function statesOf(steps: number): Numbers[] {
  const subject = new Subject();
  const states = Array.from({ length: steps }, (_, i) => {
    subject.step(0, i + 1);
    return numbers(subject.memory.tensors(0));
  });
  subject.close();
  return states;
}

test("the state lies on the device, and slots hold what is copied to them", () => {
  const before = native.memoryStats().liveBytes;
  const subject = new Subject();
  const held = subject.memory.tensors(0).reduce((sum, { model: { count } }) => sum + 16 * count, 0);
  assert.ok(native.memoryStats().liveBytes - before >= held);
  assert.equal(subject.memory.tensors(0), subject.memory.tensors(1), "wherever the live slot is");
  subject.close();
  assert.equal(native.memoryStats().liveBytes, before);
});

test("a snapshot of step n is the state after n, bit for bit, though n+1 is launched before anybody waits", async () => {
  const states = statesOf(4);
  const subject = new Subject();
  for (const n of [1, 2, 3]) {
    subject.step(n % 2, n);
    subject.memory.copyStart(n % 2);
    assert.ok(subject.memory.copying);
    subject.step((n + 1) % 2, n + 1);
    assert.deepEqual(numbers(subject.memory.tensors(0)), states[n], "the state goes on");
    assert.deepEqual(subject.seal(n % 2, n), states[n - 1], `step ${n}`);
    assert.equal(await verifySnapshot(subject.pages.slotPath(n % 2)), null);
    // Go on from n, whose bits are in the slot.
    assert.deepEqual(
      subject.memory.load(n % 2),
      readSnapshotHeader(subject.pages.slotPath(n % 2))!.checksums,
    );
    assert.deepEqual(numbers(subject.memory.tensors(0)), states[n - 1]);
  }
  subject.close();
});

test("without the fence the next step would be in the snapshot", { skip: !onEmulatedDevice }, () => {
  const [first, second] = statesOf(2);
  const subject = new Subject({ ...native, snapshotFence: () => {} });
  subject.step(0, 1);
  subject.memory.copyStart(0);
  subject.step(1, 2);
  numbers(subject.memory.tensors(0)); // the compute stream runs, nobody has waited for the copy
  const found = subject.seal(0, 1);
  assert.notDeepEqual(found, first);
  assert.deepEqual(found, second);
  subject.close();
});

test("a bit that turns on the device is found by the checksums of the copy, and the slot stays whole", () => {
  const [first] = statesOf(1);
  const subject = new Subject();
  subject.step(2, 1);
  subject.memory.copyStart(2);
  subject.seal(2, 1);
  assert.equal(subject.memory.damaged(2), 0);
  subject.memory.flipBit(2);
  assert.equal(subject.memory.damaged(2), 1);
  assert.deepEqual(subject.pages.states()[2], { generation: "1", step: 1 });
  assert.deepEqual(subject.memory.load(2), readSnapshotHeader(subject.pages.slotPath(2))!.checksums);
  assert.equal(subject.memory.damaged(2), 0);
  assert.deepEqual(numbers(subject.memory.tensors(2)), first);
  subject.close();
});

test("a copy that is given up is over before its slot gets another, or is closed", () => {
  const states = statesOf(2);
  const subject = new Subject();
  subject.step(0, 1);
  subject.memory.copyStart(0);
  subject.step(0, 2);
  subject.memory.copyStart(0);
  assert.deepEqual(subject.seal(0, 2), states[1]);
  subject.memory.copyStart(0);
  subject.close();
});
