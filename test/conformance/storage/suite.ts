import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Storage } from "../../../checkpoint/storage/storage.js";
import { GokuError } from "../../../job/errors.js";
import { Random, refuses } from "../../checkpoint/fixtures.js";

/** An empty root. */
export interface StorageSubject {
  storage: Storage;
  /** What a writer of `key` that died leaves. */
  leaveUnfinished(key: string): Promise<void>;
  /** How many unfinished writes there are under the root. */
  unfinishedCount(): Promise<number>;
}

export interface StorageMaker {
  fresh(): Promise<StorageSubject>;
  stop(): Promise<void>;
}

const MIB = 1 << 20;
const bytes = (text: string) => new TextEncoder().encode(text);
const text = (data: Uint8Array) => new TextDecoder().decode(data);

async function part(storage: Storage, key: string, offset: number, length: number): Promise<Uint8Array> {
  const into = new Uint8Array(length);
  await storage.read(key, offset, into);
  return into;
}

function seeded(seed: number, length: number): Buffer {
  const random = new Random(seed);
  return Buffer.from(
    Uint32Array.from({ length: Math.ceil(length / 4) }, () => random.word()).buffer,
    0,
    length,
  );
}

/** Yields `data` from one buffer that it fills again each time, as saveShard does. */
function* throughOneBuffer(data: Uint8Array, blockBytes: number): Generator<Uint8Array> {
  const block = new Uint8Array(blockBytes);
  for (let at = 0; at < data.byteLength; at += blockBytes) {
    block.fill(0xee);
    const piece = data.subarray(at, at + blockBytes);
    block.set(piece);
    yield block.subarray(0, piece.byteLength);
  }
  block.fill(0xee);
}

/** What `Storage` promises, whatever is behind it. */
export function storageConformance(
  name: string,
  open: () => Promise<StorageMaker>,
  skip: string | false = false,
): void {
  let maker: StorageMaker;
  before(async () => {
    if (skip === false) maker = await open();
  });
  after(async () => {
    if (skip === false) await maker.stop();
  });
  const check = (title: string, run: (subject: StorageSubject) => Promise<void>) =>
    test(`${name}: ${title}`, { skip }, async () => run(await maker.fresh()));

  check("nothing is there before the first write, and that is no error", async ({ storage }) => {
    assert.deepEqual(await storage.list(""), []);
    assert.deepEqual(await storage.folders(""), []);
    assert.equal(await storage.stat("x"), null);
    assert.equal(await storage.removeUnfinished("x/", () => true), 0);
    await storage.delete([]);
    await storage.delete(["x", "y/z"]);
    await storage.removeFolder("y/");
    const missing = refuses("NOT_FOUND", /^Cannot read x under .*check the/);
    await assert.rejects(storage.readFile("x", 10), missing);
    await assert.rejects(part(storage, "x", 0, 1), missing);
    await assert.rejects(part(storage, "x", 0, 0), missing);
    await assert.rejects(
      storage.createExclusive("c-1/x", bytes("1")),
      refuses("NOT_FOUND", /Cannot create c-1\/x/),
    );
    assert.deepEqual(await storage.list(""), []);
  });

  check("writeFile() streams chunks, and replaces whole", async ({ storage, unfinishedCount }) => {
    async function* chunks() {
      yield bytes("ab");
      yield new Uint8Array(0);
      yield bytes("cde");
    }
    assert.deepEqual(await storage.writeFile("c-1/x", chunks()), { key: "c-1/x", bytes: 5 });
    assert.equal(text(await storage.readFile("c-1/x", 5)), "abcde");
    assert.equal(text(await part(storage, "c-1/x", 1, 3)), "bcd");
    await storage.writeFile("c-1/x", [bytes("z")]);
    assert.deepEqual(await storage.stat("c-1/x"), { key: "c-1/x", bytes: 1 });
    assert.deepEqual(await storage.writeFile("empty", []), { key: "empty", bytes: 0 });
    assert.equal((await storage.readFile("empty", 0)).byteLength, 0);
    assert.equal(await unfinishedCount(), 0);
  });

  for (const size of [5 * MIB, 5 * MIB + 1, 17 * MIB + 12_345]) {
    check(`${size} bytes from a buffer that is used again arrive unchanged`, async (subject) => {
      const { storage } = subject;
      const data = seeded(size, size);
      const written = await storage.writeFile("c-1/large", throughOneBuffer(data, MIB), size);
      assert.deepEqual(written, { key: "c-1/large", bytes: size });
      assert.ok(data.equals(await storage.readFile("c-1/large", size)));
      assert.ok(data.subarray(5 * MIB - 7, 5 * MIB).equals(await part(storage, "c-1/large", 5 * MIB - 7, 7)));
      assert.equal(await subject.unfinishedCount(), 0);
    });
  }

  check("a write whose source fails leaves the old content and no unfinished write", async (subject) => {
    const { storage } = subject;
    await storage.writeFile("c-1/x", [bytes("old")]);
    for (const size of [1, 12 * MIB]) {
      function* failing() {
        yield* throughOneBuffer(seeded(1, size), MIB);
        throw new GokuError("CHECKPOINT_CORRUPT", "Cannot read the snapshot: injected");
      }
      await assert.rejects(
        storage.writeFile("c-1/x", failing()),
        refuses("CHECKPOINT_CORRUPT", /injected/),
        `after ${size} bytes`,
      );
      assert.equal(text(await storage.readFile("c-1/x", 9)), "old");
      assert.equal(await subject.unfinishedCount(), 0);
    }
  });

  check("of several writers of one key, each whole, one stays", async ({ storage }) => {
    const all = ["a", "b", "c"].map((letter) => bytes(letter.repeat(1000)));
    await Promise.all(all.map((data) => storage.writeFile("c-1/x", throughOneBuffer(data, 300))));
    const found = text(await storage.readFile("c-1/x", 1000));
    assert.ok(all.map(text).includes(found));
  });

  check("createExclusive() lets exactly one win, and changes nothing for the others", async (subject) => {
    const { storage } = subject;
    await storage.writeFile("c-1/data", [bytes("d")]);
    for (let round = 0; round < 10; round++) {
      const key = `c-1/m${round}`;
      const creators = Array.from({ length: 20 }, (_, i) => `creator ${i}`);
      const tries = await Promise.all(creators.map((each) => storage.createExclusive(key, bytes(each))));
      assert.equal(tries.filter(Boolean).length, 1, key);
      assert.equal(await storage.createExclusive(key, bytes("late")), false);
      assert.equal(text(await storage.readFile(key, 20)), creators[tries.indexOf(true)]);
    }
    assert.deepEqual(
      (await storage.list("")).map((entry) => entry.key),
      ["c-1/data", ...Array.from({ length: 10 }, (_, i) => `c-1/m${i}`)],
    );
    assert.deepEqual(await storage.folders(""), ["c-1"]);
    assert.equal(await subject.unfinishedCount(), 0);
  });

  check("read() and readFile() refuse more than there is, or than is allowed", async ({ storage }) => {
    await storage.writeFile("x", [bytes("12345")]);
    await assert.rejects(part(storage, "x", 3, 3), refuses("STORAGE_FAILED", /ends at byte 5, want 6/));
    await assert.rejects(part(storage, "x", 5, 1), refuses("STORAGE_FAILED", /ends at byte 5, want 6/));
    await assert.rejects(storage.readFile("x", 4), refuses("STORAGE_FAILED", /5 bytes, want at most 4/));
    assert.equal((await part(storage, "x", 5, 0)).byteLength, 0);
    assert.equal(text(await part(storage, "x", 0, 5)), "12345");
  });

  check("list(), folders() and the deletions", async ({ storage, leaveUnfinished }) => {
    for (const key of ["c-2/b", "c-2/a", "c-10/x/y", "top"]) await storage.writeFile(key, [bytes(key)]);
    await leaveUnfinished("c-2/a");
    assert.deepEqual(await storage.list(""), [
      { key: "c-10/x/y", bytes: 8 },
      { key: "c-2/a", bytes: 5 },
      { key: "c-2/b", bytes: 5 },
      { key: "top", bytes: 3 },
    ]);
    assert.deepEqual(
      (await storage.list("c-2/")).map((entry) => entry.key),
      ["c-2/a", "c-2/b"],
    );
    assert.deepEqual(await storage.folders(""), ["c-10", "c-2"]);
    assert.deepEqual(await storage.folders("c-10/"), ["x"]);
    await storage.delete(["c-2/a", "c-2/b", "c-2/none"]);
    await storage.removeFolder("c-2/");
    assert.deepEqual(await storage.folders(""), ["c-10", "c-2"], "an unfinished write holds its folder");
    assert.equal(await storage.removeUnfinished("c-2/", (target) => target === "c-2/b"), 0);
    assert.equal(await storage.removeUnfinished("", () => true), 0, "only directly in the folder");
    assert.equal(await storage.removeUnfinished("c-2/", (target) => target === "c-2/a"), 1);
    await storage.removeFolder("c-2/");
    await storage.removeFolder("c-2/");
    assert.deepEqual(await storage.folders(""), ["c-10"]);
  });

  check("keys that leave the root, or name an unfinished write, are refused", async ({ storage }) => {
    const keys = ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "a/.", ".hidden", "a\0b", "a\\..\\b"];
    for (const key of [...keys, "x".repeat(300), "a/".repeat(20)]) {
      const refused = refuses("ARGUMENT_INVALID", /Cannot use key/);
      await assert.rejects(storage.writeFile(key, [bytes("1")]), refused, JSON.stringify(key));
      await assert.rejects(storage.createExclusive(key, bytes("1")), refused, JSON.stringify(key));
      await assert.rejects(storage.readFile(key, 1), refused, JSON.stringify(key));
      await assert.rejects(storage.delete([key]), refused, JSON.stringify(key));
    }
    await assert.rejects(storage.list("../"), refuses("ARGUMENT_INVALID", /Cannot use key/));
  });
}
