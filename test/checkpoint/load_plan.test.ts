import assert from "node:assert/strict";
import { test } from "node:test";
import { CHUNK_BYTES } from "../../checkpoint/digest.js";
import { LOAD_ROUND_BYTES_MAX, LoadPlan, type UnitChunk, type Wanting } from "../../checkpoint/load_plan.js";
import { writePlan } from "../../checkpoint/plan.js";
import { STATE_KINDS } from "../../checkpoint/state.js";
import { Layout } from "../../job/layout.js";
import { MODEL_PRESETS, modelConfigSchema } from "../../job/model_config.js";
import { parameterSpecs } from "../../job/parameters.js";
import { type FlatUnit, flatUnits, shardRange } from "../../job/sharding.js";
import { layoutOf, modelOf, Random } from "./fixtures.js";

/** Every chunk that a layout writes. */
function chunksOf(units: readonly FlatUnit[], from: Layout): UnitChunk[] {
  const offsets = new Map(
    units.flatMap((unit) => unit.parameters.map(({ spec, offset }) => [spec.name, offset] as const)),
  );
  const plan = writePlan(units, from);
  const chunks: UnitChunk[] = [];
  for (let writer = 0; writer < from.worldSize; writer++) {
    for (const { kind, unit, spec, start, length } of plan.intervals(writer)) {
      const begin = offsets.get(spec.name)! + start;
      for (let at = 0; at < length; at += CHUNK_BYTES / 4) {
        const end = begin + Math.min(length, at + CHUNK_BYTES / 4);
        chunks.push({ kind, unit, start: begin + at, end });
      }
    }
  }
  return chunks;
}

/** What the busiest rank reads and gets in one round, and what each reads in all; parts are checked on the way. */
function loadOf(
  units: readonly FlatUnit[],
  { from, to }: { from: Layout; to: Layout },
  wanting: Wanting = null,
) {
  const plan = new LoadPlan(units, to, wanting);
  const counts = new Map(units.map(({ name, count }) => [name, count]));
  const read = new Map<string, number>();
  const landed = new Map<string, number>();
  const whole = new Map<number, number>();
  let bytes = 0;
  const add = <K>(map: Map<K, number>, key: K, more: number) => map.set(key, (map.get(key) ?? 0) + more);
  for (const chunk of chunksOf(units, from)) {
    const place = plan.place(chunk);
    const wanted = wanting?.(chunk.kind, chunk.unit);
    let at = chunk.start;
    for (let index = 0; index < to.shardGroupSize; index++) {
      const held = shardRange({ count: counts.get(chunk.unit)!, parts: to.shardGroupSize, index });
      const [start, end] = [Math.max(at, held.start), Math.min(chunk.end, held.start + held.length)];
      if (start >= end) continue;
      at = end;
      const part = place?.parts.find((one) => one.index === index);
      assert.deepEqual(part, wanted?.has(index) === false ? undefined : { index, start, end });
    }
    assert.equal(at, chunk.end);
    if (place === null) continue;
    assert.ok(place.round < plan.rounds.length && place.replica < to.dpReplicate);
    assert.ok(place.parts.some(({ index }) => index === place.reader));
    const size = 4 * (chunk.end - chunk.start);
    bytes += size;
    add(read, `${place.replica}/${place.reader}/${place.round}`, size);
    add(whole, place.replica * to.shardGroupSize + place.reader, size);
    for (const { index, start, end } of place.parts)
      add(landed, `${place.replica}/${index}/${place.round}`, 4 * (end - start));
  }
  const most = (map: Map<unknown, number>) => [...map.values()].reduce((a, b) => Math.max(a, b), 0);
  return { read: most(read), landed: most(landed), whole: most(whole), bytes };
}

function randomModel(random: Random): FlatUnit[] {
  const shapes: Record<string, number[]> = {};
  const size = () => 1 + random.below(random.pick([3, 500, 100_000, 3_000_000]));
  for (let i = 0; i < 1 + random.below(3); i++) shapes[`patch_embed.p${i}`] = [size()];
  for (let block = 0; block < random.below(5); block++)
    for (let i = 0; i < 1 + random.below(3); i++) shapes[`blocks.${block}.p${i}`] = [size()];
  return modelOf(shapes).units;
}

function randomLayout(random: Random): Layout {
  const part = (limit: number) => 1 + random.below(limit);
  return new Layout({ dp_replicate: part(4), dp_shard: part(random.pick([3, 40])), sp: part(3) });
}

test("LoadPlan gives each chunk to one rank that needs it, whose memory is bounded (300 random pairs)", () => {
  const random = new Random(23);
  let shared = 0;
  for (let round = 0; round < 300; round++) {
    const units = randomModel(random);
    const layouts = { from: randomLayout(random), to: randomLayout(random) };
    const parts = layouts.to.shardGroupSize;
    const lacking = new Map(
      STATE_KINDS.flatMap((kind) =>
        units.map(({ name }) => [
          `${kind}/${name}`,
          new Set(Array.from({ length: random.below(3) }, () => random.below(parts))),
        ]),
      ),
    );
    const wanting: Wanting = round % 3 > 0 ? null : (kind, unit) => lacking.get(`${kind}/${unit}`)!;
    const { read, landed, bytes } = loadOf(units, layouts, wanting);
    assert.ok(read <= LOAD_ROUND_BYTES_MAX, `${layouts.from} to ${layouts.to}: reads ${read}`);
    assert.ok(landed <= LOAD_ROUND_BYTES_MAX, `${layouts.from} to ${layouts.to}: gets ${landed}`);
    const state = 16 * units.reduce((sum, { count }) => sum + count, 0);
    if (wanting === null) assert.equal(bytes, state);
    if (layouts.from.shardGroupSize !== parts) shared++;
  }
  assert.ok(shared > 200);
});

test("LoadPlan spreads goku-8b over ranks that share chunks, and over replicas", () => {
  const config = modelConfigSchema.parse({ ...MODEL_PRESETS["goku-8b"], depth: 6 });
  const units = flatUnits(parameterSpecs(config));
  for (const [from, to] of [
    ["1x64x1", "1x48x1"],
    ["8x64x1", "1x384x4"], // a sixth of each chunk for each rank
    ["1x64x1", "8x8x1"],
    ["1x64x1", "64x1x1"],
  ] as const) {
    const layouts = { from: layoutOf(from), to: layoutOf(to) };
    const { whole, bytes } = loadOf(units, layouts);
    const even = bytes / layouts.to.worldSize;
    assert.ok(whole <= 1.5 * even + 4 * CHUNK_BYTES, `${from} to ${to}: ${whole} of ${even}`);
  }
});

test("LoadPlan has no round where nobody wants anything", () => {
  const { units } = modelOf({ "patch_embed.p": [10] });
  assert.equal(new LoadPlan(units, layoutOf("2x3x1"), () => new Set()).rounds.length, 0);
  assert.equal(new LoadPlan(units, layoutOf("2x3x1")).rounds.length, 2);
  assert.equal(new LoadPlan(units, layoutOf("3x1x1")).rounds.length, 1); // no shard shares anything
});
