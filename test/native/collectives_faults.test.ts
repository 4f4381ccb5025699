import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { after, before, describe, it } from "node:test";
import type { OperationSpec, RankError } from "./collectives_rank.js";
import { type GroupSpec, type Outcome, Ranks } from "./collectives_ranks.js";

// Several times what the rings of shared memory hold: a rank in it has payload under way.
const BIG: OperationSpec = {
  op: "allReduce",
  dtype: "f32",
  count: 600_000,
  reduction: 0,
  seed: 1,
  nanFrom: null,
};
const LENT: OperationSpec & { op: "reduceScatter" } = {
  op: "reduceScatter",
  counts: [150_000, 150_001, 150_002, 150_003],
  contributes: [1, 1, 1, 1],
  seed: 7,
};
const SMALL: OperationSpec = {
  op: "allReduce",
  dtype: "f64",
  count: 3,
  reduction: 0,
  seed: 2,
  nanFrom: null,
};
const ARRANGEMENTS: Record<string, string[]> = {
  shm: ["a", "a", "a", "a"],
  tcp: ["a", "b", "c", "d"],
  mixed: ["a", "a", "b", "b"],
};

let ranks: Ranks;
let generation = 0;
before(async () => {
  ranks = await Ranks.start(4);
});
after(() => ranks.stop());

function groupOf(nodes: string[], members = [0, 1, 2, 3], name = "world"): GroupSpec {
  generation++;
  return { name, generation, members, nodes };
}

/** Kills a rank, if it still lives, and puts a fresh process in its place. */
async function replace(index: number): Promise<void> {
  await ranks.ranks[index]!.kill();
  const fresh = await ranks.add();
  ranks.ranks[index] = ranks.ranks[fresh]!;
  ranks.ranks.length = fresh;
}

function assertFault(outcome: Outcome<unknown>, code: string, peer: number): RankError {
  assert.notEqual(outcome.error, null, `want ${code} naming ${peer}, found success`);
  assert.deepEqual(
    { code: outcome.error!.code, peer: outcome.error!.peer },
    { code, peer },
    outcome.error!.message,
  );
  return outcome.error!;
}

describe("a fault in a group", () => {
  for (const [arrangement, nodes] of Object.entries(ARRANGEMENTS)) {
    it(`${arrangement}: SIGKILL of a rank in mid-operation is COMM_PEER_DIED naming it on all survivors`, async () => {
      const group = groupOf(nodes);
      await ranks.form(group);
      // Rank 2 holds back, so ranks 0, 1 and 3 are inside with part of the payload under way when 3 is killed.
      const survivors = [0, 1].map((rank) => ranks.runOn(group, rank, BIG));
      const victim = ranks.runOn(group, 3, BIG);
      await Promise.all([0, 1, 3].map((rank) => ranks.ranks[rank]!.entered(2)));
      await ranks.ranks[3]!.kill("SIGKILL");
      await victim;
      for (const outcome of await Promise.all(survivors)) {
        const error = assertFault(outcome, "COMM_PEER_DIED", 3);
        assert.equal(error.operation, "allReduce");
      }
      // One that was not waiting finds out at its next operation, and every later one fails alike.
      for (const rank of [2, 0, 2]) assertFault(await ranks.runOn(group, rank, SMALL), "COMM_PEER_DIED", 3);
      for (const rank of [0, 1, 2]) await ranks.ranks[rank]!.do({ kind: "close", group: group.name });

      // The survivors' processes go on under a new generation, with a new process in the dead one's place.
      await replace(3);
      const next = groupOf(nodes);
      await ranks.form(next);
      await ranks.run(next, [SMALL, BIG]);
      await ranks.close(next);
    });

    it(`${arrangement}: the abort word frees all waiters of a stopped rank with COMM_ABORTED naming its culprit`, async () => {
      const group = groupOf(nodes);
      await ranks.form(group);
      const waiting = [0, 1, 3].map((rank) => ranks.runOn(group, rank, BIG));
      await Promise.all([0, 1, 3].map((rank) => ranks.ranks[rank]!.entered(2)));
      ranks.ranks[2]!.process.kill("SIGSTOP");
      for (const rank of [0, 1, 3]) ranks.ranks[rank]!.abortGeneration(group.generation, 2);
      for (const outcome of await Promise.all(waiting)) assertFault(outcome, "COMM_ABORTED", 2);
      ranks.ranks[2]!.process.kill("SIGCONT");
      assertFault(await ranks.runOn(group, 2, SMALL), "COMM_ABORTED", 2);
      await ranks.close(group);

      // Generations above the word run on.
      const next = groupOf(nodes);
      await ranks.form(next);
      await ranks.run(next, [SMALL]);
      await ranks.close(next);
    });

    it(`${arrangement}: a rank that does not arrive is COMM_TIMEOUT naming it`, async () => {
      const group: GroupSpec = { ...groupOf(nodes), timeoutMs: 300 };
      await ranks.form(group);
      const outcomes = await Promise.all([0, 1, 3].map((rank) => ranks.runOn(group, rank, BIG)));
      for (const outcome of outcomes) assertFault(outcome, "COMM_TIMEOUT", 2);
      assertFault(await ranks.runOn(group, 2, SMALL), "COMM_TIMEOUT", 2);
      await ranks.close(group);
    });
  }

  // Large payloads are lent: neighbours read them in the sender's memory. Rank 3 has entered, has offered its own, and is stopped
  // before it reads, so ranks 0 to 2 have all that they wait for and are only kept by what rank 3 has yet to take.
  const lend = async (timeoutMs: number) => {
    const group: GroupSpec = { ...groupOf(["a", "a", "a", "a"]), timeoutMs };
    await ranks.form(group);
    const outcomes = new Map([0, 1, 3].map((rank) => [rank, ranks.runOn(group, rank, LENT)]));
    await Promise.all([0, 1, 3].map((rank) => ranks.ranks[rank]!.entered(2)));
    await ranks.ranks[3]!.asleep();
    ranks.ranks[3]!.process.kill("SIGSTOP");
    outcomes.set(2, ranks.runOn(group, 2, LENT));
    return { group, outcomes };
  };

  // Of a test that has failed, too: the next one needs the rank.
  const goOn = () => ranks.ranks[3]!.process.kill("SIGCONT");

  it("shm: a lender waits for a slow reader before its memory is used again", async (t) => {
    t.after(goOn);
    const { group, outcomes } = await lend(20_000);
    await ranks.ranks[2]!.entered(2);
    goOn();
    // Each compares its result, frees its tensors and writes the next ones where they were.
    for (const outcome of outcomes.values()) assert.equal((await outcome).error, null);
    await ranks.run(group, [LENT, BIG, LENT]);
    await ranks.close(group);
  });

  it("shm: a reader that takes nothing is COMM_TIMEOUT naming it, and what it reads later is not believed", async (t) => {
    t.after(goOn);
    const { group, outcomes } = await lend(500);
    const told: string[] = [];
    for (const rank of [0, 1, 2])
      told.push(assertFault((await outcomes.get(rank))!, "COMM_TIMEOUT", 3).message);
    assert.match(told.join("\n"), /rank 3 does not take what is sent to it after 500 ms/);
    // The lenders use their memory for something else now.
    const other: GroupSpec = { name: "others", generation, members: [0, 1, 2], nodes: ["a", "a", "a"] };
    await ranks.form(other);
    await ranks.run(other, [{ ...LENT, counts: LENT.counts.slice(1), contributes: [1, 1, 1], seed: 8 }]);
    goOn();
    assertFault((await outcomes.get(3))!, "COMM_TIMEOUT", 3);
    await ranks.close(other);
    await ranks.close(group);
  });

  it("spares groups without the dead rank", async () => {
    const nodes = ["a", "a", "b", "b"];
    const world = groupOf(nodes);
    const pair: GroupSpec = { name: "pair", generation, members: [0, 1], nodes: ["a", "a"] };
    for (const group of [world, pair]) await ranks.form(group);
    await ranks.ranks[3]!.kill("SIGKILL");
    assertFault(await ranks.runOn(world, 0, SMALL), "COMM_PEER_DIED", 3);
    await ranks.run(pair, [SMALL, BIG]);
    await ranks.close(pair);
    for (const rank of [0, 1, 2]) await ranks.ranks[rank]!.do({ kind: "close", group: world.name });
    await replace(3);
  });

  it("commAbort frees the caller's own wait and the peers', and may be called twice", async () => {
    for (const nodes of Object.values(ARRANGEMENTS)) {
      const group = groupOf(nodes);
      await ranks.form(group);
      const waiting = [1, 2].map((rank) => ranks.runOn(group, rank, BIG));
      assertFault(
        await ranks.ranks[0]!.tell({ kind: "abortThenRun", group: group.name, operation: BIG }),
        "COMM_ABORTED",
        -1,
      );
      for (const outcome of await Promise.all(waiting)) assertFault(outcome, "COMM_ABORTED", -1);
      assertFault(await ranks.runOn(group, 3, SMALL), "COMM_ABORTED", -1);
      await ranks.close(group);
    }
  });
});

describe("the end of a group", () => {
  it("of a rank that closes first does not look like a death to those still at work", async () => {
    for (const nodes of Object.values(ARRANGEMENTS)) {
      const group = groupOf(nodes);
      await ranks.form(group);
      for (let round = 0; round < 3; round++) {
        const last = round === 2;
        const all = group.members.map(async (rank) => {
          const outcome = await ranks.runOn(group, rank, round % 2 === 0 ? BIG : SMALL);
          assert.equal(outcome.error, null);
          if (last) await ranks.ranks[rank]!.do({ kind: "close", group: group.name });
        });
        await Promise.all(all);
      }
    }
  });

  it("aborts nobody when a rank closes as soon as its own last wait is over", async () => {
    for (const nodes of Object.values(ARRANGEMENTS)) {
      for (let round = 0; round < 25; round++) {
        const group = groupOf(nodes);
        await ranks.form(group);
        const errors = group.members.map(async (rank): Promise<RankError | null> => {
          const rankProcess = ranks.ranks[rank]!;
          return (await rankProcess.tell({ kind: "runAndClose", group: group.name, operations: [SMALL] }))
            .error;
        });
        assert.deepEqual(await Promise.all(errors), [null, null, null, null]);
      }
    }
  });

  it("is told to those who go on without it", async () => {
    for (const nodes of Object.values(ARRANGEMENTS)) {
      const group = groupOf(nodes);
      await ranks.form(group);
      await ranks.ranks[1]!.do({ kind: "close", group: group.name });
      const first = assertFault(await ranks.runOn(group, 0, SMALL), "COMM_PEER_DIED", 1);
      assert.match(first.message, /closed the group/);
      for (const rank of [2, 3]) assertFault(await ranks.runOn(group, rank, SMALL), "COMM_PEER_DIED", 1);
      await ranks.close(group);
    }
  });

  it("closed twice, used after close, waited for twice, closed while running: each says so", async () => {
    const group = groupOf(["a"], [0]);
    await ranks.form(group);
    const rank = ranks.ranks[0]!;
    const twice = await rank.tell({ kind: "waitTwice", group: group.name });
    assert.equal(twice.error?.code, "NATIVE_ARGUMENT");
    await rank.do({ kind: "close", group: group.name });
    await rank.do({ kind: "close", group: group.name });
    await rank.do({ kind: "abort", group: group.name });
    assert.equal((await ranks.runOn(group, 0, SMALL)).error?.code, "NATIVE_ARGUMENT");

    const pair = groupOf(["a", "b"], [0, 1]);
    await ranks.form(pair);
    assertFault(
      await rank.tell({ kind: "closeWhileRunning", group: pair.name, operation: BIG }),
      "COMM_ABORTED",
      -1,
    );
    assertFault(await ranks.runOn(pair, 1, BIG), "COMM_ABORTED", -1);
    await ranks.close(pair);
  });

  it("never comes, and the process ends all the same; its peers see a death", async () => {
    for (const nodes of [
      ["a", "a"],
      ["a", "b"],
    ]) {
      const group = groupOf(nodes, [2, 3]);
      await ranks.form(group);
      const waiting = ranks.runOn(group, 2, BIG);
      await ranks.ranks[2]!.entered(2);
      const exited = once(ranks.ranks[3]!.process, "exit");
      void ranks.ranks[3]!.tell({ kind: "leave" });
      assert.deepEqual(await exited, [0, null]);
      assertFault(await waiting, "COMM_PEER_DIED", 3);
      await ranks.ranks[2]!.do({ kind: "close", group: group.name });
      await replace(3);
    }
  });

  it("comes with process.exit in the middle of an operation and of a forming: exit code kept, peers see a death", async () => {
    const group = groupOf(["a", "a", "a"], [1, 2, 3]); // rank 1 holds back
    await ranks.form(group);
    const waiting = ranks.runOn(group, 2, BIG);
    await ranks.ranks[2]!.entered(2);
    // Rank 3 dials rank 0, which has no such group: its commCreate is still under way at the end.
    const unformed: GroupSpec = { name: "unformed", generation, members: [0, 3], nodes: ["a", "b"] };
    void ranks.join(unformed, 3);
    const exited = once(ranks.ranks[3]!.process, "exit");
    void ranks.ranks[3]!.tell({ kind: "exitWhileBusy", group: group.name, operation: BIG });
    assert.deepEqual(await exited, [7, null]);
    assertFault(await waiting, "COMM_PEER_DIED", 3);
    for (const rank of [1, 2]) await ranks.ranks[rank]!.do({ kind: "close", group: group.name });
    await replace(3);
  });

  it("leaves no shared memory behind", async () => {
    await replace(3); // a process that has seen no group yet
    const maps = () =>
      /memfd:goku-comm/.test(readFileSync(`/proc/${ranks.ranks[3]!.process.pid}/maps`, "utf8"));
    const group = groupOf(["a", "a"], [1, 3]);
    await ranks.form(group);
    assert.equal(maps(), true);
    await ranks.close(group);
    assert.equal(maps(), false);
  });
});
