import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { type Disk, nodeDisk } from "../../../checkpoint/storage/disk.js";
import { FileStorage } from "../../../checkpoint/storage/file.js";
import { openStorage, type Storage } from "../../../checkpoint/storage/storage.js";
import { refuses, scratchFolder } from "../fixtures.js";
import { LoggedDisk } from "../logged_disk.js";

const scratch = scratchFolder();
const bytes = (text: string) => new TextEncoder().encode(text);
const text = (data: Uint8Array) => new TextDecoder().decode(data);

async function part(storage: Storage, key: string, offset: number, length: number): Promise<Uint8Array> {
  const into = new Uint8Array(length);
  await storage.read(key, offset, into);
  return into;
}

const DISKS: [string, () => { disk: Disk; root: string }][] = [
  [
    "the machine's file system",
    () => ({ disk: nodeDisk, root: path.join(mkdtempSync(path.join(scratch, "disk-")), "a", "b") }),
  ],
  ["the disk double", () => ({ disk: new LoggedDisk(), root: "/a/b" })],
];

for (const [name, make] of DISKS) {
  const fresh = () => {
    const { disk, root } = make();
    return { storage: new FileStorage(root, `file://${root}`, disk), disk, root };
  };

  test(`${name}: nothing is there, and nothing is made, before the first write`, async () => {
    const { storage, disk, root } = fresh();
    assert.deepEqual(await storage.list(""), []);
    assert.deepEqual(await storage.folders(""), []);
    assert.equal(await storage.stat("x"), null);
    assert.equal(await storage.removeUnfinished("x/", () => true), 0);
    await storage.delete(["x", "y/z"]);
    await assert.rejects(
      storage.readFile("x", 10),
      refuses("NOT_FOUND", /Cannot read x under file:.*check the path/),
    );
    await assert.rejects(storage.createExclusive("x", bytes("1")), refuses("NOT_FOUND", /Cannot create x/));
    assert.equal(await disk.stat(root), null);
  });

  test(`${name}: writeFile() streams chunks, replaces whole, and leaves no unfinished write`, async () => {
    const { storage, disk, root } = fresh();
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
    assert.deepEqual(
      (await disk.listFolder(path.join(root, "c-1"))).map((entry) => entry.name),
      ["x"],
    );
  });

  test(`${name}: a write that fails leaves the old content and no unfinished write`, async () => {
    const { storage, disk, root } = fresh();
    await storage.writeFile("c-1/x", [bytes("old")]);
    async function* failing() {
      yield bytes("new");
      throw Object.assign(new Error("injected"), { code: "EDQUOT" });
    }
    await assert.rejects(storage.writeFile("c-1/x", failing()), refuses("STORAGE_FULL", /EDQUOT/));
    assert.equal(text(await storage.readFile("c-1/x", 9)), "old");
    assert.equal((await disk.listFolder(path.join(root, "c-1"))).length, 1);
  });

  test(`${name}: createExclusive() lets exactly one win`, async () => {
    const { storage, disk, root } = fresh();
    await storage.writeFile("c-1/data", [bytes("d")]);
    const tries = await Promise.all(
      ["a", "b", "c"].map((each) => storage.createExclusive("c-1/m", bytes(each))),
    );
    assert.equal(tries.filter(Boolean).length, 1);
    assert.equal(text(await storage.readFile("c-1/m", 1)), ["a", "b", "c"][tries.indexOf(true)]);
    assert.equal(await storage.createExclusive("c-1/m", bytes("d")), false);
    assert.deepEqual((await disk.listFolder(path.join(root, "c-1"))).map((entry) => entry.name).sort(), [
      "data",
      "m",
    ]);
  });

  test(`${name}: read() and readFile() refuse more than there is, or than is allowed`, async () => {
    const { storage } = fresh();
    await storage.writeFile("x", [bytes("12345")]);
    await assert.rejects(part(storage, "x", 3, 3), refuses("STORAGE_FAILED", /ends at byte 5, want 6/));
    await assert.rejects(storage.readFile("x", 4), refuses("STORAGE_FAILED", /5 bytes, want at most 4/));
    assert.equal((await part(storage, "x", 5, 0)).byteLength, 0);
  });

  test(`${name}: list(), folders() and the deletions`, async () => {
    const { storage, disk, root } = fresh();
    for (const key of ["c-2/b", "c-2/a", "c-10/x/y", "top"]) await storage.writeFile(key, [bytes(key)]);
    await (await disk.create(path.join(root, "c-2", ".a.00ff.tmp"))).close();
    assert.deepEqual(
      (await storage.list("")).map((entry) => entry.key),
      ["c-10/x/y", "c-2/a", "c-2/b", "top"],
    );
    assert.deepEqual(
      (await storage.list("c-2/")).map((entry) => entry.key),
      ["c-2/a", "c-2/b"],
    );
    assert.deepEqual(await storage.folders(""), ["c-10", "c-2"]);
    await storage.delete(["c-2/a", "c-2/b", "c-2/none"]);
    await storage.removeFolder("c-2/");
    assert.deepEqual(await storage.folders(""), ["c-10", "c-2"], "an unfinished write holds its folder");
    assert.equal(await storage.removeUnfinished("c-2/", (target) => target === "c-2/b"), 0);
    assert.equal(await storage.removeUnfinished("c-2/", (target) => target === "c-2/a"), 1);
    await storage.removeFolder("c-2/");
    await storage.removeFolder("c-2/");
    assert.deepEqual(await storage.folders(""), ["c-10"]);
  });

  test(`${name}: keys that leave the root, or name an unfinished write, are refused`, async () => {
    const { storage } = fresh();
    for (const key of [
      "../x",
      "a/../../x",
      "/etc/passwd",
      "a//b",
      "",
      ".",
      "a/.",
      ".hidden",
      "a\0b",
      "a\\..\\b",
      "x".repeat(300),
      "a/".repeat(20),
    ]) {
      await assert.rejects(
        storage.writeFile(key, [bytes("1")]),
        refuses("ARGUMENT_INVALID", /Cannot use key/),
        JSON.stringify(key),
      );
      await assert.rejects(
        storage.readFile(key, 1),
        refuses("ARGUMENT_INVALID", /Cannot use key/),
        JSON.stringify(key),
      );
    }
    await assert.rejects(storage.list("../"), refuses("ARGUMENT_INVALID", /Cannot use key/));
  });
}

test("openStorage() takes file:// and bare paths, relative or absolute, and nothing else", async () => {
  const root = path.join(scratch, "opened");
  for (const uri of [`file://${root}`, `file://${root}//`, root, `file://${path.relative(".", root)}`]) {
    const storage = openStorage(uri);
    await storage.writeFile("x", [bytes("1")]);
    assert.ok(!storage.uri.endsWith("/"));
  }
  assert.deepEqual(readdirSync(root), ["x"]);
  for (const uri of ["s3://bucket", "http://host/x", "file://", "", "a\0b"]) {
    assert.throws(() => openStorage(uri), refuses("ARGUMENT_INVALID", /want file:\/\/PATH/), uri);
  }
});

test("a root that cannot be written is told with its cause", async (t) => {
  const root = path.join(scratch, "locked");
  mkdirSync(root);
  writeFileSync(path.join(root, "plain"), "");
  await assert.rejects(
    openStorage(path.join(root, "plain")).writeFile("c/x", []),
    refuses("STORAGE_FAILED", /Cannot write c\/x .*(ENOTDIR|EEXIST)/),
  );
  if (process.getuid?.() === 0) return t.skip("root may write everywhere");
  chmodSync(root, 0o500);
  await assert.rejects(
    openStorage(root).writeFile("x", []),
    refuses("STORAGE_FAILED", /not permitted \(EACCES\), check the owner/),
  );
});

test("a file system without hard links is told so, and nothing becomes visible", async () => {
  const root = mkdtempSync(path.join(scratch, "fat-"));
  const link = () => Promise.reject(Object.assign(new Error("link"), { code: "EPERM" }));
  const storage = new FileStorage(root, root, { ...nodeDisk, link });
  await assert.rejects(
    storage.createExclusive("m", bytes("1")),
    refuses("STORAGE_FAILED", /no hard links \(EPERM\), put checkpoint.uri on one that has/),
  );
  assert.deepEqual(readdirSync(root), []);
});

test("a link request repeated by the network counts as made when the file is ours", async () => {
  const root = mkdtempSync(path.join(scratch, "nfs-"));
  const link = async (from: string, to: string) => {
    await nodeDisk.link(from, to);
    await nodeDisk.link(from, to);
  };
  const storage = new FileStorage(root, root, { ...nodeDisk, link });
  assert.equal(await storage.createExclusive("m", bytes("1")), true);
  assert.equal(await storage.createExclusive("m", bytes("2")), false);
  assert.equal(text(await storage.readFile("m", 9)), "1");
});
