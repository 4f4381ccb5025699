import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { openCheckpoint } from "../../checkpoint/load.js";
import { STATE_KINDS } from "../../checkpoint/state.js";
import { Layout } from "../../job/layout.js";
import { shardRange } from "../../job/sharding.js";
import {
  elementBits,
  memoryStorage,
  metaOf,
  modelOf,
  Random,
  readShard,
  requireState,
  saveAndCommit,
  scratchFolder,
  state,
  type TestModel,
} from "./fixtures.js";

const scratch = scratchFolder();

function randomModel(random: Random): TestModel {
  const shapes: Record<string, number[]> = {};
  const shape = () =>
    Array.from({ length: 1 + random.below(3) }, () => 1 + random.below(random.pick([2, 9, 40])));
  for (let i = 0; i < 1 + random.below(4); i++) shapes[`patch_embed.p${i}`] = shape();
  for (let block = 0; block < random.below(4); block++) {
    for (let i = 0; i < 1 + random.below(4); i++) shapes[`blocks.${block}.p${i}`] = shape();
  }
  shapes["final_proj.bias"] = shape();
  return modelOf(shapes);
}

function randomLayout(random: Random): Layout {
  const part = (limit: number) => 1 + random.below(limit);
  return new Layout({ dp_replicate: part(3), dp_shard: part(4), sp: part(3) });
}

/** The bits of every unit of every kind, element by element from the definition, not through shardPieces. */
function unitBits(model: TestModel): Map<string, Uint32Array> {
  const found = new Map<string, Uint32Array>();
  for (const kind of STATE_KINDS) {
    for (const { name, count, parameters } of model.units) {
      const bits = new Uint32Array(count);
      for (const { spec, offset } of parameters) {
        for (let i = 0; i < spec.count; i++)
          bits[offset + i] = elementBits(state(2, 8), `${kind}/${spec.name}`, i);
      }
      found.set(`${kind}/${name}`, bits);
    }
  }
  return found;
}

test("a state saved in any layout loads bit-equal in any other (320 random pairs)", async () => {
  const random = new Random(11);
  let pairs = 0;
  // What makes a pair hard; each must be met often, or the test proves less than it says.
  let emptyShards = 0;
  let smallTensors = 0;
  let replicated = 0;
  let unevenShards = 0;
  for (let round = 0; round < 40; round++) {
    const model = randomModel(random);
    const layout = randomLayout(random);
    const { storage } = memoryStorage();
    await saveAndCommit({
      storage,
      model,
      layout,
      meta: metaOf(state(2, 8), layout),
      slots: path.join(scratch, `round-${round}`),
    });
    const checkpoint = await openCheckpoint(storage);
    await requireState(checkpoint, model, state(2, 8));
    const bits = unitBits(model);
    for (let i = 0; i < 8; i++, pairs++) {
      const target = randomLayout(random);
      const worldMin = Math.min(layout.worldSize, target.worldSize);
      if (model.specs.some(({ count }) => count < worldMin)) smallTensors++;
      if (layout.dpReplicate > 1 && target.dpReplicate > 1) replicated++;
      if (model.units.some(({ count }) => count % target.shardGroupSize > 0)) unevenShards++;
      for (let rank = 0; rank < target.worldSize; rank++) {
        for (const kind of STATE_KINDS) {
          for (const unit of model.units) {
            const shard = await readShard(checkpoint, { unit, layout: target, rank, kind });
            const { start, length } = shardRange({
              count: unit.count,
              parts: target.shardGroupSize,
              index: rank % target.shardGroupSize,
            });
            const want = bits.get(`${kind}/${unit.name}`)!.slice(start, start + length);
            assert.deepEqual(
              new Uint32Array(shard.buffer),
              want,
              `${layout} to ${target}, rank ${rank}, ${kind} ${unit.name}`,
            );
            if (want.length === 0) emptyShards++;
          }
        }
      }
    }
  }
  assert.equal(pairs, 320);
  assert.ok(emptyShards > 100, `${emptyShards} empty shards were met`);
  for (const met of [smallTensors, replicated, unevenShards])
    assert.ok(met > 80, `met in pairs: ${JSON.stringify({ smallTensors, replicated, unevenShards })}`);
});

test("a tensor of several MiB, cut in its middle, loads in parts and whole", async () => {
  const model = modelOf({ "patch_embed.weight": [600, 1000], "final_proj.bias": [3] });
  const layout = Layout.parse("2x3x1");
  const { storage } = memoryStorage();
  await saveAndCommit({
    storage,
    model,
    layout,
    meta: metaOf(state(1, 5), layout),
    slots: path.join(scratch, "large"),
  });
  const checkpoint = await openCheckpoint(storage);
  const random = new Random(5);
  for (let i = 0; i < 40; i++) {
    const start = random.below(600_000);
    const length = random.below(Math.min(300_000, 600_000 - start));
    const bits = new Uint32Array(
      (await checkpoint.readInterval({ tensor: "adam_v/patch_embed.weight", start, length })).buffer,
    );
    assert.equal(bits.length, length);
    for (let k = 0; k < length; k += 997)
      assert.equal(bits[k], elementBits(state(1, 5), "adam_v/patch_embed.weight", start + k));
    if (length > 0)
      assert.equal(
        bits[length - 1],
        elementBits(state(1, 5), "adam_v/patch_embed.weight", start + length - 1),
      );
  }
  const whole = await checkpoint.readTensor("ema/patch_embed.weight");
  assert.equal(whole.length, 600_000);
});
