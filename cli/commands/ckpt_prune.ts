import type { Command } from "commander";
import { findCheckpoint, listCheckpoints, splitCheckpointUri } from "../../checkpoint/load.js";
import { type PrunePlan, planPrune, prune as pruneRun } from "../../checkpoint/retention.js";
import { GokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import { pruneJson } from "../ckpt_json.js";
import { globals } from "../context.js";
import { bytes, show, table } from "../output.js";
import { checkpointUri, requireFolder, wholeNumber } from "../read_options.js";

/** Of the job schema, for a run whose newest checkpoint says nothing else. */
const KEEP_LAST = 3;

/** No generation is older: what is not committed may be being written by a run that we do not know, and stays. */
const GENERATION_UNKNOWN = "0";

interface PruneCommandOptions {
  keepLast?: string;
  keepEvery?: string;
  dryRun?: boolean;
}

export function addCkptPruneCommand(ckpt: Command): void {
  ckpt
    .command("prune")
    .description("delete checkpoints that retention does not keep, and say why each goes or stays")
    .argument("<dir>", "folder of the run (checkpoint.uri of its job)")
    .option(
      "--keep-last <n>",
      "newest of the current line that stay, 1 or more (default: as the run's job says)",
    )
    .option("--keep-every <m>", "steps of it that stay: multiples of m (default: as the run's job says)")
    .option("--dry-run", "say what would go, delete nothing")
    .addHelpText(
      "after",
      `
The newest checkpoint always stays, and so do files of saves that are not committed, since a job may be writing them, and
whatever has a damaged commit record. A job that trains recovers from memory or from the newest; older ones are what it falls
back to where that cannot be read. One case cannot be seen from here, so it is assumed not to be: a job that is being resumed
from an older checkpoint needs that one until it has committed its own.

Example:
  gokuctl ckpt prune ./runs/shapes --keep-last 2 --keep-every 1000 --dry-run`,
    )
    .action(prune);
}

async function prune(dir: string, options: PruneCommandOptions, command: Command): Promise<void> {
  const output = globals(command);
  const uri = checkpointUri(dir);
  if (splitCheckpointUri(uri).step !== null) {
    const found = `${dir} is one checkpoint, want the folder of its run`;
    throw new GokuError("ARGUMENT_INVALID", `Cannot prune: ${found}`);
  }
  const asked = {
    keepLast: wholeOption("--keep-last", options.keepLast),
    keepEvery: wholeOption("--keep-every", options.keepEvery),
  };
  requireFolder("prune checkpoints of", dir, uri);
  const choice = { uri, ...(await choose(uri, asked)) };
  const plan = await planPrune(choice);
  const result = options.dryRun ? null : await pruneRun({ ...choice, generation: GENERATION_UNKNOWN });
  show(output, pruneJson(plan, result), () => {
    if (plan.entries.length + plan.damaged.length === 0) return `No committed checkpoint in ${dir}`;
    const freed = plan.entries.filter(({ step }) => plan.remove.some((each) => each.step === step));
    const size = bytes(result?.removedBytes ?? freed.reduce((sum, entry) => sum + entry.bytes, 0));
    const done = result ? "Deleted" : "Would delete";
    const rest = result ? "" : "; nothing was deleted (--dry-run)";
    const count = `${plan.remove.length} of ${plan.entries.length} checkpoints`;
    return `${planTable(plan)}\n\n${done} ${count}, ${size}${rest}`;
  });
}

function wholeOption(option: string, text: string | undefined): number | null {
  return text === undefined ? null : wholeNumber(option, text, { least: 1 });
}

/** What is not asked for is as in the job of the newest checkpoint, whose agents delete by it anyway. */
async function choose(
  uri: string,
  asked: { keepLast: number | null; keepEvery: number | null },
): Promise<{ keepLast: number; keepEvery: number | null }> {
  const newest = (await listCheckpoints(uri))[0];
  const job = newest === undefined ? null : (await findCheckpoint(uri, newest.state)).record.meta.job;
  const own = (job as Partial<Job> | null)?.checkpoint;
  return {
    keepLast: asked.keepLast ?? wholeOrNull(own?.keep_last) ?? KEEP_LAST,
    keepEvery: asked.keepEvery ?? wholeOrNull(own?.keep_every),
  };
}

/** A job in a checkpoint is of any version, or of strangers. */
function wholeOrNull(value: unknown): number | null {
  return Number.isSafeInteger(value) && (value as number) >= 1 ? (value as number) : null;
}

function planTable({ entries, keep, remove, damaged }: PrunePlan): string {
  const size = (step: number) =>
    bytes(entries.filter((entry) => entry.step === step).reduce((sum, entry) => sum + entry.bytes, 0));
  const rows = [
    ...keep.map(({ step, reason }) => ({ step, row: [step, size(step), "stays", reason] })),
    ...remove.map(({ step, reason }) => ({ step, row: [step, size(step), "goes", reason] })),
    ...damaged.map((step) => ({ step, row: [step, "-", "stays", "its commit record is damaged: evidence"] })),
  ];
  return table(
    ["STEP", "SIZE", "WHAT", "WHY"],
    rows.sort((a, b) => b.step - a.step).map(({ row }) => row),
  );
}
