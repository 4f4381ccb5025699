import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";

/** The table of injected faults promises tests; each must be there under the name that it gives. */
const PAGE = "docs/checkpoint-faults.md";
const COLUMNS = "| fault | detected by | healed by | lost at most | proven by |";

/** Rows of the page's tables, cell by cell. */
function rows(): string[][] {
  const lines = readFileSync(PAGE, "utf8").split("\n");
  return lines
    .filter((line) => line.startsWith("| ") && line !== COLUMNS && !line.startsWith("| ---"))
    .map((line) => line.slice(2, -2).split(" | "));
}

/** Names of the tests in a file, `…` for each part that is put in when it runs. */
function testNames(file: string): string[] {
  const calls = readFileSync(file, "utf8").matchAll(/\b(?:test|check)\(\s*("(?:[^"\\]|\\.)*"|`[^`]*`)/g);
  return [...calls].map(([, name]) => name!.slice(1, -1).replace(/\$\{[^}]*\}/g, "…"));
}

/** What is wrong with the tests that a cell cites; a cell without any is wrong, too. */
function faultsOf(cell: string): string[] {
  const groups = cell.split("; ");
  return groups.flatMap((group) => {
    const [, file, names] = /^`(test\/[^`]+\.ts)` ("[^"]+"(?:, "[^"]+")*)$/.exec(group) ?? [];
    if (file === undefined || names === undefined)
      return [`${group || "an empty cell"}: want \`test/FILE.ts\` "NAME", "NAME"; ...`];
    if (!existsSync(file)) return [`${file}: there is no such file`];
    const held = testNames(file);
    return [...names.matchAll(/"([^"]+)"/g)].flatMap(([, name]) => {
      const found = held.filter((each) => each.startsWith(name!.replace(/…$/, "")));
      if (found.length === 1) return [];
      return [`${file} "${name}": ${found.length} tests begin so, want 1, give the beginning of one`];
    });
  });
}

test(`every fault in ${PAGE} names tests that are there`, () => {
  const found = rows();
  assert.ok(found.length >= 40, `${found.length} rows`);
  const wrong = found.flatMap((cells) => {
    const [fault] = cells;
    if (cells.length !== 5 || cells.some((cell) => cell.trim() === ""))
      return [`${fault}: ${cells.length} cells, want 5, none empty`];
    return faultsOf(cells[4]!).map((what) => `${fault}: ${what}`);
  });
  assert.deepEqual(wrong, []);
});

test("a test that is not there, is not the only one, or is no test, is told", () => {
  const here = "`test/house/fault_table.test.ts`";
  assert.deepEqual(faultsOf(`${here} "a test that is not there"`), []);
  assert.match(faultsOf(`${here} "no such test"`)[0]!, /0 tests begin so/);
  assert.match(faultsOf('`test/checkpoint/snapshot.test.ts` "readSnapshotHeader()"')[0]!, /2 tests begin so/);
  assert.match(faultsOf('`test/none.test.ts` "a"')[0]!, /no such file/);
  assert.match(faultsOf("by looking at it")[0]!, /want `test\/FILE/);
});
