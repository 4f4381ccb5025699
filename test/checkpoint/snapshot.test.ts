import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import {
  beginSnapshot,
  readSnapshotHeader,
  SnapshotReader,
  sealSnapshot,
  snapshotLayout,
  verifySnapshot,
} from "../../checkpoint/snapshot.js";
import { STATE_KINDS } from "../../checkpoint/state.js";
import { EXCLUSIONS_MAX } from "../../job/exclusion.js";
import { shardRange } from "../../job/sharding.js";
import {
  AWKWARD,
  layoutOf,
  metaOf,
  modelOf,
  Random,
  refuses,
  scratchFolder,
  sealOf,
  snapshotPage,
  state,
} from "./fixtures.js";

const scratch = scratchFolder();
const layout = layoutOf("1x2x1");
const file = path.join(scratch, "slot");

function headerOf(page: Uint8Array) {
  writeFileSync(file, page);
  return readSnapshotHeader(file);
}

test("snapshotLayout() gives every kind and unit its place, aligned, without overlap", () => {
  for (const text of ["1x1x1", "2x3x2", "1x40x1"]) {
    const wide = layoutOf(text);
    for (let rank = 0; rank < wide.worldSize; rank++) {
      const plan = snapshotLayout(AWKWARD.units, wide, rank);
      assert.equal(plan.entries.length, STATE_KINDS.length * AWKWARD.units.length);
      let end = 65_536;
      for (const { byteOffset, count, unit } of plan.entries) {
        assert.ok(byteOffset >= end && byteOffset % 64 === 0);
        const elements = AWKWARD.units.find((each) => each.name === unit)!.count;
        assert.equal(
          count,
          shardRange({ count: elements, parts: wide.shardGroupSize, index: rank % wide.shardGroupSize })
            .length,
        );
        end = byteOffset + 4 * count;
      }
      assert.ok(plan.bytes >= end);
    }
  }
});

test("readSnapshotHeader() returns what was sealed", () => {
  const meta = metaOf(state(7, 12), layout, {
    parent: state(6, 3),
    exclusions: [{ sample: 5, step: 2 }],
  });
  const header = headerOf(snapshotPage(AWKWARD, layout, 1, meta))!;
  assert.deepEqual(header.meta, meta);
  assert.equal(header.rank, 1);
  assert.equal(header.bytes, snapshotLayout(AWKWARD.units, layout, 1).bytes);
  assert.equal(header.sequence, 1n);
  const { entries } = snapshotLayout(AWKWARD.units, layout, 1);
  assert.deepEqual(
    header.entries,
    entries.map(({ byteOffset, count }) => ({ byteOffset, bytes: 4 * count })),
  );
  assert.equal(header.checksums.length, entries.filter(({ count }) => count > 0).length, "all below 1 MiB");
});

/** Copies of the page after each store that begin and seal make, as a process killed there would leave it. */
function everyStore(page: Uint8Array, work: () => void): Uint8Array[] {
  const copies: Uint8Array[] = [];
  const places: [object, string][] = [
    [DataView.prototype, "setUint32"],
    [DataView.prototype, "setBigUint64"],
    [Uint8Array.prototype, "set"],
    [Atomics, "store"],
  ];
  const originals = places.map(
    ([object, name]) => Reflect.get(object, name) as (...args: unknown[]) => unknown,
  );
  for (const [i, [object, name]] of places.entries()) {
    Reflect.set(object, name, function (this: unknown, ...args: unknown[]) {
      const result = originals[i]!.apply(this, args);
      copies.push(page.slice());
      return result;
    });
  }
  try {
    work();
  } finally {
    for (const [i, [object, name]] of places.entries()) Reflect.set(object, name, originals[i]);
  }
  return copies;
}

test("a rank killed after any store of begin or seal leaves a page that is not whole, until the last", () => {
  const page = snapshotPage(AWKWARD, layout, 0, metaOf(state(1, 1), layout));
  const copies = everyStore(page, () => {
    beginSnapshot(page);
    page.fill(0xab, 1_048_576);
    sealSnapshot(page, sealOf(page, AWKWARD, layout, 0, metaOf(state(1, 2), layout)));
  });
  assert.ok(copies.length >= 12, `${copies.length} stores`);
  for (const [i, copy] of copies.entries()) {
    const header = headerOf(copy);
    if (i < copies.length - 1) assert.equal(header, null, `after store ${i + 1} of ${copies.length}`);
    else assert.equal(header?.meta.state.step, 2);
  }
});

test("a copy of a page that stopped anywhere, over another whole one or over nothing, is not whole or fails its checksums", async () => {
  const older = snapshotPage(AWKWARD, layout, 0, metaOf(state(1, 1), layout));
  const newer = snapshotPage(AWKWARD, layout, 0, metaOf(state(1, 2), layout));
  const random = new Random(2);
  const cuts = [1, 11, 13, 20, 95, 97, 4096, 4200, 524_289, 1_048_576, 1_048_580, older.byteLength - 1];
  for (const cut of [...cuts, ...Array.from({ length: 30 }, () => random.below(older.byteLength))]) {
    const mixed = older.slice();
    mixed.set(newer.subarray(0, cut));
    for (const page of [mixed, newer.slice(0, cut)]) {
      const header = headerOf(page);
      const same = Buffer.from(page).equals(older) || Buffer.from(page).equals(newer);
      if (header !== null && !same)
        assert.match(
          (await verifySnapshot(file)) ?? "nothing",
          /differ from their checksum/,
          `cut at ${cut}`,
        );
    }
    assert.equal(headerOf(newer.slice(0, cut)), null);
  }
});

test("a flipped bit in the header is not whole, one in the data fails its checksum", async () => {
  const page = snapshotPage(AWKWARD, layout, 0, metaOf(state(1, 1), layout));
  const jsonBytes = new DataView(page.buffer).getUint32(56, true);
  const random = new Random(8);
  const places = [
    ...Array.from({ length: 96 }, (_, i) => i),
    ...Array.from({ length: 40 }, () => 4096 + random.below(jsonBytes)),
    ...[0, 1, 2, 3].map((i) => 524_288 + i),
  ];
  for (const at of places) {
    assert.equal(headerOf(page.with(at, page[at]! ^ (1 << random.below(8)))), null, `byte ${at}`);
  }
  const { entries } = snapshotLayout(AWKWARD.units, layout, 0);
  for (let i = 0; i < 40; i++) {
    const { byteOffset, count } = entries[random.below(entries.length)]!;
    if (count === 0) continue;
    const at = byteOffset + random.below(4 * count);
    writeFileSync(file, page.with(at, page[at]! ^ 16));
    assert.match((await verifySnapshot(file)) ?? "nothing", /bytes at \d+ differ from their checksum/);
  }
  writeFileSync(file, page);
  assert.equal(await verifySnapshot(file), null);
});

test("SnapshotReader reads any ranges in any order, each chunk checked first", async () => {
  const model = modelOf({ "patch_embed.weight": [500, 800] });
  const single = layoutOf("1x1x1");
  const page = snapshotPage(model, single, 0, metaOf(state(1, 1), single));
  writeFileSync(file, page);
  const random = new Random(13);
  const reader = await SnapshotReader.open(file);
  const { entries } = snapshotLayout(model.units, single, 0);
  for (let i = 0; i < 60; i++) {
    const { byteOffset, count } = entries[random.below(entries.length)]!;
    const from = random.below(4 * count);
    const at = byteOffset + from;
    const length = random.below(4 * count - from + 1);
    const parts: Buffer[] = [];
    for await (const part of reader.read(at, length)) parts.push(Buffer.from(part));
    assert.ok(Buffer.concat(parts).equals(page.subarray(at, at + length)), `${length} bytes at ${at}`);
  }
  await assert.rejects(reader.read(0, 1).next(), /not of one entry/);
  reader.requireUnchanged();
  await reader.close();
});

test("readSnapshotHeader() returns null for files that are no snapshots, and verifySnapshot() says so", async () => {
  assert.equal(readSnapshotHeader(path.join(scratch, "none")), null);
  assert.equal(readSnapshotHeader(path.join(file, "below a file")), null);
  for (const bytes of [new Uint8Array(0), new Uint8Array(2_000_000), Buffer.from("GOKUSNAP")])
    assert.equal(headerOf(bytes), null);
  assert.match((await verifySnapshot(file)) ?? "nothing", /missing or not whole/);
});

test("sealSnapshot() needs a begin, and refuses a meta that does not fit", () => {
  const page = snapshotPage(AWKWARD, layout, 0, metaOf(state(1, 1), layout));
  const seal = sealOf(page, AWKWARD, layout, 0, metaOf(state(1, 2), layout));
  assert.throws(() => sealSnapshot(page, seal), TypeError);
  beginSnapshot(page);
  const few = seal.checksums.subarray(1);
  assert.throws(() => sealSnapshot(page, { ...seal, checksums: few }), /checksums, want \d+, at most 131072/);
  const big = { job: "x".repeat(600_000) };
  assert.throws(
    () => sealSnapshot(page, { ...seal, meta: metaOf(state(1, 2), layout, big) }),
    refuses("INTERNAL", /its meta takes \d+ bytes, room is for 520192/),
  );
  assert.equal(headerOf(page), null);
});

test("sealSnapshot() has room for as many exclusions as a run may have", () => {
  const page = snapshotPage(AWKWARD, layout, 0, metaOf(state(1, 1), layout));
  beginSnapshot(page);
  const exclusions = Array.from({ length: EXCLUSIONS_MAX }, (_, i) => ({
    sample: 2 ** 32 - i,
    step: 2 ** 32 - i,
  }));
  const meta = metaOf(state(1, 2), layout, { exclusions });
  sealSnapshot(page, sealOf(page, AWKWARD, layout, 0, meta));
  assert.deepEqual(headerOf(page)?.meta, meta);
});
