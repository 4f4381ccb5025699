import type { Command } from "commander";
import { inspectCheckpoint } from "../../checkpoint/inspect.js";
import { listCheckpoints } from "../../checkpoint/load.js";
import { verifyCheckpoint } from "../../checkpoint/verify.js";
import { GokuError } from "../../job/errors.js";
import { globals } from "../context.js";
import { bar, bytes, fields, show, table } from "../output.js";
import { wholeNumber } from "./jobs.js";
import { checkpointUri } from "./train.js";

/** Commands that read checkpoints directly; none needs a controller. */
export function addCheckpointCommands(program: Command): void {
  const ckpt = program.command("ckpt").description("list, inspect and verify checkpoints");

  ckpt
    .command("ls")
    .description("committed checkpoints of a run, newest first")
    .argument("<dir>", "folder of the run (checkpoint.uri of its job)")
    .action(async (dir: string, _options, command: Command) => {
      const unreadable: { uri: string; error: Error }[] = [];
      const entries = await listCheckpoints(checkpointUri(dir), (found) => unreadable.push(found));
      show(globals(command), { checkpoints: entries }, () =>
        entries.length === 0
          ? `No committed checkpoint in ${dir}`
          : table(
              ["STEP", "GENERATION", "LAYOUT", "SIZE", "COMMITTED", "LINE", "FOLDER"],
              entries.map((e) => [
                e.step,
                e.state.generation,
                layoutText(e.layout),
                bytes(e.bytes),
                e.committedAt,
                e.current ? "current" : "given up",
                e.uri,
              ]),
            ),
      );
      for (const { uri, error } of unreadable) process.stderr.write(`warning: ${uri}: ${error.message}\n`);
    });

  ckpt
    .command("inspect")
    .description("tensors, files and the state's facts, without reading tensor data")
    .argument("<dir>", "folder of a run (its newest checkpoint) or one checkpoint-<step> folder")
    .option("--step <step>", "that step instead of the newest")
    .option("--intervals", "every interval: which file holds which elements")
    .option("--all", "every tensor instead of the first 40")
    .action(
      async (
        dir: string,
        options: { step?: string; intervals?: boolean; all?: boolean },
        command: Command,
      ) => {
        const step = options.step === undefined ? null : wholeNumber("--step", options.step);
        const report = await inspectCheckpoint(checkpointUri(dir), step);
        show(globals(command), report, () => {
          const r = report;
          const most = options.all ? Number.POSITIVE_INFINITY : 40;
          const tensors = r.tensors.slice(0, most);
          const parts = [
            fields([
              ["checkpoint", r.uri],
              ["state", `step ${r.meta.state.step} of generation ${r.meta.state.generation}`],
              [
                "parent",
                r.meta.parent
                  ? `step ${r.meta.parent.step} of generation ${r.meta.parent.generation}`
                  : "none",
              ],
              ["layout", layoutText(r.meta.layout)],
              ["committed", r.committedAt],
              ["size", `${bytes(r.bytes)}, ${r.elementCount} elements, ${r.files.length} files`],
              ["data digest", r.meta.dataDigest],
              ["version", r.meta.version],
            ]),
            table(
              ["TENSOR", "SHAPE", "SIZE", "INTERVALS"],
              tensors.map((t) => [t.name, t.shape.join(" x "), bytes(t.bytes), t.intervalCount]),
            ),
          ];
          if (tensors.length < r.tensors.length)
            parts.push(`... and ${r.tensors.length - tensors.length} more (--all)`);
          parts.push(
            table(
              ["FILE", "WRITER", "SIZE", "INTERVALS"],
              r.files.map((f) => [f.name, f.writer, bytes(f.bytes), f.intervalCount]),
            ),
          );
          if (options.intervals) {
            parts.push(
              table(
                ["TENSOR", "START", "LENGTH", "FILE", "OFFSET", "CHUNKS"],
                r.intervals.map((i) => [i.tensor, i.start, i.length, i.file, i.offset, i.chunkCount]),
              ),
            );
          }
          return parts.join("\n\n");
        });
      },
    );

  ckpt
    .command("verify")
    .description("read every byte of a checkpoint and compare it with its digests")
    .argument("<dir>", "folder of a run (its newest checkpoint) or one checkpoint-<step> folder")
    .action(async (dir: string, _options, command: Command) => {
      const live = process.stderr.isTTY === true;
      const started = performance.now();
      const report = await verifyCheckpoint(checkpointUri(dir), ({ bytesDone, bytesTotal }) => {
        if (!live) return;
        const rate = bytesDone / Math.max(1e-3, (performance.now() - started) / 1000);
        process.stderr.write(
          `\r\x1b[2K${bar(bytesDone / Math.max(1, bytesTotal))} ${bytes(bytesDone)} of ${bytes(bytesTotal)}  ${bytes(Math.round(rate))}/s`,
        );
      });
      if (live) process.stderr.write("\r\x1b[2K");
      show(globals(command), report, () =>
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
    });
}

function layoutText(layout: { dp_replicate: number; dp_shard: number; sp: number }): string {
  return `${layout.dp_replicate}x${layout.dp_shard}x${layout.sp}`;
}
