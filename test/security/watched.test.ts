import assert from "node:assert/strict";
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { Watched } from "../../security/watched.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-watched-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

test("Watched: what a file holds now is used; what cannot be used leaves the old, until it can", (t) => {
  const file = path.join(scratch, "word");
  writeFileSync(file, "one");
  const told: string[] = [];
  const read = () => {
    const text = readFileSync(file, "utf8");
    if (text.startsWith("bad")) throw new Error(text);
    return text;
  };
  const watched = new Watched([file], read, {
    onChange: (value) => told.push(`now ${value}`),
    onFailed: (error) => told.push(error.message),
  });
  t.after(() => watched.close());
  watched.look();
  assert.deepEqual([watched.value, told], ["one", []]);
  writeFileSync(file, "bad word");
  watched.look();
  watched.look(); // told once
  assert.equal(watched.value, "one");
  writeFileSync(file, "second");
  watched.look();
  assert.equal(watched.value, "second");
  rmSync(file);
  watched.look();
  assert.equal(watched.value, "second");
  assert.deepEqual(told.slice(0, 2), ["bad word", "now second"]);
  assert.match(told[2]!, /ENOENT/);
});

test("Watched: a symbolic link that is pointed elsewhere, as Kubernetes does, is seen", (t) => {
  for (const version of ["v1", "v2"]) {
    mkdirSync(path.join(scratch, version));
    writeFileSync(path.join(scratch, version, "tls.crt"), version);
  }
  const link = path.join(scratch, "..data");
  symlinkSync("v1", link);
  const file = path.join(link, "tls.crt");
  const watched = new Watched([file], () => readFileSync(file, "utf8"), { onChange() {}, onFailed() {} });
  t.after(() => watched.close());
  symlinkSync("v2", `${link}.tmp`);
  renameSync(`${link}.tmp`, link);
  watched.look();
  assert.equal(watched.value, "v2");
});

test("Watched: what cannot be used at first is refused", () => {
  const make = () => {
    throw new Error("no");
  };
  assert.throws(() => new Watched([], make, { onChange() {}, onFailed() {} }), /no/);
});
