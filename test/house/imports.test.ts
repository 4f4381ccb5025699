import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";

/** House rules that a compiler does not enforce; each message names what to do instead. */
const TABLE = "docs/architecture.md";
const CODE = ["job", "security", "checkpoint", "controller", "worker", "cli"];

/** What each folder may import beside itself, from the table of docs/architecture.md; null: everything. */
function rules(): Map<string, string[] | null> {
  const found = new Map<string, string[] | null>();
  const names = (cell: string) => [...cell.matchAll(/`([a-z/]+?)\/?`/g)].map((match) => match[1]!);
  for (const [, folders, uses] of readFileSync(TABLE, "utf8").matchAll(
    /^\| (`[^|]+) \| [^|]+ \|([^|]*)\|$/gm,
  ))
    for (const folder of names(folders!))
      found.set(folder, uses!.trim() === "everything" ? null : names(uses!));
  return found;
}

/** The row that a file belongs to: `worker/rank`, or `worker` for what lies directly in it. */
function folderOf(file: string): string {
  const [top, sub, ...rest] = file.split(path.sep);
  return (top === "worker" || top === "controller") && rest.length > 0 ? `${top}/${sub}` : top!;
}

function sources(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => /\.tsx?$/.test(file))
    .map((file) => path.join(folder, file));
}

function importsOf(file: string): string[] {
  const text = readFileSync(file, "utf8");
  return [...text.matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)].map((match) =>
    path.join(path.dirname(file), match[1]!),
  );
}

test(`imports go the one way that ${TABLE} says`, () => {
  const table = rules();
  const wrong = CODE.flatMap(sources).flatMap((file) => {
    const from = folderOf(file);
    const top = from.split("/")[0]!;
    if (from === top && (top === "worker" || top === "controller"))
      // contracts and the main program of a tree: only its own, and never the other tree
      return importsOf(file)
        .filter(
          (target) => ![top, "checkpoint", "gen", "job", "security"].includes(target.split(path.sep)[0]!),
        )
        .map(
          (target) => `${file} imports ${target}: ${top}/ shares proto, job, security and checkpoint only`,
        );
    const allowed = table.get(from);
    if (allowed === undefined) return [`${file}: ${from} has no row in ${TABLE}, add one`];
    if (allowed === null) return [];
    return importsOf(file)
      .filter((target) => ![from, ...allowed].includes(folderOf(target)))
      .filter((target) => !(top === "worker" && folderOf(target) === "worker"))
      .map((target) => `${file} imports ${target}: ${from} may use ${allowed.join(", ")} only`);
  });
  assert.deepEqual(wrong, []);
});

test("the web page knows types of the API alone, so that nothing of the controller is sent to browsers", () => {
  const wrong = sources("controller/web").filter((file) =>
    /^import (?!type )[^;]*from "(\.\.\/)+api\//m.test(readFileSync(file, "utf8")),
  );
  assert.deepEqual(wrong, []);
});

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
