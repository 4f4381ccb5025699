import { median } from "../../../job/median.js";
import { CLASSES, type FaultRow } from "./fault_row.js";
import type { KeptCell } from "./format_page.js";

/** Of each class of faults how soon they are noticed and over, at the median and at worst. Pure. */
export function summarise(rows: readonly FaultRow[], cells: readonly KeptCell[]): string[] {
  return [
    "| when | clusters | noticed after: median | worst | over after: median | worst | training stopped in | most steps lost |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ...Object.entries(CLASSES).flatMap(([id, title]) => {
      const own = rows.filter((row) => row.class === id);
      const run = own.flatMap((row) =>
        cells.filter((cell) => cell.row === row.id).map((cell) => ({ row, cell })),
      );
      return run.length === 0 ? [] : [`| ${[title, ...columns(run)].join(" | ")} |`];
    }),
    "",
    "*Over* is a fault when the next step is complete, and where training never stopped, when the controller answers again.",
  ];
}

type Run = { row: FaultRow; cell: KeptCell };

function columns(run: readonly Run[]): string[] {
  const stopped = run.filter(({ row, cell }) => !row.quiet.includes(cell.moment)).length;
  const lost = Math.max(...run.map(({ cell }) => cell.stepsLost ?? 0));
  return [
    String(run.length),
    ...spread(run, ({ cell }) => cell.detected.seconds),
    ...spread(run, ({ cell }) => cell.recovered.seconds),
    stopped === run.length ? "all" : stopped === 0 ? "none" : `${stopped}`,
    String(lost),
  ];
}

/** Median, and worst with the cell that it is of. */
function spread(run: readonly Run[], secondsOf: (run: Run) => number | null): [string, string] {
  const known = run.flatMap((one) => {
    const value = secondsOf(one);
    return value === null ? [] : [{ ...one, value }];
  });
  if (known.length === 0) return ["–", "–"];
  known.sort((a, b) => a.value - b.value);
  const worst = known.at(-1)!;
  return [
    text(median(known.map(({ value }) => value))),
    `${text(worst.value)} (${worst.row.title}, ${worst.cell.moment})`,
  ];
}

function text(value: number): string {
  return `${Math.max(0, value).toFixed(1)} s`;
}
