import type { Command } from "commander";
import { type InspectReport, inspectCheckpoint } from "../../checkpoint/inspect.js";
import { type CheckpointEntry, listCheckpoints, splitCheckpointUri } from "../../checkpoint/load.js";
import { verifyCheckpoint } from "../../checkpoint/verify.js";
import { GokuError } from "../../job/errors.js";
import { Layout } from "../../job/layout.js";
import { ByteProgress } from "../byte_progress.js";
import { chosenStep, STEP, type StepOption } from "../chosen_step.js";
import { entryJson, inspectJson, verifyJson } from "../ckpt_json.js";
import { globals } from "../context.js";
import { bytes, fields, show, table } from "../output.js";
import { checkpointUri, requireFolder } from "../read_options.js";
import { addCkptDiffCommand } from "./ckpt_diff.js";
import { addCkptExportCommand } from "./ckpt_export.js";
import { addCkptImportCommand } from "./ckpt_import.js";
import { addCkptPruneCommand } from "./ckpt_prune.js";
import { addCkptReshardCommand } from "./ckpt_reshard.js";

const ONE = "folder or s3:// URI of a run (its newest checkpoint), or one checkpoint-<step> below it";

/** Commands that work on checkpoints directly; none needs a controller. */
export function addCheckpointCommands(program: Command): void {
  const ckpt = program
    .command("ckpt")
    .description("look at checkpoints, compare, delete, convert and move them");
  ckpt
    .command("ls")
    .description("committed checkpoints of a run, newest first")
    .argument("<dir>", "folder or s3:// URI of the run (checkpoint.uri of its job)")
    .addHelpText("after", "\nExample:\n  gokuctl ckpt ls ./runs/shapes")
    .action(list);
  ckpt
    .command("inspect")
    .description("tensors, files and the state's facts, without reading tensor data")
    .argument("<dir>", ONE)
    .option("--step <step>", STEP)
    .option("--intervals", "every interval: which file holds which elements")
    .option("--all", "every tensor instead of the first 40")
    .addHelpText("after", "\nExample:\n  gokuctl ckpt inspect ./runs/shapes --step 200 --intervals")
    .action(inspect);
  ckpt
    .command("verify")
    .description("read every byte of a checkpoint and compare it with its digests")
    .argument("<dir>", ONE)
    .option("--step <step>", STEP)
    .addHelpText("after", "\nExample:\n  gokuctl ckpt verify s3://runs/shapes/checkpoint-200")
    .action(verify);
  addCkptDiffCommand(ckpt);
  addCkptPruneCommand(ckpt);
  addCkptExportCommand(ckpt);
  addCkptImportCommand(ckpt);
  addCkptReshardCommand(ckpt);
}

async function list(dir: string, _options: object, command: Command): Promise<void> {
  const uri = splitCheckpointUri(checkpointUri(dir)).root;
  requireFolder("list checkpoints of", dir, uri);
  const unreadable: { uri: string; error: GokuError }[] = [];
  const entries = await listCheckpoints(uri, (found) => unreadable.push(found));
  const output = globals(command);
  const json = {
    checkpoints: entries.map(entryJson),
    unreadable: unreadable.map((found) => ({
      uri: found.uri,
      error: { code: found.error.code, message: found.error.message },
    })),
  };
  show(output, json, () =>
    entries.length === 0 ? `No committed checkpoint in ${dir}` : entryTable(entries),
  );
  if (output.json) return;
  for (const found of unreadable) process.stderr.write(`warning: ${found.uri}: ${found.error.message}\n`);
}

function entryTable(entries: readonly CheckpointEntry[]): string {
  return table(
    ["STEP", "GENERATION", "LAYOUT", "SIZE", "COMMITTED", "LINE", "FOLDER"],
    entries.map((e) => [
      e.step,
      e.state.generation,
      String(new Layout(e.layout)),
      bytes(e.bytes),
      e.committedAt,
      e.current ? "current" : "given up",
      e.uri,
    ]),
  );
}

interface InspectOptions extends StepOption {
  intervals?: boolean;
  all?: boolean;
}

async function inspect(dir: string, options: InspectOptions, command: Command): Promise<void> {
  const report = await inspectCheckpoint(checkpointUri(dir), chosenStep(dir, options));
  show(globals(command), inspectJson(report), () => inspectText(report, options));
}

function inspectText(report: InspectReport, options: InspectOptions): string {
  const { meta, tensors, files, intervals } = report;
  const shown = options.all ? tensors : tensors.slice(0, 40);
  const parent = meta.parent ? `step ${meta.parent.step} of generation ${meta.parent.generation}` : "none";
  const parts = [
    fields([
      ["checkpoint", report.uri],
      ["state", `step ${meta.state.step} of generation ${meta.state.generation}`],
      ["parent", parent],
      ["layout", String(new Layout(meta.layout))],
      ["committed", report.committedAt],
      ["size", `${bytes(report.bytes)}, ${report.elementCount} elements, ${files.length} files`],
      ["data digest", meta.dataDigest],
      ["code version", meta.version],
    ]),
    table(
      ["TENSOR", "SHAPE", "SIZE", "INTERVALS"],
      shown.map((t) => [t.name, t.shape.join(" x "), bytes(t.bytes), t.intervalCount]),
    ),
  ];
  if (shown.length < tensors.length) parts.push(`... and ${tensors.length - shown.length} more (--all)`);
  parts.push(
    table(
      ["FILE", "WRITER", "SIZE", "INTERVALS"],
      files.map((f) => [f.name, f.writer, bytes(f.bytes), f.intervalCount]),
    ),
  );
  if (options.intervals) {
    parts.push(
      table(
        ["TENSOR", "START", "LENGTH", "FILE", "OFFSET", "CHUNKS"],
        intervals.map((i) => [i.tensor, i.start, i.length, i.file, i.offset, i.chunkCount]),
      ),
    );
  }
  return parts.join("\n\n");
}

async function verify(dir: string, options: StepOption, command: Command): Promise<void> {
  const output = globals(command);
  const step = chosenStep(dir, options);
  const report = await new ByteProgress(output).during((onProgress) =>
    verifyCheckpoint(checkpointUri(dir), onProgress, step),
  );
  show(output, verifyJson(report), () =>
    report.bad.length === 0
      ? `${report.uri}: whole, ${bytes(report.bytes)} in ${report.chunkCount} chunks of at most 1 MiB agree with their digests`
      : table(
          ["FILE", "TENSOR", "MIB", "OFFSET", "WHAT"],
          report.bad.map((b) => [b.file, b.tensor ?? "-", b.chunk, b.offset, b.reason]),
        ),
  );
  if (report.bad.length > 0) {
    throw new GokuError(
      "CHECKPOINT_CORRUPT",
      `Cannot trust ${report.uri}: ${report.bad.length} of ${report.chunkCount} chunks are bad; resume from an older step (gokuctl ckpt ls)`,
    );
  }
}
