import path from "node:path";
import type { Command } from "commander";
import { previewJson } from "../../controller/api/json.js";
import type { Preview } from "../../gen/goku/v1/controller.pb.js";
import { GokuError, toGokuError } from "../../job/errors.js";
import { writeWhole } from "../../worker/media/write_whole.js";
import type { ControllerClient } from "../client.js";
import { withController } from "../context.js";
import { bytes, counted, show, table } from "../output.js";
import { wholeNumber } from "../read_options.js";

interface PreviewsOptions {
  step?: string;
  out?: string;
}

export function addPreviewsCommand(program: Command): void {
  program
    .command("previews")
    .description("list the pictures drawn while a job trains (sample.every_steps), or fetch their files")
    .argument("[job]", "job name; the newest when left out", "")
    .option("--step <step>", "only that of this step")
    .option("--out <dir>", "fetch the files of the newest, or of --step, into this folder")
    .addHelpText("after", "\nExample:\n  gokuctl previews shapes --step 200 --out ./previews")
    .action(previews);
}

function previews(job: string, options: PreviewsOptions, command: Command): Promise<void> {
  const step = options.step === undefined ? null : wholeNumber("--step", options.step);
  return withController(command, async (client, output) => {
    const listed = (await client.call("listPreviews", { job })).previews;
    const chosen = step === null ? listed : listed.filter(({ state }) => Number(state?.step) === step);
    if (chosen.length === 0 && (step !== null || options.out !== undefined))
      throw new GokuError("NOT_FOUND", `Cannot find ${wanted(step)}: ${found(listed)}`);
    if (options.out === undefined) {
      show(output, { previews: chosen.map(previewJson) }, () => previewsTable(chosen));
      return;
    }
    const preview = chosen.at(-1)!;
    const files = await fetchFiles(client, { job, preview, folder: options.out });
    show(output, { preview: previewJson(preview), files }, () => `Wrote ${files.join(", ")}`);
  });
}

function wanted(step: number | null): string {
  return step === null ? "a preview" : `a preview of step ${step}`;
}

function found(previews: readonly Preview[]): string {
  if (previews.length === 0) return "none is there yet, want a job with sample.every_steps above 0";
  const steps = previews.slice(-5).map(({ state }) => state?.step);
  return `there are those of steps ${steps.join(", ")}`;
}

/** Under the names that the preview gives them, which are plain. */
async function fetchFiles(
  client: ControllerClient,
  { job, preview, folder }: { job: string; preview: Preview; folder: string },
): Promise<string[]> {
  const written: string[] = [];
  for (const { name } of preview.files) {
    const data = await client.previewFile({ job, step: preview.state?.step ?? 0n, name });
    const file = path.join(folder, `step-${preview.state?.step}-${path.basename(name)}`);
    await writeWhole(file, data).catch((error: unknown) => {
      throw toGokuError(error, "STORAGE_FAILED");
    });
    written.push(file);
  }
  return written;
}

function previewsTable(previews: readonly Preview[]): string {
  if (previews.length === 0) return "No preview so far";
  const rows = previews.map(({ state, prompts, seed, width, height, frames, files, uri }) => [
    String(state?.step),
    counted(prompts.length, "prompt"),
    `${width}x${height}${frames > 1 ? `x${frames}` : ""}`,
    String(seed),
    bytes(files.reduce((sum, file) => sum + Number(file.bytes), 0)),
    uri,
  ]);
  return table(["STEP", "PICTURES", "SIZE", "SEED", "BYTES", "FOLDER"], rows);
}
