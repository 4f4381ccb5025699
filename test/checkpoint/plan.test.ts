import assert from "node:assert/strict";
import { test } from "node:test";
import {
  coverageFault,
  type Extent,
  planDigest,
  readPlan,
  WriterIndex,
  writePlan,
} from "../../checkpoint/plan.js";
import { STATE_KINDS } from "../../checkpoint/state.js";
import { Layout } from "../../job/layout.js";
import { MODEL_PRESETS, modelConfigSchema } from "../../job/model_config.js";
import { parameterSpecs } from "../../job/parameters.js";
import { flatUnits, shardRange } from "../../job/sharding.js";
import { AWKWARD, layoutOf, Random } from "./fixtures.js";

const LAYOUTS = ["1x1x1", "1x3x1", "2x2x2", "3x1x1", "5x2x1", "1x40x1", "700x1x2"];

test("writePlan() has every element of every tensor written exactly once, in any layout", () => {
  for (const text of LAYOUTS) {
    const layout = layoutOf(text);
    const plan = writePlan(AWKWARD.units, layout);
    const extents = new Map<string, Extent[]>();
    for (let writer = 0; writer < plan.writerCount; writer++) {
      for (const { tensor, start, length } of plan.intervals(writer)) {
        extents.set(tensor, [...(extents.get(tensor) ?? []), { start, length }]);
      }
    }
    for (const { name, count } of AWKWARD.specs) {
      for (const kind of STATE_KINDS)
        assert.equal(coverageFault(extents.get(`${kind}/${name}`) ?? [], count), null, `${text} ${name}`);
    }
  }
});

test("writePlan() gives a rank only what its shard holds, in the order of its snapshot", () => {
  for (const text of LAYOUTS) {
    const layout = layoutOf(text);
    const plan = writePlan(AWKWARD.units, layout);
    for (let writer = 0; writer < plan.writerCount; writer++) {
      let last = -1;
      for (const { kind, spec, unit, start, length, shardOffset } of plan.intervals(writer)) {
        const unitIndex = AWKWARD.units.findIndex((each) => each.name === unit);
        const { count, parameters } = AWKWARD.units[unitIndex]!;
        const range = shardRange({
          count,
          parts: layout.shardGroupSize,
          index: writer % layout.shardGroupSize,
        });
        const offset = parameters.find((each) => each.spec.name === spec.name)!.offset;
        assert.equal(range.start + shardOffset, offset + start);
        assert.ok(shardOffset + length <= range.length);
        const place = STATE_KINDS.indexOf(kind) * 1e9 + unitIndex * 1e6 + shardOffset;
        assert.ok(place > last);
        last = place;
      }
    }
  }
});

test("writePlan() shares the writing evenly between replicas", () => {
  const layout = layoutOf("5x2x1");
  const plan = writePlan(AWKWARD.units, layout);
  const elements = (writer: number) => plan.intervals(writer).reduce((sum, { length }) => sum + length, 0);
  for (const shard of [0, 1]) {
    const shares = layout.replicaGroup(shard).map(elements);
    assert.ok(Math.max(...shares) - Math.min(...shares) <= 1, String(shares));
  }
});

test("planDigest() changes with layout, names, shapes and order, and with nothing else", () => {
  const specs = AWKWARD.specs;
  const layout = layoutOf("1x2x1");
  const digest = planDigest(flatUnits(specs), layout);
  assert.equal(planDigest(flatUnits(specs.map((spec) => ({ ...spec }))), layoutOf("1x2x1")), digest);
  const others = [
    planDigest(flatUnits(specs), layoutOf("1x1x2")),
    planDigest(flatUnits(specs.slice(1)), layout),
    planDigest(flatUnits([specs[1]!, specs[0]!, ...specs.slice(2)]), layout),
    planDigest(flatUnits([{ ...specs[0]!, shape: [5, 7] }, ...specs.slice(1)]), layout),
    planDigest(flatUnits([{ ...specs[0]!, name: "other" }, ...specs.slice(1)]), layout),
  ];
  assert.equal(new Set([digest, ...others]).size, 6);
});

test("one rank's plan of 8B parameters over 8,192 ranks does not walk the other ranks", () => {
  const config = modelConfigSchema.parse(MODEL_PRESETS["goku-8b"]);
  const units = flatUnits(parameterSpecs(config));
  const narrow = writePlan(units, new Layout({ dp_replicate: 1, dp_shard: 1, sp: 1 })).intervals(0).length;
  const wide = writePlan(units, new Layout({ dp_replicate: 4, dp_shard: 256, sp: 8 }));
  assert.equal(wide.writerCount, 8192);
  // A shard touches at most a few parameters of each unit.
  for (const writer of [0, 1, 4095, 8191])
    assert.ok(wide.intervals(writer).length * 4 < narrow, String(writer));
});

test("readPlan() finds the parts of any wanted interval, and null where some are not held", () => {
  const random = new Random(6);
  for (let round = 0; round < 300; round++) {
    const count = 1 + random.below(60);
    const cuts = new Set(Array.from({ length: random.below(8) }, () => random.below(count)));
    const edges = [...new Set([0, ...cuts, count])].sort((a, b) => a - b);
    const extents = edges.slice(1).map((end, i) => ({ start: edges[i]!, length: end - edges[i]! }));
    const start = random.below(count);
    const length = random.below(count - start + 1);
    const copied = Array.from({ length }, () => -1);
    for (const step of readPlan({ start, length }, extents)!) {
      for (let i = 0; i < step.length; i++)
        copied[step.targetOffset + i] = step.extent.start + step.extentOffset + i;
    }
    assert.deepEqual(
      copied,
      Array.from({ length }, (_, i) => start + i),
    );
    const hole = random.pick(extents);
    const holed = extents.filter((extent) => extent !== hole);
    const isHit = length > 0 && hole.start < start + length && start < hole.start + hole.length;
    assert.equal(readPlan({ start, length }, holed) === null, isHit);
    assert.equal(readPlan({ start, length: count - start + 1 }, extents), null);
  }
});

test("coverageFault() tells what is missing, held twice or beyond the shape", () => {
  assert.equal(
    coverageFault(
      [
        { start: 4, length: 2 },
        { start: 0, length: 4 },
      ],
      6,
    ),
    null,
  );
  assert.match(coverageFault([{ start: 4, length: 2 }], 6)!, /elements 0 to 4 are missing/);
  assert.match(coverageFault([{ start: 0, length: 4 }], 6)!, /elements 4 to 6 are missing/);
  assert.match(
    coverageFault(
      [
        { start: 0, length: 4 },
        { start: 3, length: 3 },
      ],
      6,
    )!,
    /elements 3 to 4 are held twice/,
  );
  assert.match(coverageFault([{ start: 0, length: 8 }], 6)!, /holds 8 elements, its shape has 6/);
});

test("WriterIndex finds the writers of any elements that a look at every writer finds", () => {
  const random = new Random(5);
  for (const text of LAYOUTS) {
    const layout = layoutOf(text);
    const plan = writePlan(AWKWARD.units, layout);
    const index = new WriterIndex(AWKWARD.units, layout);
    const all = Array.from({ length: plan.writerCount }, (_, writer) => plan.intervals(writer));
    for (let i = 0; i < 200; i++) {
      const { name, count } = random.pick(AWKWARD.specs);
      const tensor = `${random.pick(STATE_KINDS)}/${name}`;
      const start = random.below(count + 1);
      const length = random.below(count - start + 1);
      const wanted = all.flatMap((intervals, writer) => {
        const overlaps = intervals.some(
          (held) => held.tensor === tensor && held.start < start + length && start < held.start + held.length,
        );
        return overlaps && length > 0 ? [writer] : [];
      });
      assert.deepEqual(
        index.writersOf({ tensor, start, length }),
        wanted,
        `${text} ${tensor} ${start}+${length}`,
      );
    }
  }
  assert.throws(
    () =>
      new WriterIndex(AWKWARD.units, layoutOf("1x1x1")).writersOf({ tensor: "model/x", start: 0, length: 1 }),
    RangeError,
  );
});
