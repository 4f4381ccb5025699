import { GokuError } from "../job/errors.js";
import { type Job, modelConfig } from "../job/job.js";
import type { DataReport } from "../worker/data/pack_source.js";
import { bar, type Output } from "./output.js";

/** Reads a job's media as its ranks will, and keeps the index beside them, so that the ranks find it. Throws DATA_EMPTY. */
export async function checkData(job: Job, output: Output): Promise<DataReport> {
  const { reportData } = await import("../worker/data/pack_source.js"); // decoders, which no other command needs
  const live = process.stderr.isTTY === true && !output.json;
  const report = await reportData({
    job,
    model: modelConfig(job),
    onProgress: ({ done, total }) => {
      if (live) process.stderr.write(`\r\x1b[2K${bar(done / Math.max(1, total))} ${done} of ${total} files`);
    },
  });
  if (live) process.stderr.write("\r\x1b[2K");
  if (report.packsPerEpoch === 0) {
    throw new GokuError(
      "DATA_EMPTY",
      `Cannot train on ${job.data.media}: all ${report.samples} samples are longer than train.tokens_per_pack ${job.train.tokens_per_pack}, raise it`,
    );
  }
  return report;
}

/** One line: what there is to train on, how it fills the packs, and how much is left out. */
export function dataLine(report: DataReport): string {
  const { images, videos, packsPerEpoch, tokensPerPack, fill, leftOut } = report;
  const out = leftOut.length === 0 ? "" : `, ${leftOut.length} files left out`;
  return `${images} pictures, ${videos} clips${out}; ${packsPerEpoch} packs of ${tokensPerPack} tokens an epoch, ${(100 * fill).toFixed(0)} % full`;
}
