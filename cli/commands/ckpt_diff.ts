import type { Command } from "commander";
import { diffTensors, type TensorDiff } from "../../checkpoint/diff.js";
import { diffFacts, type FactDiff } from "../../checkpoint/diff_facts.js";
import { type Checkpoint, openCheckpoint } from "../../checkpoint/load.js";
import { STATE_KINDS, type StateKind } from "../../checkpoint/state.js";
import { GokuError } from "../../job/errors.js";
import { ByteProgress } from "../byte_progress.js";
import { diffJson } from "../ckpt_json.js";
import { globals } from "../context.js";
import { bytes, fields, show, table } from "../output.js";
import { checkpointUri, collect } from "../read_options.js";

/** As of diff(1): 0 equal, 1 different, more: trouble. */
const DIFFERENT = 1;
const ROWS_MAX = 40;

interface DiffOptions {
  kind: string[];
  facts?: boolean;
  all?: boolean;
}

export function addCkptDiffCommand(ckpt: Command): void {
  ckpt
    .command("diff")
    .description("compare two checkpoints: facts, then every tensor; exit code 1 when they differ")
    .argument("<a>", "folder of a run (its newest checkpoint) or one checkpoint-<step> folder")
    .argument("<b>", "the one that a is measured against")
    .option(
      "--kind <kind>",
      `only tensors of that kind (${STATE_KINDS.join(", ")}); may be repeated`,
      collect,
      [],
    )
    .option("--facts", "only state, job, layout, data and parameters; read no tensor data")
    .option("--all", "every tensor that differs instead of the first 40")
    .addHelpText(
      "after",
      `
Facts are what the state says of itself; layout is that of the run, not of the files. Tensors are equal when every bit is;
others come with max |a-b| and ||a-b||/||b||, the furthest apart first. Exit codes: 0 equal, 1 different, more: an error.

Examples:
  gokuctl ckpt diff ./runs/a/checkpoint-200 ./runs/b/checkpoint-200 --kind model
  gokuctl ckpt diff ./runs/a ./runs/b --facts`,
    )
    .action(diff);
}

async function diff(dirA: string, dirB: string, options: DiffOptions, command: Command): Promise<void> {
  const kinds = kindsOf(options);
  const output = globals(command);
  const a = await openCheckpoint(checkpointUri(dirA));
  const b = await openCheckpoint(checkpointUri(dirB));
  const facts = diffFacts(a, b);
  const tensors = options.facts
    ? null
    : await new ByteProgress(output).during((onProgress) => diffTensors(a, b, { kinds, onProgress }));
  const differ = facts.length > 0 || (tensors ?? []).some(({ differing }) => differing > 0);
  show(output, diffJson({ a, b, facts, tensors }), () => diffText({ a, b, facts, tensors }, options));
  if (differ) process.exitCode = DIFFERENT;
}

function kindsOf({ kind, facts }: DiffOptions): readonly StateKind[] {
  const unknown = kind.find((each) => !STATE_KINDS.includes(each as StateKind));
  if (unknown !== undefined) {
    const want = `want one of ${STATE_KINDS.join(", ")}`;
    throw new GokuError("ARGUMENT_INVALID", `Cannot read --kind: found "${unknown}", ${want}`);
  }
  if (facts && kind.length > 0)
    throw new GokuError(
      "ARGUMENT_INVALID",
      "Cannot use --kind with --facts: no tensor is read, leave one out",
    );
  return kind.length === 0 ? STATE_KINDS : (kind as StateKind[]);
}

interface DiffReport {
  a: Checkpoint;
  b: Checkpoint;
  facts: readonly FactDiff[];
  tensors: readonly TensorDiff[] | null;
}

function diffText({ a, b, facts, tensors }: DiffReport, options: DiffOptions): string {
  const of = ({ uri, meta }: Checkpoint) =>
    `${uri}  step ${meta.state.step} of generation ${meta.state.generation}`;
  const differing = (tensors ?? []).filter((each) => each.differing > 0);
  const parts = [
    fields([
      ["a", of(a)],
      ["b", of(b)],
      ["facts", facts.length === 0 ? "equal" : `${facts.length} differ`],
      ["tensors", tensors === null ? "not read" : tensorLine(tensors, differing)],
    ]),
  ];
  if (facts.length > 0) {
    const rows = facts.map(({ fact, a: left, b: right }) => [fact, brief(left), brief(right)]);
    parts.push(table(["FACT", "A", "B"], rows));
  }
  const shown = options.all ? differing : differing.slice(0, ROWS_MAX);
  if (shown.length > 0) parts.push(tensorTable(shown));
  if (shown.length < differing.length) parts.push(`... and ${differing.length - shown.length} more (--all)`);
  return parts.join("\n\n");
}

function tensorLine(tensors: readonly TensorDiff[], differing: readonly TensorDiff[]): string {
  if (tensors.length === 0) return "none in common";
  const size = bytes(tensors.reduce((sum, { count }) => sum + 4 * count, 0));
  if (differing.length === 0) return `all ${tensors.length} equal, bit for bit, ${size}`;
  const worst = differing[0]!;
  return `${differing.length} of ${tensors.length} differ (${size}), at most by ${figure(worst.relative)} of ||b|| (${worst.tensor})`;
}

function tensorTable(tensors: readonly TensorDiff[]): string {
  return table(
    ["TENSOR", "ELEMENTS", "DIFFERING", "MAX |A-B|", "||A-B||/||B||"],
    tensors.map((each) => [
      each.tensor,
      each.count,
      each.nonFinite === 0 ? each.differing : `${each.differing} (${each.nonFinite} not finite)`,
      figure(each.maxAbs),
      figure(each.relative),
    ]),
  );
}

function figure(value: number): string {
  return value === 0 || value === Number.POSITIVE_INFINITY ? String(value) : value.toExponential(3);
}

/** A fact on one line of a table. */
function brief(value: unknown): string {
  if (value === null) return "-";
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}
