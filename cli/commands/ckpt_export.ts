import path from "node:path";
import type { Command } from "commander";
import { EXPORT_DTYPES, type ExportDtype, exportCheckpoint } from "../../checkpoint/export.js";
import { openCheckpoint } from "../../checkpoint/load.js";
import { ByteProgress } from "../byte_progress.js";
import { chosenStep, STEP, type StepOption } from "../chosen_step.js";
import { globals } from "../context.js";
import { bytes, fields, show } from "../output.js";
import { byteSize, checkpointUri, oneWord } from "../read_options.js";

interface ExportCommandOptions extends StepOption {
  out: string;
  weights: string;
  dtype: string;
  maxShardBytes: string;
}

export function addCkptExportCommand(ckpt: Command): void {
  ckpt
    .command("export")
    .description("write the weights of a checkpoint as a folder in the style of diffusers")
    .argument("<dir>", "folder of a run (its newest checkpoint) or one checkpoint-<step> folder")
    .option("--step <step>", STEP)
    .requiredOption("--out <folder>", "folder to be made; must not exist, or be empty")
    .option("--weights <which>", "ema: the averaged weights, which sample best; model: the raw ones", "ema")
    .option("--dtype <dtype>", "f32, or bf16 (half the size, rounded to nearest even)", "f32")
    .option("--max-shard-bytes <size>", "split into files of at most that much, for example 500MB", "5GB")
    .addHelpText(
      "after",
      `
The folder holds model_index.json, transformer/ (config.json and safetensors, with an index where there are several files),
scheduler/ (time distribution and shift) and vae/ (the codec with its latent statistics). It appears when it is complete.
gokuctl ckpt import takes it back.

Example:
  gokuctl ckpt export ./runs/shapes --out ./shapes-bf16 --dtype bf16`,
    )
    .action(exportFolder);
}

async function exportFolder(dir: string, options: ExportCommandOptions, command: Command): Promise<void> {
  const output = globals(command);
  const weights = oneWord("--weights", options.weights, ["ema", "model"]);
  const dtype = oneWord("--dtype", options.dtype, Object.keys(EXPORT_DTYPES) as ExportDtype[]);
  const shardBytesMax = byteSize("--max-shard-bytes", options.maxShardBytes);
  const checkpoint = await openCheckpoint(checkpointUri(dir), chosenStep(dir, options));
  const folder = path.resolve(options.out);
  const result = await new ByteProgress(output).during((onProgress) =>
    exportCheckpoint({ checkpoint, folder, weights, dtype, shardBytesMax, onProgress }),
  );
  const { generation, step } = checkpoint.meta.state;
  const json = { ...result, uri: checkpoint.uri, generation: Number(generation), step, weights, dtype };
  show(output, json, () =>
    fields([
      ["exported", result.folder],
      ["from", `${checkpoint.uri} (step ${step})`],
      ["weights", `${weights} in ${dtype}, ${bytes(result.bytes)}`],
      ["files", result.files.join("\n          ")],
    ]),
  );
}
