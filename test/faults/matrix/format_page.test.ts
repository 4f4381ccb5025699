import assert from "node:assert/strict";
import { test } from "node:test";
import { formatPage, type KeptCell, type PageInput } from "./format_page.js";
import { RULES } from "./judge_cell.js";
import { ROWS } from "./rows.js";

const cell: KeptCell = {
  row: "sigkill",
  moment: "saving",
  failures: [],
  detected: { by: "RANK_DIED: rank 3 ended by SIGKILL in a | b", seconds: 0.04 },
  localised: "rank 3, node-b",
  recovered: { by: "restore from memory, step 13", seconds: 0.52 },
  stepsLost: 0,
  losses: "same bits",
  seconds: 8,
  commit: "abc1234",
  date: "2026-01-02",
  machine: "2 CPUs",
  rules: RULES,
};

function page(values: Partial<PageInput>): string {
  return formatPage({
    rows: ROWS,
    cells: [],
    skipped: new Map(),
    network: "all on loopback",
    ...values,
  });
}

/** The line of a fault in the table of a moment. */
function lineOf(text: string, heading: string, title: string): string {
  const section = text.slice(text.indexOf(`## ${heading}`));
  return section.split("\n").find((line) => line.startsWith(`| ${title} |`))!;
}

test("formatPage() gives a cell one line of its moment's table, which no text of an error can break", () => {
  const line = lineOf(page({ cells: [cell] }), "While saving", "rank killed (SIGKILL)");
  assert.equal(
    line,
    "| rank killed (SIGKILL) | RANK_DIED: rank 3 ended by SIGKILL in a / b | 0.0 s | rank 3, node-b | restore from memory, step 13 | 0.5 s | 0 | same bits | abc1234 |",
  );
});

test("formatPage() says of each cell without a run why it has none", () => {
  const text = page({ skipped: new Map([["cut-nodes", "not run: no network namespaces"]]) });
  const saving = text.slice(text.indexOf("## While saving"), text.indexOf("## While the first"));
  assert.match(
    saving,
    /^Not run: .*rank killed \(SIGKILL\) \(not yet\);.*between two nodes \(not run: no network/m,
  );
  assert.match(text, /^Cannot be then: .*NaN \(no number is computed then\)/m);
});

test("formatPage() shows at a glance how soon each fault is over, and at which moments it cannot be", () => {
  const lost = { ...cell, moment: "recovering", stepsLost: 2 } as const;
  const text = page({ cells: [cell, lost] });
  const row = lineOf(text, "At a glance", "rank killed (SIGKILL)");
  assert.equal(row, "| rank killed (SIGKILL) | not run | not run | 0.5 s | not run | 0.5 s, 2 lost |");
  assert.match(lineOf(text, "At a glance", "full disk"), /^\| full disk \| – \| – \| not run \| – \| – \|$/);
});

test("formatPage() tells at its top of each kind of fault the median, the worst with its cell, and how often training stopped", () => {
  const at = (row: string, moment: "computing" | "saving", seconds: number) =>
    ({
      ...cell,
      row,
      moment,
      detected: { by: "", seconds },
      recovered: { by: "", seconds: 2 * seconds },
    }) as KeptCell;
  const text = page({
    cells: [
      at("sigkill", "saving", 1),
      at("oom", "saving", 3),
      at("throw", "saving", 9),
      at("controller", "computing", 4),
    ],
  });
  assert.match(
    text,
    /^\| a rank dies \| 3 \| 3\.0 s \| 9\.0 s \(rank ends with an error of its own, saving\) \| 6\.0 s \| 18\.0 s .*\| all \| 0 \|$/m,
  );
  assert.match(text, /^\| the controller is lost or deposed \| 1 \| 4\.0 s .*\| none \| 0 \|$/m);
});

test("formatPage() marks a cell that failed, and tells below what was wrong", () => {
  const text = page({ cells: [{ ...cell, failures: ["hung: not over after 300 s"] }] });
  assert.match(lineOf(text, "While saving", "rank killed (SIGKILL)"), /\*\*failed\*\* same bits/);
  assert.match(lineOf(text, "At a glance", "rank killed (SIGKILL)"), /\*\*failed\*\*/);
  assert.match(text, /^- rank killed \(SIGKILL\), saving: hung: not over after 300 s$/m);
  assert.match(text, /1 real clusters, 0 of which ended as they must, 1 not/);
});

test("formatPage() marks cells that were judged by fewer rules than there are now, and counts them", () => {
  assert.doesNotMatch(page({ cells: [cell] }), /¹/);
  const text = page({ cells: [{ ...cell, rules: RULES - 1 }] });
  assert.match(lineOf(text, "While saving", "rank killed (SIGKILL)"), /\| abc1234 ¹ \|$/);
  assert.match(text, /^¹ 1 of these cells/m);
});
