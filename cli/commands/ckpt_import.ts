import type { Command } from "commander";
import { importCheckpoint, mismatch, type WeightFault, weightFaults } from "../../checkpoint/import.js";
import { openWeights, type Weights } from "../../checkpoint/open_weights.js";
import type { StateMeta } from "../../checkpoint/state.js";
import { openStorage } from "../../checkpoint/storage/storage.js";
import { requireEmptyRun } from "../../checkpoint/write_checkpoint.js";
import { absolutePaths } from "../../job/absolute_paths.js";
import { type Job, modelConfig } from "../../job/job.js";
import { Layout } from "../../job/layout.js";
import { nothingSeen } from "../../job/spikes.js";
import { codeVersion, productRevision, productVersion } from "../../job/version.js";
import { ByteProgress } from "../byte_progress.js";
import { committedJson } from "../ckpt_json.js";
import { type GlobalOptions, globals } from "../context.js";
import { checkData, dataLine } from "../data_report.js";
import { bytes, fields, show, table } from "../output.js";
import { collect, readJob } from "../read_options.js";

/** Before the first step; as that of initial values, of which no generation is older. */
const IMPORTED = { generation: "0", step: 0 };

interface ImportCommandOptions {
  job: string;
  set: string[];
}

export function addCkptImportCommand(ckpt: Command): void {
  ckpt
    .command("import")
    .description("make a checkpoint of step 0 from weights in safetensors, to train on from them")
    .argument(
      "<source...>",
      "an exported folder, a folder of safetensors with or without index, or such files",
    )
    .requiredOption("--job <file>", "job file: its model must be that of the weights")
    .option("--set <key=value>", "change a key of the job", collect, [])
    .addHelpText(
      "after",
      `
Model and averaged weights become the imported ones (F32, F16 or BF16), Adam's moments zero. The checkpoint goes to the job's
checkpoint.uri, which must hold none. Every tensor of the model must be there under its name and in its shape, and no other;
what does not fit is listed and nothing is written.

Example:
  gokuctl ckpt import ./shapes-bf16 --job examples/shapes.yaml --set checkpoint.uri=file://./runs/tuned
  gokuctl resume --ckpt ./runs/tuned --local 1x2`,
    )
    .action(importWeights);
}

async function importWeights(
  sources: string[],
  options: ImportCommandOptions,
  command: Command,
): Promise<void> {
  const output = globals(command);
  const job = absolutePaths(readJob(options.job, options.set), process.cwd());
  const storage = openStorage(job.checkpoint.uri);
  await requireEmptyRun(storage, IMPORTED.step);
  const model = modelConfig(job);
  const weights = await openWeights(sources);
  try {
    refuseFaults(weightFaults(weights, model), output);
    const layout = layoutOf(job);
    const meta = await initialMeta(job, layout, output);
    const result = await new ByteProgress(output).during((onProgress) =>
      importCheckpoint({ weights, model, meta, layout, storage, onProgress }),
    );
    show(output, committedJson(result, layout), () =>
      fields([
        ["checkpoint", result.uri],
        ["weights", `${weightsLine(weights)}, as model and as averaged weights`],
        ["size", bytes(result.bytes)],
        ["resume", `gokuctl resume --ckpt ${storage.uri.replace("file://", "")}`],
      ]),
    );
  } finally {
    await weights.close();
  }
}

/** All of them, for the reader; the error is one line. */
function refuseFaults(faults: readonly WeightFault[], output: GlobalOptions): void {
  if (faults.length === 0) return;
  show(output, { faults }, () =>
    table(
      ["NAME", "WHAT", "FOUND", "WANT"],
      faults.map(({ name, what, found, want }) => [
        JSON.stringify(name).slice(1, -1),
        what,
        found ?? "-",
        want ?? "-",
      ]),
    ),
  );
  throw mismatch(faults);
}

/** Nothing was computed by any layout yet: the job's own, or the smallest. */
function layoutOf({ layout }: Job): Layout {
  return new Layout(layout === "auto" ? { dp_replicate: 1, dp_shard: 1, sp: 1 } : layout);
}

/** As a rank makes it for initial values: data index and codec statistics are those of the job's media. */
async function initialMeta(job: Job, layout: Layout, output: GlobalOptions): Promise<StateMeta> {
  const report = await checkData(job, output);
  if (!output.json) process.stderr.write(`Data: ${dataLine(report)}\n`);
  const { buildIndex } = await import("../../worker/data/build_index.js"); // decoders, which no other command needs
  const { index } = await buildIndex({ job, model: modelConfig(job) });
  return {
    state: IMPORTED,
    parent: null,
    job,
    layout: layout.size,
    adamStep: 0,
    dataDigest: index.digest,
    codec: index.codec,
    exclusions: [],
    leftOut: [],
    numbers: nothingSeen(),
    version: codeVersion(productVersion(), productRevision()),
  };
}

function weightsLine(weights: Weights): string {
  const entries = weights.entries();
  const dtypes = [...new Set(entries.map(({ dtype }) => dtype))].join(", ");
  return `${entries.length} tensors of ${dtypes}`;
}
