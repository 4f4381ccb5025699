import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";

const FOLDER = "controller/core";
const withoutComments = (text: string) => text.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, "");
const files = readdirSync(FOLDER).map((name) => ({
  name,
  text: withoutComments(readFileSync(path.join(FOLDER, name), "utf8")),
}));

test("the core imports only itself, job/, and types of gen/", () => {
  const wrong: string[] = [];
  for (const { name, text } of files) {
    for (const [statement, target] of text.matchAll(/^import [^;]*?from "([^"]+)";/gms)) {
      const own = target!.startsWith("./");
      const job = target!.startsWith("../../job/");
      const generated = target!.startsWith("../../gen/") && statement.startsWith("import type ");
      if (!own && !job && !generated) wrong.push(`${name}: ${target}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test("the core never asks for time, chance or ids", () => {
  const banned =
    /\bDate\.now\b|\bnew Date\(|\bperformance\b|\bMath\.random\b|\brandomUUID\b|\bset(Timeout|Interval|Immediate)\b|\bprocess\.|\brequire\(|\bimport\(|\bawait\b|\basync\b/;
  const wrong = files
    .filter(({ text }) => banned.test(text))
    .map(({ name, text }) => `${name}: ${banned.exec(text)![0]}`);
  assert.deepEqual(wrong, []);
});
