import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";

/** House rules that a compiler does not enforce; each message names what to do instead. */
const MAY_IMPORT: Record<string, string[]> = {
  job: ["job"],
  checkpoint: ["checkpoint", "job"],
  worker: ["worker", "checkpoint", "job", "gen"],
  controller: ["controller", "checkpoint", "job", "gen"],
  cli: ["cli", "checkpoint", "job", "gen", "worker", "controller"],
};

function sources(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .map((file) => path.join(folder, file));
}

function importsOf(file: string): string[] {
  const text = readFileSync(file, "utf8");
  return [...text.matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)].map((match) =>
    path.join(path.dirname(file), match[1]!),
  );
}

for (const [folder, allowed] of Object.entries(MAY_IMPORT)) {
  test(`imports of ${folder}/ go one way`, () => {
    const wrong = sources(folder).flatMap((file) =>
      importsOf(file)
        .filter((target) => !allowed.includes(target.split(path.sep)[0]!))
        .map((target) => `${file} imports ${target}: ${folder}/ may use ${allowed.join(", ")} only`),
    );
    assert.deepEqual(wrong, []);
  });
}

test("the controller's core has no clock, chance or I/O", () => {
  const banned: [RegExp, string][] = [
    [/\bDate\.now\b|\bnew Date\(\)|performance\.now/, "take nowMs from the event"],
    [/\bMath\.random\b|randomUUID/, "take ids from the event"],
    [/\bset(Timeout|Interval|Immediate)\b/, "return an effect that arms a timer"],
    [/from "node:/, "leave I/O to the shell"],
  ];
  const wrong = sources("controller/core").flatMap((file) =>
    banned
      .filter(([pattern]) => pattern.test(readFileSync(file, "utf8")))
      .map(([pattern, instead]) => `${file}: ${pattern}: ${instead}`),
  );
  assert.deepEqual(wrong, []);
});
