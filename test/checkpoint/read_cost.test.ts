import assert from "node:assert/strict";
import { test } from "node:test";
import { openCheckpoint } from "../../checkpoint/load.js";
import { readCost } from "../../checkpoint/read_cost.js";
import { STATE_KINDS } from "../../checkpoint/state.js";
import { MODEL_PRESETS, modelConfigSchema } from "../../job/model_config.js";
import { parameterSpecs } from "../../job/parameters.js";
import { flatUnits } from "../../job/sharding.js";
import { layoutOf, memoryStorage, metaOf, modelOf, saveAndCommit, scratchFolder, state } from "./fixtures.js";

const model = modelOf({ "patch_embed.weight": [700, 1_000], "blocks.0.norm2.weight": [300_000] });

test("readCost() is what the ranks of a layout do read, chunk by chunk", async () => {
  const scratch = scratchFolder();
  for (const [from, to] of [
    ["1x1x1", "1x1x1"],
    ["1x1x1", "1x8x1"],
    ["1x4x1", "2x3x1"],
    ["2x2x1", "1x5x1"],
  ] as const) {
    const { storage } = memoryStorage();
    const layouts = { from: layoutOf(from), to: layoutOf(to) };
    const meta = metaOf(state(1, 1), layouts.from);
    await saveAndCommit({ storage, model, layout: layouts.from, meta, slots: `${scratch}/${from}-${to}` });
    let read = 0;
    const counting = new Proxy(storage, {
      get: (target, key) => {
        const value: unknown = Reflect.get(target, key, target);
        if (key !== "read") return typeof value === "function" ? value.bind(target) : value;
        return (name: string, offset: number, into: Uint8Array) => {
          if (name.endsWith(".safetensors")) read += into.byteLength;
          return target.read(name, offset, into);
        };
      },
    });
    for (let rank = 0; rank < layouts.to.shardGroupSize; rank++) {
      const checkpoint = await openCheckpoint(counting);
      for (const kind of STATE_KINDS)
        for (const unit of model.units)
          await checkpoint.readRank(model.units, layouts.to, rank, kind, unit.name);
    }
    const cost = readCost(model.units, layouts);
    // Beside the chunks, a reader may look at each file's header.
    assert.ok(
      read >= cost.readBytes && read <= cost.readBytes + 64 * 1024,
      `${from} to ${to}: ${read}, ${cost.readBytes}`,
    );
    assert.equal(cost.stateBytes, 16 * 1_000_000);
  }
});

test("readCost(): no byte twice in the layout that wrote, and so many times in others of goku-8b", () => {
  const units = flatUnits(parameterSpecs(modelConfigSchema.parse(MODEL_PRESETS["goku-8b"])));
  const ratio = (from: string, to: string) => {
    const { readBytes, stateBytes } = readCost(units, { from: layoutOf(from), to: layoutOf(to) });
    return readBytes / stateBytes;
  };
  const told = [
    ["1x64x1", "1x64x1"],
    ["1x64x1", "1x32x1"],
    ["1x64x1", "1x48x1"],
    ["8x64x1", "1x96x1"],
    ["1x1024x8", "1x768x8"],
  ].map(([from, to]) => `${from} ${to} ${ratio(from!, to!).toFixed(2)}`);
  assert.deepEqual(told, [
    "1x64x1 1x64x1 1.00",
    "1x64x1 1x32x1 1.00",
    "1x64x1 1x48x1 1.04",
    "8x64x1 1x96x1 1.09",
    "1x1024x8 1x768x8 1.75",
  ]);
});
