import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { type Disk, nodeDisk } from "../../../checkpoint/storage/disk.js";
import { FileStorage } from "../../../checkpoint/storage/file.js";
import { openStorage } from "../../../checkpoint/storage/storage.js";
import { refuses, scratchFolder } from "../fixtures.js";
import { LoggedDisk } from "../logged_disk.js";

const scratch = scratchFolder();
const bytes = (text: string) => new TextEncoder().encode(text);
const text = (data: Uint8Array) => new TextDecoder().decode(data);

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

  test(`${name}: nothing is made before the first write, not by a refused create either`, async () => {
    const { storage, disk, root } = fresh();
    await storage.list("");
    await storage.delete(["x", "y/z"]);
    await assert.rejects(storage.createExclusive("x", bytes("1")), refuses("NOT_FOUND", /Cannot create x/));
    assert.equal(await disk.stat(root), null);
  });

  test(`${name}: a disk that is full while a write comes in is told so, and keeps the old content`, async () => {
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
}

test("openStorage() takes file:// and bare paths, relative or absolute, and no unknown scheme", async () => {
  const root = path.join(scratch, "opened");
  for (const uri of [`file://${root}`, `file://${root}//`, root, `file://${path.relative(".", root)}`]) {
    const storage = openStorage(uri);
    await storage.writeFile("x", [bytes("1")]);
    assert.ok(!storage.uri.endsWith("/"));
  }
  assert.deepEqual(readdirSync(root), ["x"]);
  for (const uri of ["gs://bucket/x", "http://host/x", "file://", "", "a\0b"]) {
    assert.throws(
      () => openStorage(uri),
      refuses("ARGUMENT_INVALID", /want file:\/\/PATH or s3:\/\/BUCKET\/PREFIX$/),
      uri,
    );
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
