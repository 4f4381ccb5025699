import assert from "node:assert/strict";
import { test } from "node:test";
import { SignalBook } from "../../../../worker/agent/signals/signal_book.js";

test("SignalBook: the first three are told, then every tenfold", () => {
  const book = new SignalBook();
  const told = Array.from({ length: 1_000 }, () => book.count("node xid.13 0000:3b:00", 0));
  assert.deepEqual(
    told.filter((count) => count !== null),
    [1, 2, 3, 10, 100, 1_000],
  );
  assert.equal(book.count("node xid.13 0000:5e:00", 0), 1, "another device");
});

test("SignalBook: counts anew after an hour without it, and when it is told to", () => {
  const book = new SignalBook();
  for (let i = 0; i < 4; i++) book.count("rank 1 log.nccl ", 0);
  assert.equal(book.count("rank 1 log.nccl ", 3_600_000), null);
  assert.equal(book.count("rank 1 log.nccl ", 7_200_001), 1);
  for (let i = 0; i < 4; i++) book.count("node kernel.nfs a", 7_200_001);
  book.clear("rank ");
  assert.equal(book.count("rank 1 log.nccl ", 7_200_001), 1);
  assert.equal(book.count("node kernel.nfs a", 7_200_001), null);
});

test("SignalBook: keys without end are not remembered without end", () => {
  const book = new SignalBook();
  const told = Array.from({ length: 5_000 }, (_, i) => book.count(`node kernel.disk_error d${i}`, 0));
  assert.equal(told.filter((count) => count !== null).length, 1_000);
  assert.equal(book.count("node kernel.disk_error new", 3_600_001), 1, "old ones have gone");
});
