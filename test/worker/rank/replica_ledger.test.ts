import assert from "node:assert/strict";
import { test } from "node:test";
import { type StateName, stateKey } from "../../../checkpoint/state.js";
import { type ReplicaFlags, ReplicaLedger } from "../../../worker/rank/replica_ledger.js";
import { SLOT_COUNT_REPLICATED, SlotBook } from "../../../worker/rank/slots.js";
import { Random } from "../../checkpoint/fixtures.js";

const state = (step: number): StateName => ({ generation: "1", step });
const good = { snapshotWhole: true, slotFree: true, replicated: true, replicaLost: false };
const waiting = { ...good, replicated: false };

/** A rank that has restored a state, in a generation that copies states. */
class TestRank {
  readonly book = new SlotBook(Array.from({ length: SLOT_COUNT_REPLICATED }, () => null));
  readonly ledger = new ReplicaLedger(this.book);
  step: number;
  /** What its agent knows to be in two places. */
  told: StateName | null;

  constructor(restored: number, prior: StateName | null = null) {
    this.step = restored;
    this.told = prior;
    this.book.take();
    this.book.written(state(restored));
    this.restore(restored, prior);
  }

  restore(step: number, prior: StateName | null): void {
    const slot = this.book.find(state(step));
    if (slot !== null) this.book.adopt(slot);
    this.step = step;
    this.book.restoredTo(state(step));
    this.ledger.begin(true, prior);
  }

  /** What it brings into the vote of the next step. */
  get flags() {
    return { ...this.book.flags, ...this.ledger.flags };
  }

  /** The vote is counted, the step is made; the state that is to be copied from then on. */
  advance(vote: typeof good): number | null {
    this.book.voted(vote.snapshotWhole);
    const { confirmed, copy } = this.ledger.voted(vote);
    if (confirmed !== null) this.told = confirmed;
    this.book.take();
    this.step++;
    if (vote.slotFree) this.book.written(state(this.step));
    return copy?.step ?? null;
  }

  get held(): number[] {
    return this.book.slots.flatMap((slot) => (slot.state === null ? [] : [slot.state.step]));
  }
}

test("ReplicaLedger chooses an agreed state, keeps it until all have it twice, then the next one", () => {
  const rank = new TestRank(0);
  const { ledger } = rank;
  assert.equal(rank.advance(good), 0, "the restored state comes first");
  assert.deepEqual(ledger.flags, { replicated: false, replicaLost: false });
  for (const _ of [2, 3, 4, 5, 6]) assert.equal(rank.advance(waiting), null);
  assert.ok(rank.held.includes(0), "it is there as long as it is being copied");
  assert.equal(ledger.step, 0);
  ledger.settled(state(3), true); // an answer about another state
  assert.equal(ledger.flags.replicated, false);
  ledger.settled(state(0), true);
  assert.equal(ledger.flags.replicated, true);
  assert.equal(rank.advance(waiting), null, "this rank has it, another has not");
  assert.equal(rank.advance(good), 7);
  assert.deepEqual(ledger.kept, state(0));
  for (const _ of [9, 10, 11, 12]) rank.advance(waiting);
  assert.ok(rank.held.includes(0) && rank.held.includes(7), "the older copy counts until the newer is whole");
  rank.advance(good);
  assert.deepEqual([ledger.kept, ledger.step], [state(7), 7]);
  rank.advance(waiting);
  assert.ok(!rank.held.includes(0), "then it does not");
});

test("ReplicaLedger drops a state that some rank cannot copy, on all ranks, and chooses another", () => {
  const rank = new TestRank(0);
  rank.advance(good);
  rank.ledger.settled(state(0), false);
  assert.deepEqual(rank.ledger.flags, { replicated: false, replicaLost: true });
  assert.equal(rank.advance({ ...waiting, replicaLost: true }), 1);
  assert.equal(rank.ledger.kept, null);
  assert.deepEqual(rank.ledger.flags, { replicated: false, replicaLost: false });
});

test("ReplicaLedger begins nothing with a state that some rank lacks, without a free slot, nor twice with the same", () => {
  const rank = new TestRank(0);
  assert.equal(rank.advance({ ...good, snapshotWhole: false }), null);
  assert.equal(rank.advance({ ...good, slotFree: false }), null);
  assert.equal(rank.advance(good), 1, "the newest that was sealed");
  rank.ledger.settled(state(1), true);
  rank.book.voted(true);
  assert.equal(rank.ledger.voted(good).copy?.step, 3);
  rank.ledger.settled(state(3), true);
  const news = rank.ledger.voted(good);
  assert.equal(news.copy, null, "no newer state is agreed");
  assert.deepEqual(news.confirmed, state(3), "it is told all the same what is in two places");
  assert.deepEqual(rank.ledger.voted(good), { confirmed: null, copy: null }, "once");
});

test("ReplicaLedger keeps in a new generation what an older one had twice, until this one has something there", () => {
  const rank = new TestRank(0);
  rank.advance(good);
  rank.ledger.settled(state(0), true);
  rank.advance(good); // step 0 is there, step 1 under way
  rank.restore(2, state(0));
  assert.deepEqual([rank.ledger.kept, rank.ledger.step], [state(0), 0], "kept, and not this generation's");
  assert.deepEqual(rank.ledger.flags, { replicated: true, replicaLost: false });
  assert.equal(rank.advance(good), 2, "what was restored is copied first, whatever is kept");
  for (const _ of [1, 2, 3, 4, 5]) rank.advance(waiting);
  assert.ok(rank.held.includes(0) && rank.held.includes(2));
  rank.advance(good);
  assert.deepEqual(rank.ledger.kept, state(2));
  rank.restore(rank.step, state(99));
  assert.equal(rank.ledger.kept, null, "this rank's part of it is gone");
  rank.ledger.begin(false, state(2));
  assert.deepEqual(rank.ledger.voted(good), { confirmed: null, copy: null });
  assert.deepEqual(rank.ledger.flags, { replicated: true, replicaLost: false });
});

/** The joint vote of ranks. */
function count(ranks: readonly TestRank[]): typeof good {
  const flags = ranks.map((rank) => rank.flags);
  const all = (pick: (one: (typeof flags)[number]) => boolean) => flags.every(pick);
  return {
    snapshotWhole: all((one) => one.snapshotWhole),
    slotFree: all((one) => one.slotFree),
    replicated: all((one) => one.replicated),
    replicaLost: flags.some((one: ReplicaFlags) => one.replicaLost),
  };
}

test("ReplicaLedger: ranks that come, go, save and fail choose alike, and keep what the votes found in two places", () => {
  for (let seed = 1; seed <= 300; seed++) {
    const random = new Random(seed);
    const ranks = Array.from({ length: 3 }, () => new TestRank(0));
    const saves: { rank: TestRank; state: StateName }[] = [];
    const copies: { rank: TestRank; state: StateName }[] = [];
    for (let turn = 0; turn < 60; turn++) {
      if (random.below(8) === 0) {
        const one = copies.splice(random.below(copies.length || 1), 1)[0];
        one?.rank.ledger.settled(one.state, random.below(10) > 0);
      } else for (const one of copies.splice(0, random.below(3))) one.rank.ledger.settled(one.state, true);
      if (saves.length > 0 && random.below(3) === 0) {
        const [done] = saves.splice(0, 1);
        done!.rank.book.unpin(done!.state);
      }
      if (random.below(9) === 0) {
        // A rank is replaced: its successor restores what all agreed on, and may not know what is kept.
        const newest = ranks[0]!.book.agreedState!;
        const lost = random.below(3);
        copies.length = 0;
        saves.length = 0;
        for (const [i, rank] of ranks.entries()) {
          if (i === lost) ranks[i] = new TestRank(newest.step, random.below(2) === 0 ? rank.told : null);
          else {
            rank.book.setPins([]);
            rank.restore(newest.step, rank.told);
          }
        }
      }
      const vote = count(ranks);
      const kept = ranks[0]!.ledger.step;
      const chosen = ranks.map((rank) => rank.advance(vote));
      assert.equal(new Set(chosen).size, 1, `seed ${seed}: ${chosen}`);
      const confirmed = ranks.map((rank) => rank.ledger.step);
      assert.equal(new Set(confirmed).size, 1, `seed ${seed}: confirmed ${confirmed}`);
      if (confirmed[0]! > kept)
        for (const { told } of ranks) assert.deepEqual(told, state(confirmed[0]!), `seed ${seed}`);
      if (chosen[0] !== null) copies.push(...ranks.map((rank) => ({ rank, state: state(chosen[0]!) })));
      const names = ranks.flatMap(({ ledger }) => (ledger.step > 0 ? [stateKey(ledger.kept!)] : []));
      assert.ok(new Set(names).size <= 1);
      for (const rank of ranks) {
        if (rank.ledger.step > 0)
          assert.ok(
            rank.held.includes(rank.ledger.step),
            `seed ${seed}: a rank gave up step ${rank.ledger.step}`,
          );
        if (random.below(6) === 0 && rank.book.pin(state(rank.step)) !== null)
          saves.push({ rank, state: state(rank.step) });
      }
    }
  }
});
