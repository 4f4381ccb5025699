import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import {
  failuresText,
  type MemoryRead,
  readMemory,
  type SnapshotSource,
} from "../../checkpoint/read_memory.js";
import { readSnapshotHeader, SnapshotReader } from "../../checkpoint/snapshot.js";
import { STATE_KINDS, type StateKind } from "../../checkpoint/state.js";
import type { Layout } from "../../job/layout.js";
import { shardPieces, shardRange } from "../../job/sharding.js";
import {
  AWKWARD,
  elementBits,
  layoutOf,
  metaOf,
  modelOf,
  Random,
  scratchFolder,
  state,
  type TestModel,
  writeSlots,
} from "./fixtures.js";

const scratch = scratchFolder();
const STATE = state(4, 7);
/** Several MiB a kind, so that chunks end inside shards. */
const WIDE = modelOf({ "blocks.0.mlp.fc1.weight": [700, 1031], "patch_embed.bias": [9] });
let folders = 0;

function slotsOf(model: TestModel, from: Layout): string[] {
  const slots = path.join(scratch, String(folders++));
  return writeSlots({ storage: "", model, layout: from, meta: metaOf(STATE, from), slots });
}

function sourceOf(file: string): SnapshotSource {
  return { name: path.basename(file), open: () => SnapshotReader.open(file) };
}

interface Read extends MemoryRead {
  shards: Map<string, Uint32Array>;
}

/** Reads one rank of `to`; its shards start as zeros. */
async function readRank(options: {
  model: TestModel;
  from: Layout;
  to: Layout;
  rank: number;
  sources: (shard: number) => SnapshotSource[];
}): Promise<Read> {
  const { model, to, rank } = options;
  const shards = new Map<string, Uint32Array>();
  for (const kind of STATE_KINDS) {
    for (const { name, count } of model.units) {
      const { length } = shardRange({
        count,
        parts: to.shardGroupSize,
        index: rank % to.shardGroupSize,
      });
      shards.set(`${kind}/${name}`, new Uint32Array(length));
    }
  }
  const read = await readMemory({
    ...options,
    units: model.units,
    state: STATE,
    kinds: STATE_KINDS,
    write: ({ kind, unit, offset, bytes }) => {
      const shard = shards.get(`${kind}/${unit}`)!;
      new Uint8Array(shard.buffer).set(bytes, 4 * offset);
    },
  });
  return { ...read, shards };
}

/** Elements that are not what the state holds, counted by "<kind>/<unit>". */
function wrongIn({ shards }: Read, model: TestModel, to: Layout, rank: number): Map<string, number> {
  const wrong = new Map<string, number>();
  for (const { unit, parameter, start, length, shardOffset } of shardPieces(model.units, to, rank)) {
    for (const kind of STATE_KINDS) {
      const shard = shards.get(`${kind}/${unit}`)!;
      for (let i = 0; i < length; i++) {
        if (shard[shardOffset + i] === elementBits(STATE, `${kind}/${parameter}`, start + i)) continue;
        wrong.set(`${kind}/${unit}`, (wrong.get(`${kind}/${unit}`) ?? 0) + 1);
      }
    }
  }
  return wrong;
}

test("readMemory() gives every rank of any layout its bits, from the snapshots of any other", async () => {
  const random = new Random(11);
  const any = () => layoutOf([0, 0, 0].map(() => 1 + random.below(3)).join("x"));
  for (let round = 0; round < 40; round++) {
    const model = round % 8 === 0 ? WIDE : AWKWARD;
    const [from, to] = [any(), any()];
    const files = slotsOf(model, from);
    // Any rank that holds a shard serves for it.
    const twins = (shard: number) => {
      const holders = files.filter((_, rank) => rank % from.shardGroupSize === shard);
      return [sourceOf(random.pick(holders))];
    };
    for (let rank = 0; rank < to.worldSize; rank++) {
      const read = await readRank({ model, from, to, rank, sources: twins });
      assert.deepEqual(read.failures, []);
      assert.deepEqual([...wrongIn(read, model, to, rank)], [], `${from} to ${to}, rank ${rank}`);
    }
  }
});

test("readMemory() takes each damaged chunk from the next source, and no other", async () => {
  const [from, to] = [layoutOf("1x1x1"), layoutOf("1x2x1")];
  const files = [slotsOf(WIDE, from)[0]!, slotsOf(WIDE, from)[0]!];
  const { entries } = readSnapshotHeader(files[0]!)!;
  const kinds = entries.filter(({ bytes }) => bytes > 2 << 20);
  for (const [i, file] of files.entries()) {
    const bytes = readFileSync(file);
    bytes[kinds[i]!.byteOffset + 3]! ^= 16; // another chunk in each
    writeFileSync(file, bytes);
  }
  const read = await readRank({ model: WIDE, from, to, rank: 0, sources: () => files.map(sourceOf) });
  assert.deepEqual([...wrongIn(read, WIDE, to, 0)], []);
  assert.deepEqual(read.missing, []);
  assert.deepEqual(
    read.parts.map(({ bytes }) => bytes),
    [read.parts[0]!.bytes, 1 << 20],
    "one MiB came from the second",
  );
  assert.match(read.parts[1]!.insteadOf, /slot-0: .*differ from their checksum/);
});

test("readMemory() says what no source holds, and gives the rest", async () => {
  const [from, to] = [layoutOf("1x2x1"), layoutOf("1x1x1")];
  const files = slotsOf(WIDE, from);
  const bytes = readFileSync(files[1]!);
  const { entries } = readSnapshotHeader(files[1]!)!;
  const damaged = entries.findIndex(({ bytes }) => bytes > 1 << 20);
  bytes[entries[damaged]!.byteOffset]! ^= 1;
  writeFileSync(files[1]!, bytes);
  const one = await readRank({ model: WIDE, from, to, rank: 0, sources: (i) => [sourceOf(files[i]!)] });
  const kind = STATE_KINDS[Math.floor(damaged / WIDE.units.length)] as StateKind;
  assert.deepEqual(one.missing, [{ kind, unit: "blocks.0" }]);
  assert.deepEqual([...wrongIn(one, WIDE, to, 0).keys()], [`${kind}/blocks.0`]);

  const none = await readRank({
    model: WIDE,
    from,
    to,
    rank: 0,
    sources: (i) => (i === 0 ? [sourceOf(files[0]!)] : []),
  });
  assert.equal(none.missing.length, STATE_KINDS.length, "of every kind, the second half");
  assert.match(failuresText(none.failures), /shard 1: nobody holds it/);
});

test("readMemory() takes nothing from a snapshot of another state or another layout", async () => {
  const [from, to] = [layoutOf("1x1x1"), layoutOf("1x1x1")];
  const slots = path.join(scratch, "older");
  const older = writeSlots({
    storage: "",
    model: AWKWARD,
    layout: from,
    meta: metaOf(state(4, 6), from),
    slots,
  });
  const wide = slotsOf(AWKWARD, layoutOf("1x2x1"));
  const right = slotsOf(AWKWARD, from);
  const files = [older[0]!, wide[0]!, right[0]!];
  const read = await readRank({ model: AWKWARD, from, to, rank: 0, sources: () => files.map(sourceOf) });
  assert.deepEqual([...wrongIn(read, AWKWARD, to, 0)], []);
  assert.match(
    read.parts[0]!.insteadOf,
    /step 6 of generation 4 of rank 0 in layout 1x1x1; .*step 7.*layout 1x2x1/,
  );
});
