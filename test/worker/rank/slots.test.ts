import assert from "node:assert/strict";
import { test } from "node:test";
import { type StateName, stateKey } from "../../../checkpoint/state.js";
import { SLOT_COUNT, SlotBook } from "../../../worker/rank/slots.js";

const state = (step: number, generation = "1"): StateName => ({ generation, step });
const empty = () => new SlotBook(Array.from({ length: SLOT_COUNT }, () => null));
const held = (book: SlotBook) => book.slots.map((slot) => slot.state?.step ?? null);

/** One step of a rank: the vote of `step` found all snapshots whole, and the copy succeeds. */
function advance(book: SlotBook, step: number): void {
  book.voted(true);
  book.take();
  book.written(state(step));
}

test("SlotBook goes through the slots, empty ones first, then the oldest, while nothing is pinned", () => {
  const book = empty();
  book.restoredTo(state(0));
  book.take();
  book.written(state(0));
  for (let step = 1; step <= 6; step++) {
    advance(book, step);
    const wanted = Array.from({ length: Math.min(4, step + 1) }, (_, i) => step - i);
    assert.deepEqual(
      held(book)
        .filter((one) => one !== null)
        .sort((x, y) => y - x),
      wanted,
    );
  }
});

test("SlotBook gives a restore an empty slot, then that of the oldest state of the oldest generation", () => {
  const book = new SlotBook([state(30, "2"), state(45, "1"), null, state(20, "10")]);
  assert.equal(book.take().index, 2);
  book.written(state(5, "11"));
  book.adopt(book.slots[0]!);
  book.restoredTo(state(5, "11"));
  assert.equal(book.slots[1]!.state?.step, 45);
  book.pin(state(5, "11"));
  assert.equal(
    new SlotBook([state(30, "2"), state(45, "1"), state(20, "10"), state(9, "2")]).take().index,
    1,
  );
});

test("SlotBook forgets a slot of the name that is sealed in another one", () => {
  const book = new SlotBook([state(0), null, null, null]);
  const slot = book.take();
  assert.equal(slot.index, 1);
  book.written(state(0));
  assert.equal(book.find(state(0)), slot);
  assert.equal(book.slots[0]!.state, null);
});

test("SlotBook keeps what a preview reads until that is over, two at most, and no preview outlives its generation", () => {
  const book = empty();
  book.restoredTo(state(0));
  const previewed = () => book.slots.flatMap((slot) => (slot.previewed ? [slot.state!.step] : []));
  for (let step = 1; step <= 3; step++) {
    advance(book, step);
    if (step < 3) book.pinPreview(state(step));
  }
  assert.deepEqual(book.flags, { snapshotWhole: true, slotFree: true }, "two slots alternate meanwhile");
  for (let step = 4; step <= 9; step++) advance(book, step);
  assert.deepEqual(held(book).slice().sort(), [1, 2, 8, 9]);
  book.pinPreview(state(9));
  assert.deepEqual(previewed().sort(), [2, 9], "whoever was to end the oldest has gone");
  book.unpinPreview(state(2));
  assert.deepEqual(previewed(), [9]);
  book.setPins([state(8)]);
  assert.deepEqual(previewed(), []);
});

test("SlotBook forgets the older of two previews when a third is left out for want of a slot: it might be pinned for ever", () => {
  const book = empty();
  book.restoredTo(state(0));
  for (let step = 1; step <= 3; step++) {
    advance(book, step);
    if (step < 3) book.pinPreview(state(step));
  }
  book.hold(state(3));
  book.previewLeftOut();
  const previewed = () => book.slots.flatMap((slot) => (slot.previewed ? [slot.state!.step] : []));
  assert.deepEqual(previewed(), [2]);
  book.previewLeftOut();
  assert.deepEqual(previewed(), [2], "one may still be read");
});

test("SlotBook takes a slot from a preview before it takes one from a save", () => {
  const book = empty();
  book.restoredTo(state(0));
  for (let step = 1; step <= 3; step++) {
    advance(book, step);
    if (step === 1) book.pin(state(1));
    else book.pinPreview(state(step));
  }
  advance(book, 4);
  book.pin(state(4));
  book.voted(true);
  assert.equal(book.flags.slotFree, false);
  book.take();
  assert.deepEqual(held(book).slice().sort(), [1, 3, 4, null]);
});

/** Steps 0 to 3 are done, and saves pin 0 and 1: two slots are left to alternate. */
function narrow(): SlotBook {
  const book = empty();
  book.restoredTo(state(0));
  book.take();
  book.written(state(0));
  book.pin(state(0));
  advance(book, 1);
  book.pin(state(1));
  for (const step of [2, 3]) advance(book, step);
  return book;
}

test("SlotBook overwrites the state before the last only after the vote that agrees on the last", () => {
  const book = narrow();
  assert.ok(book.find(state(2)), "before the vote both are there");
  book.voted(true);
  book.take();
  assert.equal(book.find(state(2)), null);
  assert.ok(book.find(state(3)));
});

test("SlotBook keeps the agreed state when a vote finds that some rank's copy failed", () => {
  const book = narrow();
  book.voted(false);
  book.take();
  book.written(state(4));
  assert.ok(book.find(state(2)));
  assert.ok(book.find(state(4)));
  book.voted(true);
  book.take();
  assert.equal(book.find(state(2)), null);
});

test("SlotBook says in the vote that its own copy failed, once", () => {
  const book = empty();
  book.restoredTo(state(4));
  book.take();
  book.written(state(4));
  book.voted(true);
  book.take();
  book.failed();
  assert.equal(book.flags.snapshotWhole, false);
  book.voted(false);
  assert.equal(book.flags.snapshotWhole, true);
  assert.ok(book.find(state(4)));
});

test("SlotBook leaves a slot to the state itself: it has none for a snapshot while saves pin three", () => {
  const book = empty();
  book.restoredTo(state(0));
  book.take();
  book.written(state(0));
  advance(book, 1);
  book.pin(state(1));
  advance(book, 2);
  book.pin(state(2));
  advance(book, 3);
  book.pin(state(3));
  assert.equal(book.flags.slotFree, false, "the fourth slot is the state's");
  book.voted(true);
  const slot = book.take();
  book.voted(true);
  assert.equal(book.take(), slot, "in place");
  assert.deepEqual(
    held(book)
      .filter((step) => step !== null)
      .sort(),
    [1, 2, 3],
  );
  book.unpin(state(2));
  assert.equal(book.flags.slotFree, true);
});

test("SlotBook changes the live state in place while it is no snapshot, and keeps the agreed one", () => {
  const book = empty();
  book.restoredTo(state(0));
  book.take();
  book.written(state(0));
  book.voted(true);
  const slot = book.take();
  assert.notEqual(slot, book.find(state(0)), "state 0 is agreed: the next one goes elsewhere");
  for (let step = 2; step <= 4; step++) {
    book.voted(true);
    assert.equal(book.take(), slot, `step ${step}`);
  }
  assert.ok(book.find(state(0)));
  book.written(state(4));
  book.voted(true);
  assert.notEqual(book.take(), slot, "state 4 is agreed now");
});

test("SlotBook keeps the agreed state and lets the oldest save fail where a former process's saves pin the rest", () => {
  for (const pinned of [
    [5, 6, 7],
    [5, 6, 7, 8],
  ]) {
    const book = new SlotBook([state(7), state(5), state(8), state(6)]);
    book.setPins(pinned.map((step) => state(step)));
    book.adopt(book.find(state(8))!);
    book.restoredTo(state(8));
    assert.equal(book.flags.slotFree, false);
    book.voted(true);
    assert.equal(book.take().index, 1);
    assert.deepEqual(held(book), [7, null, 8, 6]);
    assert.equal(book.slots[1]!.pins, 0);
  }
});

test("SlotBook overwrites a pinned state that some rank lacks before any other", () => {
  const book = new SlotBook([state(7), state(5), state(6), null]);
  book.restoredTo(state(7));
  book.adopt(book.find(state(7))!);
  book.setPins([state(5), state(6)]);
  advance(book, 8);
  book.pin(state(8));
  book.voted(false);
  assert.equal(book.take().index, 3);
  assert.deepEqual(held(book), [7, 5, 6, null]);
});

test("SlotBook counts pins: two saves of one state free its slot together", () => {
  const book = empty();
  book.take();
  book.written(state(1));
  book.pin(state(1));
  book.pin(state(1));
  book.unpin(state(1));
  assert.equal(book.find(state(1))!.pins, 1);
  book.unpin(state(1));
  book.unpin(state(1));
  assert.equal(book.find(state(1))!.pins, 0);
});

test("SlotBook goes on in the slot of the state that it is restored to, and writes the next one elsewhere", () => {
  const book = new SlotBook([state(7), null, state(8), null]);
  book.adopt(book.find(state(7))!);
  book.restoredTo(state(7));
  assert.equal(book.live!.index, 0);
  book.voted(true);
  assert.notEqual(book.take().index, 0);
  assert.ok(book.find(state(7)));
});

test("SlotBook forgets the slots that were found damaged, so that their states are copied anew", () => {
  const book = new SlotBook([state(7), null, state(8), null]);
  book.pin(state(8));
  book.reread([state(7), null, null, null]);
  assert.equal(book.find(state(8)), null);
  assert.equal(book.slots[2]!.pins, 0, "no answer will name it");
  assert.ok(book.find(state(7)));
});

test("SlotBook takes the agent's word on what is pinned as the whole truth", () => {
  const book = new SlotBook([state(7), null, state(8), null]);
  book.pin(state(7));
  book.pin(state(7));
  book.setPins([state(8), state(9)]);
  assert.deepEqual(
    book.slots.map(({ pins }) => pins),
    [0, 0, 1, 0],
  );
});

/** Small deterministic generator (mulberry32): a failing seed replays. */
function random(seed: number): () => number {
  let word = seed;
  return () => {
    word = (word + 0x6d2b79f5) | 0;
    let mixed = Math.imul(word ^ (word >>> 15), word | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Ranks in lock step with random failed copies, saves and deaths in mid-copy; returns the newest common state. */
function commonState(books: readonly SlotBook[]): StateName | null {
  const [first, ...others] = books;
  const all = first!.slots.flatMap((slot) => slot.state ?? []);
  const common = all.filter((one) => others.every((book) => book.find(one) !== null));
  return common.sort((a, b) => b.step - a.step)[0] ?? null;
}

test("SlotBook: whenever ranks stop, in whatever order they copied, some state is whole on all (300 seeds)", () => {
  for (let seed = 1; seed <= 300; seed++) {
    const chance = random(seed);
    const books = Array.from({ length: 3 }, empty);
    for (const book of books) {
      book.restoredTo(state(0));
      book.take();
      book.written(state(0));
    }
    let newestAgreed = 0;
    for (let step = 1; step <= 40; step++) {
      const flags = books.map((book) => book.flags);
      const whole = flags.every((flag) => flag.snapshotWhole);
      const free = flags.every((flag) => flag.slotFree);
      for (const book of books) book.voted(whole);
      const agreed = commonState(books)!;
      assert.ok(agreed.step >= newestAgreed, `seed ${seed} step ${step}: agreed state went back`);
      newestAgreed = agreed.step;
      // Where a rank has no free slot no rank makes a snapshot; the state goes on in the live slot or in another.
      for (const book of free ? [] : books) book.take();
      for (const book of free ? books : []) {
        const before = book.slots.map(({ pins, previewed, state: held }) =>
          pins > 0 || previewed ? held : null,
        );
        const slot = book.take();
        assert.equal(before[slot.index], null, `seed ${seed} step ${step}: the vote promised a slot`);
        // Here a rank may die: its slot holds nothing, the others may or may not have copied.
        assert.ok(commonState(books), `seed ${seed} step ${step}: nothing common in mid-copy`);
        if (chance() < 0.1) book.failed();
        else book.written(state(step));
      }
      assert.ok(commonState(books), `seed ${seed} step ${step}: nothing common after the copies`);
      if (free && chance() < 0.3) for (const book of books) book.pin(state(step));
      if (free && chance() < 0.3) for (const book of books) book.pinPreview(state(step));
      for (const book of books) {
        for (const slot of book.slots)
          if (slot.previewed && slot.state && chance() < 0.3) book.unpinPreview(slot.state);
      }
      for (const book of books) {
        for (const slot of book.slots) if (slot.pins > 0 && chance() < 0.3) book.unpin(slot.state!);
      }
    }
    assert.ok(newestAgreed > 10, `seed ${seed}: snapshots stopped at ${newestAgreed}`);
    assert.ok(stateKey(commonState(books)!));
  }
});
