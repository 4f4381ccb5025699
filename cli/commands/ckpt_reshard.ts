import type { Command } from "commander";
import { openCheckpoint } from "../../checkpoint/load.js";
import { reshardCheckpoint } from "../../checkpoint/reshard.js";
import { openStorage } from "../../checkpoint/storage/storage.js";
import { Layout } from "../../job/layout.js";
import { ByteProgress } from "../byte_progress.js";
import { chosenStep, STEP, type StepOption } from "../chosen_step.js";
import { committedJson } from "../ckpt_json.js";
import { globals } from "../context.js";
import { bytes, fields, show } from "../output.js";
import { checkpointUri } from "../read_options.js";

interface ReshardOptions extends StepOption {
  layout: string;
  out: string;
}

export function addCkptReshardCommand(ckpt: Command): void {
  ckpt
    .command("reshard")
    .description("write a checkpoint once more, with the files that another layout would have written")
    .argument("<dir>", "folder of a run (its newest checkpoint) or one checkpoint-<step> folder")
    .option("--step <step>", STEP)
    .requiredOption("--layout <RxSxU>", "dp_replicate x dp_shard x sp: one file for each rank of it")
    .requiredOption("--out <run>", "folder of a run without checkpoints")
    .addHelpText(
      "after",
      `
Any layout resumes from any checkpoint as it is; this is for those who want a file for each writer. The state keeps its name,
and every tensor its bits (gokuctl ckpt diff says so).

Example:
  gokuctl ckpt reshard ./runs/shapes --layout 1x8x1 --out ./runs/shapes-8`,
    )
    .action(reshard);
}

async function reshard(dir: string, options: ReshardOptions, command: Command): Promise<void> {
  const output = globals(command);
  const layout = Layout.parse(options.layout);
  const checkpoint = await openCheckpoint(checkpointUri(dir), chosenStep(dir, options));
  const storage = openStorage(checkpointUri(options.out));
  const result = await new ByteProgress(output).during((onProgress) =>
    reshardCheckpoint({ checkpoint, layout, storage, onProgress }),
  );
  show(output, committedJson(result, layout), () =>
    fields([
      ["checkpoint", result.uri],
      ["state", `step ${result.state.step} of generation ${result.state.generation}, as before`],
      ["files", `of ${layout.worldSize} writers, layout ${layout}`],
      ["size", bytes(result.bytes)],
      ["resume", `gokuctl resume --ckpt ${options.out} --set checkpoint.uri=${storage.uri}`],
    ]),
  );
}
