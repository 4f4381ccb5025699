import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import type { DTypeName } from "../../worker/engine/native.js";
import { COLLECTIVE, PROGRESS } from "../../worker/pages.js";
import type { OperationSpec } from "./collectives_rank.js";
import { type GroupSpec, Ranks, view } from "./collectives_ranks.js";

const SIZE_MAX = 5;
let ranks: Ranks;
let generation = 0;
before(async () => {
  ranks = await Ranks.start(SIZE_MAX);
});
after(() => ranks.stop());

/** Which members share memory, by name of the arrangement. */
const NODES: Record<string, (member: number) => string> = {
  shm: () => "node-a",
  tcp: (member) => `node-${member}`,
  mixed: (member) => (member % 3 === 1 ? "node-b" : "node-a"),
};

function groupOf(size: number, arrangement: string): GroupSpec {
  generation++;
  const members = Array.from({ length: size }, (_, i) => i);
  return {
    name: `${arrangement}.${size}`,
    generation,
    members,
    nodes: members.map((m) => NODES[arrangement]!(m)),
  };
}

/** Uneven and zero counts: member m has more than the next, one has none. */
function unevenCounts(size: number, base: number): number[] {
  return Array.from({ length: size }, (_, m) => (m % 3 === 1 ? 0 : base * (size - m) + m));
}

/** Every operation at sizes below and above each switch of algorithm: slots, pieces, the small-reduce limit. */
function allOperations(size: number): OperationSpec[] {
  const operations: OperationSpec[] = [{ op: "barrier" }];
  const dtypes: DTypeName[] = ["f32", "bf16", "f64", "u8"];
  let seed = size;
  for (const base of [0, 1, 77, 4_001]) {
    for (const dtype of dtypes) {
      const counts = unevenCounts(size, base);
      const matrix = counts.map((_, from) =>
        counts.map((_, to) => ((from + 2 * to) % 4 === 1 ? 0 : base + from + 3 * to)),
      );
      operations.push(
        { op: "allGather", dtype, counts, seed: seed++, inPlace: dtype === "bf16" },
        { op: "allToAll", dtype, counts: matrix, seed: seed++ },
        { op: "broadcast", dtype, count: base * 3, root: seed % size, seed: seed++ },
      );
    }
    const counts = unevenCounts(size, base);
    const contributes = counts.map((_, m) => (m === size - 1 && size > 1 ? 0 : 1));
    operations.push(
      { op: "reduceScatter", counts, contributes: counts.map(() => 1), seed: seed++ },
      { op: "reduceScatter", counts, contributes, seed: seed++ },
      { op: "reduceScatter", counts, contributes: counts.map(() => 0), seed: seed++ },
    );
    for (const reduction of [0, 1, 2]) {
      operations.push(
        { op: "allReduce", dtype: "f32", count: base * 2 + 1, reduction, seed: seed++, nanFrom: null },
        { op: "allReduce", dtype: "f64", count: base + size, reduction, seed: seed++, nanFrom: null },
        { op: "allReduce", dtype: "f32", count: base, reduction, seed: seed++, nanFrom: size - 1 },
      );
    }
  }
  // Longer than a slot of shared memory and than one piece of a connection.
  const long = unevenCounts(size, 20_001);
  operations.push(
    { op: "allGather", dtype: "f32", counts: long, seed: seed++, inPlace: true },
    { op: "reduceScatter", counts: long, contributes: long.map(() => 1), seed: seed++ },
    { op: "allReduce", dtype: "f32", count: 100_001, reduction: 0, seed: seed++, nanFrom: null },
    { op: "broadcast", dtype: "u8", count: 300_001, root: size - 1, seed: seed++ },
    { op: "barrier" },
  );
  return operations;
}

describe("collectives", () => {
  for (let size = 1; size <= SIZE_MAX; size++) {
    it(`give the twin's bits in a group of ${size}, whatever carries them`, async (t) => {
      const digests = new Map<string, string[]>();
      for (const arrangement of Object.keys(NODES)) {
        const group = groupOf(size, arrangement);
        await ranks.form(group);
        const carrier = await ranks.ranks[0]!.do<string>({ kind: "carrier", group: group.name });
        if (carrier !== "") t.diagnostic(`${arrangement}: ${carrier}`);
        digests.set(arrangement, await ranks.run(group, allOperations(size)));
        await ranks.close(group);
      }
      assert.deepEqual(digests.get("tcp"), digests.get("shm"));
      assert.deepEqual(digests.get("mixed"), digests.get("shm"));
    });
  }

  it("give the same bits over TCP within a node", async () => {
    const group: GroupSpec = { ...groupOf(3, "shm"), transport: "tcp" };
    await ranks.form(group);
    const tcp = await ranks.run(group, allOperations(3));
    await ranks.close(group);
    const shared = groupOf(3, "shm");
    await ranks.form(shared);
    assert.deepEqual(await ranks.run(shared, allOperations(3)), tcp);
    await ranks.close(shared);
  });

  it("run in groups that overlap, each in its own member order", async () => {
    generation++;
    const world: GroupSpec = {
      name: "world",
      generation,
      members: [0, 1, 2, 3],
      nodes: ["a", "a", "b", "b"],
    };
    const pairs: GroupSpec[] = [
      { name: "pair.0", generation, members: [2, 0], nodes: ["b", "a"] },
      { name: "pair.1", generation, members: [3, 1], nodes: ["b", "a"] },
    ];
    for (const group of [world, ...pairs]) await ranks.form(group);
    const sum: OperationSpec = {
      op: "allReduce",
      dtype: "f32",
      count: 100_003,
      reduction: 0,
      seed: 5,
      nanFrom: null,
    };
    for (let round = 0; round < 3; round++) {
      await Promise.all([ranks.run(pairs[0]!, [sum, sum]), ranks.run(pairs[1]!, [sum])]);
      const [first, ...others] = await ranks.run(world, [sum]);
      for (const digest of others) assert.equal(digest, first);
    }
    for (const group of [world, ...pairs]) await ranks.close(group);
  });

  it("move payloads larger than all buffers, uneven, in both directions at once", async () => {
    for (const arrangement of ["shm", "tcp", "mixed"]) {
      const group = groupOf(4, arrangement);
      await ranks.form(group);
      const big = 700_001;
      await ranks.run(group, [
        {
          op: "allToAll",
          dtype: "f32",
          counts: [
            [0, big, 5, 1],
            [big, 0, 1, big],
            [7, 7, 7, 7],
            [0, 0, big, 0],
          ],
          seed: 1,
        },
        { op: "allGather", dtype: "u8", counts: [big, 0, 3, 2 * big], seed: 2, inPlace: false },
        { op: "broadcast", dtype: "bf16", count: big, root: 2, seed: 3 },
        { op: "reduceScatter", counts: [1, big >> 1, 0, big >> 2], contributes: [1, 0, 1, 1], seed: 4 },
        { op: "allReduce", dtype: "f64", count: big >> 2, reduction: 0, seed: 5, nanFrom: null },
      ]);
      await ranks.close(group);
    }
  });

  it("write what was entered and completed to the progress page", async () => {
    const group = groupOf(2, "shm");
    await ranks.form(group);
    await ranks.run(group, [
      { op: "barrier" },
      { op: "allGather", dtype: "f32", counts: [3, 4], seed: 1, inPlace: false },
    ]);
    const page = view(ranks.ranks[0]!.progress);
    // The connecting of the group is number 1.
    assert.equal(page.getBigUint64(PROGRESS.collectiveEntered, true), 3n);
    assert.equal(page.getBigUint64(PROGRESS.collectiveCompleted, true), 3n);
    assert.equal(page.getUint32(PROGRESS.collectiveKind, true), COLLECTIVE.allGather);
    assert.equal(page.getBigUint64(PROGRESS.collectiveBytes, true), BigInt(4 * (3 + 4)));
    const name = Buffer.from(page.buffer, page.byteOffset + PROGRESS.collectiveGroupName, 32).toString();
    assert.equal(name.replace(/\0+$/, ""), group.name);
    assert.equal(page.getUint32(PROGRESS.collectiveGroup, true), fnv1a(group.name));
    await ranks.close(group);
  });

  it("refuse other counts on another member, and say who", async () => {
    const group = groupOf(2, "tcp");
    await ranks.form(group);
    const [first, second] = await Promise.all([
      ranks.runOn(group, 0, { op: "allGather", dtype: "f32", counts: [3, 4], seed: 1, inPlace: false }),
      ranks.runOn(group, 1, { op: "allGather", dtype: "f32", counts: [3, 5], seed: 1, inPlace: false }),
    ]);
    assert.equal(first.error?.code, "NATIVE_ARGUMENT");
    assert.equal(second.error?.code, "NATIVE_ARGUMENT");
    await ranks.close(group);
  });
});

function fnv1a(text: string): number {
  let hash = 2166136261;
  for (const byte of Buffer.from(text)) hash = Math.imul(hash ^ byte, 16777619) >>> 0;
  return hash;
}
