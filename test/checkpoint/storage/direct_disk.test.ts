import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { directDisk } from "../../../checkpoint/storage/direct_disk.js";
import { FileStorage } from "../../../checkpoint/storage/file.js";
import { Random, scratchFolder } from "../fixtures.js";

/** In memory and, where the machine has one, on a disk: only there are reads direct. */
for (const [place, folder] of [
  ["a scratch folder", scratchFolder()],
  ["memory", scratchFolder("/dev/shm")],
] as const) {
  test(`directDisk() in ${place}: what is read is what is there, from any byte to any byte, also beyond the end`, async () => {
    const random = new Random(5);
    const content = Uint8Array.from({ length: 3 * 2 ** 20 + 77 }, () => random.word() & 255);
    writeFileSync(path.join(folder, "file"), content);
    const file = await directDisk().openRead(path.join(folder, "file"));
    const cases: [number, number][] = [
      [0, 1],
      [0, 4096],
      [4095, 2],
      [0, content.length],
      [content.length - 1, 1],
      [content.length - 77, 200],
      [content.length, 10],
      [2 ** 20 + 5, 2 ** 20],
    ];
    for (let i = 0; i < 20; i++) cases.push([random.below(content.length), 1 + random.below(2 ** 21)]);
    for (const [at, length] of cases) {
      const into = new Uint8Array(length);
      const count = await file.read(into, at);
      const wanted = content.subarray(at, at + length);
      assert.equal(count, wanted.length, `${length} bytes from ${at}`);
      assert.ok(Buffer.from(wanted).equals(into.subarray(0, count)), `${length} bytes from ${at}`);
    }
    await file.close();
  });
}

test("directDisk(): reads of one storage that are asked for at once do not mix, and bytes written since are seen", async () => {
  const folder = scratchFolder();
  const storage = new FileStorage(folder, `file://${folder}`, directDisk());
  const random = new Random(6);
  const content = Uint8Array.from({ length: 2 ** 20 }, () => random.word() & 255);
  await storage.writeFile("file", [content]);
  await Promise.all(
    Array.from({ length: 16 }, async (_, i) => {
      const into = new Uint8Array(60_000);
      await storage.read("file", 61_003 * i, into);
      assert.ok(Buffer.from(content.subarray(61_003 * i, 61_003 * i + 60_000)).equals(into));
    }),
  );
  writeFileSync(path.join(folder, "file"), content.with(9_000, content[9_000]! ^ 1));
  const into = new Uint8Array(1);
  await storage.read("file", 9_000, into);
  assert.equal(into[0], content[9_000]! ^ 1);
  await assert.rejects(storage.read("gone", 0, into), { code: "NOT_FOUND" });
  await assert.rejects(storage.read("file", 2 ** 20, into), { code: "STORAGE_FAILED" });
});
