/**
 * Collectives by NCCL: our side of it, between processes with emulated devices and a library that stands in for NVIDIA's
 * (test/support/fake_nccl.cc). On a machine with a GPU test/native/collectives.test.ts goes over the real one.
 */
import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { COLLECTIVE, PROGRESS } from "../../worker/pages.js";
import type { OperationSpec, RankError } from "../native/collectives_rank.js";
import { type GroupSpec, type Outcome, Ranks, view } from "../native/collectives_ranks.js";
import { onEmulatedDevice } from "../support/emulated_device.js";
import { FakeNccl } from "../support/fake_nccl.js";
import { withEnvironment } from "../support/stand_in_library.js";
import { fleetJob, TINY, trainFleet, wholeState } from "../worker/parallel/fleet.js";

const fake = new FakeNccl();
let ranks: Ranks;
let generation = 0;
before(async () => {
  ranks = await withEnvironment(fake.env, () => Ranks.start(4));
});
afterEach(() => fake.order());
after(async () => {
  await ranks.stop();
  fake.remove();
});

const GATHER: OperationSpec & { op: "allGather" } = {
  op: "allGather",
  dtype: "f32",
  counts: [5000, 5000, 5000, 5000],
  seed: 3,
  inPlace: false,
};
/** More than a vote. */
const SUM: OperationSpec = {
  op: "allReduce",
  dtype: "f32",
  count: 9_001,
  reduction: 0,
  seed: 4,
  nanFrom: null,
};

/** On one node, on two, or each on its own. */
function groupOf(nodes: string[], options: Partial<GroupSpec> = {}): GroupSpec {
  generation++;
  return { name: `shard.${generation}`, generation, members: nodes.map((_, i) => i), nodes, ...options };
}
const four = (options: Partial<GroupSpec> = {}) => groupOf(["a", "a", "b", "b"], options);

const carriers = (group: GroupSpec) =>
  Promise.all(
    group.members.map((rank) => ranks.ranks[rank]!.do<string>({ kind: "carrier", group: group.name })),
  );

async function formOverNccl(group: GroupSpec): Promise<void> {
  await ranks.form(group);
  for (const carrier of await carriers(group)) assert.equal(carrier, "NCCL 2.30.7");
}

/** Why the group goes over the host; it works all the same. */
async function assertByHost(group: GroupSpec): Promise<string> {
  await ranks.form(group);
  const found = new Set(await carriers(group));
  assert.equal(found.size, 1, "members disagree");
  await ranks.run(group, [SUM, { ...GATHER, counts: group.members.map(() => 100) }]);
  await ranks.close(group);
  const [carrier] = found;
  return /^shared memory and TCP: (.*)$/.exec(carrier!)![1]!;
}

function assertFault(outcome: Outcome<unknown>, code: string, peer: number): RankError {
  assert.notEqual(outcome.error, null, `want ${code} naming ${peer}, found success`);
  const found = { code: outcome.error!.code, peer: outcome.error!.peer };
  assert.deepEqual(found, { code, peer }, outcome.error!.message);
  return outcome.error!;
}

async function replace(index: number): Promise<void> {
  await ranks.ranks[index]!.kill();
  const fresh = await withEnvironment(fake.env, () => ranks.add());
  ranks.ranks[index] = ranks.ranks[fresh]!;
  ranks.ranks.length = fresh;
}

/** All members start the operation, and all are in it, with NCCL, which does not end it. */
async function startInNccl(group: GroupSpec, operation: OperationSpec): Promise<Promise<Outcome<string>>[]> {
  const first = await Promise.all(
    group.members.map((rank) => ranks.ranks[rank]!.progressWord(PROGRESS.collectiveEntered)),
  );
  const outcomes = group.members.map((rank) => ranks.runOn(group, rank, operation));
  await Promise.all(group.members.map((rank, i) => ranks.ranks[rank]!.entered(Number(first[i]! + 1n))));
  return outcomes;
}

const skip = onEmulatedDevice ? false : "there is no emulated device in this addon";

describe("collectives by NCCL", { skip }, () => {
  const arrangements = [
    ["a", "a"],
    ["a", "a", "b", "b"],
  ];
  for (const nodes of arrangements) {
    it(`give the twin's bits on ${nodes.length} ranks: every operation, even and uneven, with types, flags and pieces`, async () => {
      const group = groupOf(nodes);
      const size = nodes.length;
      const uneven = nodes.map((_, m) => (m % 3 === 1 ? 0 : 4_001 * (size - m) + m));
      const matrix = nodes.map((_, from) =>
        nodes.map((_, to) => ((from + 2 * to) % 4 === 1 ? 0 : 70 + from + 3 * to)),
      );
      const operations: OperationSpec[] = [{ op: "barrier" }, { ...SUM, count: 3 }];
      for (const dtype of ["f32", "bf16", "f64", "u8"] as const) {
        operations.push(
          { op: "allGather", dtype, counts: uneven, seed: 1, inPlace: dtype === "bf16" },
          { op: "allGather", dtype, counts: uneven.map(() => 333), seed: 2, inPlace: dtype === "f32" },
          { op: "allToAll", dtype, counts: matrix, seed: 3 },
          { op: "broadcast", dtype, count: 301, root: size - 1, seed: 4 },
        );
      }
      operations.push(
        { op: "allGather", dtype: "f32", counts: uneven.map(() => 0), seed: 5, inPlace: false },
        { op: "broadcast", dtype: "f32", count: 0, root: 0, seed: 5 },
        { op: "reduceScatter", counts: uneven, contributes: uneven.map(() => 1), seed: 6 },
        {
          op: "reduceScatter",
          counts: uneven,
          contributes: uneven.map((_, m) => (m === 0 ? 0 : 1)),
          seed: 7,
        },
        { op: "reduceScatter", counts: uneven, contributes: uneven.map(() => 0), seed: 8 },
        { op: "allReduce", dtype: "f64", count: 5_003, reduction: 0, seed: 9, nanFrom: null },
        { op: "allReduce", dtype: "f32", count: 5_003, reduction: 1, seed: 10, nanFrom: size - 1 },
        { op: "allReduce", dtype: "f32", count: 5_003, reduction: 2, seed: 11, nanFrom: 0 },
        // Longer than what members add at once.
        {
          op: "reduceScatter",
          counts: uneven.map((_, m) => 300_000 + m),
          contributes: uneven.map(() => 1),
          seed: 12,
        },
        { op: "allReduce", dtype: "f32", count: 600_011, reduction: 0, seed: 13, nanFrom: null },
      );
      await formOverNccl(group);
      await ranks.run(group, operations);
      await ranks.close(group);
    });
  }

  it("are announced by the host: other counts on another member are refused, and say who", async () => {
    const group = groupOf(["a", "b"]);
    await formOverNccl(group);
    const [first, second] = await Promise.all([
      ranks.runOn(group, 0, { ...GATHER, counts: [3, 4] }),
      ranks.runOn(group, 1, { ...GATHER, counts: [3, 5] }),
    ]);
    for (const { error } of [first, second]) assert.equal(error?.code, "NATIVE_ARGUMENT");
    assert.ok([first, second].some(({ error }) => /rank [01] runs kind 1, sends/.test(error!.message)));
    await ranks.close(group);
  });

  it("a rank that dies in one is COMM_PEER_DIED naming it, and survivors go on at once with another", async () => {
    const group = four();
    await formOverNccl(group);
    fake.order("hang 3");
    const outcomes = await startInNccl(group, GATHER);
    await ranks.ranks[3]!.kill();
    fake.order();
    for (const rank of [0, 1, 2]) assertFault(await outcomes[rank]!, "COMM_PEER_DIED", 3);
    assertFault(await ranks.runOn(group, 1, SUM), "COMM_PEER_DIED", 3);
    await replace(3);
    const next = four();
    await formOverNccl(next);
    await ranks.run(next, [SUM, GATHER]);
    await ranks.close(next);
    for (const rank of [0, 1, 2]) await ranks.ranks[rank]!.do({ kind: "close", group: group.name });
  });

  it("the abort word ends them with COMM_ABORTED naming its culprit", async () => {
    const group = four();
    await formOverNccl(group);
    fake.order("hang 1");
    const outcomes = await startInNccl(group, SUM);
    for (const rank of group.members) ranks.ranks[rank]!.abortGeneration(group.generation, 1);
    for (const outcome of await Promise.all(outcomes)) assertFault(outcome, "COMM_ABORTED", 1);
    await ranks.close(group);
  });

  it("commAbort ends them on all members", async () => {
    const group = four();
    await formOverNccl(group);
    fake.order("hang 0");
    const waiting = [1, 2, 3].map((rank) => ranks.runOn(group, rank, SUM));
    const aborted = await ranks.ranks[0]!.tell({ kind: "abortThenRun", group: group.name, operation: SUM });
    assertFault(aborted, "COMM_ABORTED", -1);
    for (const outcome of await Promise.all(waiting)) assert.equal(outcome.error?.code, "COMM_ABORTED");
    await ranks.close(group);
  });

  it("a rank that comes too late is COMM_TIMEOUT naming it; payload that does not come is one that names nobody", async () => {
    const late = four({ timeoutMs: 1_000 });
    await formOverNccl(late);
    for (const outcome of await Promise.all([0, 1, 3].map((rank) => ranks.runOn(late, rank, GATHER))))
      assertFault(outcome, "COMM_TIMEOUT", 2);
    await ranks.close(late);

    const stuck = four({ timeoutMs: 1_000 });
    await formOverNccl(stuck);
    fake.order("hang 2");
    const outcomes = await Promise.all(await startInNccl(stuck, GATHER));
    for (const outcome of outcomes) assert.equal(outcome.error?.code, "COMM_TIMEOUT");
    assert.ok(outcomes.some(({ error }) => /every member has entered it/.test(error!.message)));
    await ranks.close(stuck);
  });

  it("an asynchronous error is COMM_PEER_DIED or NATIVE_DEVICE with NCCL's words, and the others learn who has it", async () => {
    for (const [result, code, words] of [
      [6, "COMM_PEER_DIED", /NCCL: remote error at .*, failed by order$/],
      [1, "NATIVE_DEVICE", /NCCL: unhandled CUDA error at .*, failed by order$/],
    ] as const) {
      const group = four();
      await formOverNccl(group);
      fake.order(`async 2 ${result}`);
      const outcomes = await Promise.all(await startInNccl(group, GATHER));
      assert.match(assertFault(outcomes[2]!, code, -1).message, words);
      for (const rank of [0, 1, 3]) {
        const told = assertFault(outcomes[rank]!, "COMM_ABORTED", 2);
        assert.match(told.message, /rank [0-3] (cannot go on, see its own error|was aborted)$/);
      }
      fake.order();
      await ranks.close(group);
    }
  });

  it("the progress page shows who is in an operation and who has not come", async () => {
    const group = four();
    await formOverNccl(group);
    await ranks.run(group, [GATHER]);
    const outcomes = [0, 1, 3].map((rank) => ranks.runOn(group, rank, SUM));
    await Promise.all([0, 1, 3].map((rank) => ranks.ranks[rank]!.entered(3)));
    const words = group.members.map((rank) => {
      const page = view(ranks.ranks[rank]!.progress);
      return [PROGRESS.collectiveEntered, PROGRESS.collectiveCompleted].map((at) =>
        Number(page.getBigUint64(at, true)),
      );
    });
    // The connecting of the group is number 1.
    assert.deepEqual(words, [
      [3, 2],
      [3, 2],
      [2, 2],
      [3, 2],
    ]);
    const page = view(ranks.ranks[0]!.progress);
    assert.equal(page.getUint32(PROGRESS.collectiveKind, true), COLLECTIVE.allReduce);
    assertOk(await ranks.runOn(group, 2, SUM));
    for (const outcome of await Promise.all(outcomes)) assertOk(outcome);
    for (const rank of group.members)
      assert.equal(ranks.ranks[rank]!.progressWord(PROGRESS.collectiveCompleted), 3n);
    await ranks.close(group);
  });

  it("go over the host where a member has no NCCL, an old one, or one that refuses", async () => {
    fake.order("refuse 1 5");
    assert.match(await assertByHost(four()), /^rank 1: NCCL: invalid usage at its start, refused by order$/);
    fake.order("version 22403");
    assert.match(await assertByHost(four()), /^rank 0: Cannot use NCCL 2\.24\.3: want 2\.25\.0 or newer, /);
    fake.order();
    assert.equal(await assertByHost(four({ transport: "tcp" })), "as the group was asked for");

    const without = await ranks.add();
    const group = { ...groupOf(["a", "a"]), members: [0, without] };
    assert.match(
      await assertByHost(group),
      /^rank 4: Cannot load libnccl\.so\.2: .*, run: pip install nvidia-nccl-cu13, and set GOKU_NVIDIA_ROOT/,
    );
    await ranks.ranks[without]!.kill();
    ranks.ranks.length = without;
  });

  it("go over the host where two ranks share a device as ranks of one host", async () => {
    const add = () => withEnvironment({ ...fake.env, NCCL_HOSTID: "one" }, () => ranks.add());
    const shared = [await add(), await add()];
    const group = { ...groupOf(["a", "a"]), members: shared };
    assert.match(await assertByHost(group), /Duplicate GPU detected/);
    for (const rank of shared) await ranks.ranks[rank]!.kill();
    ranks.ranks.length = 4;
  });

  it("train: the bits of collectives over the host", async () => {
    const job = fleetJob({ packs: 3, steps: 2, precision: "fp32" });
    const train = () => trainFleet({ layout: "2x1x2", job, model: TINY });
    const byHost = wholeState(await train());
    const before = fake.done;
    const byNccl = await withEnvironment(fake.env, train);
    assert.ok(fake.done > before, "nothing went over NCCL");
    assert.deepEqual(wholeState(byNccl), byHost);
  });
});

function assertOk(outcome: Outcome<unknown>): void {
  assert.equal(outcome.error, null);
}
