import { readFile } from "node:fs/promises";
import path from "node:path";
import {
  type PreviewContent,
  type PreviewFacts,
  prunePreviews,
  writePreview,
} from "../../checkpoint/previews.js";
import { openStorage } from "../../checkpoint/storage/storage.js";
import { GokuError } from "../../job/errors.js";
import { modelConfig } from "../../job/job.js";
import { previewSize } from "../../job/sample_spec.js";
import type { CodecRecord } from "../data/latents.js";
import type { RgbClip } from "../data/rgb_clip.js";
import type { Native } from "../engine/native.js";
import { Arena } from "../engine/tensor.js";
import { failpoint, setFailpointScope } from "../failpoints.js";
import { writeClip } from "../media/write_clip.js";
import { picturePng, sheetPng } from "../media/write_sheet.js";
import { WholeWeights } from "../model/whole_weights.js";
import type { FromPreview, ToPreview } from "../preview_messages.js";
import { Sampler } from "../sample/open_sampler.js";
import type { Picture } from "../tfevents.js";
import { boardTag, writeBoard } from "./board.js";
import { readWeights } from "./read_weights.js";

/**
 * One preview, from the shards in memory to the files beside the checkpoints: the very numbers that `gokuctl sample` draws
 * from the checkpoint of that step.
 * @param tell is told `read` once nothing of the job's memory is needed any more
 */
export async function drawPreview(
  order: ToPreview,
  native: Native,
  tell: (message: Extract<FromPreview, { kind: "read" }>) => void,
): Promise<Extract<FromPreview, { kind: "drawn" }>> {
  const begun = performance.now();
  const { job } = order;
  const { state } = order.source;
  const model = modelConfig(job);
  const arena = new Arena(native);
  setFailpointScope({ step: state.step, rank: 0 });
  failpoint("preview.read");
  const { tensors, meta } = await readWeights(arena, model, order);
  tell({ kind: "read", state });
  failpoint("preview.draw");
  const weights = new WholeWeights(model, ({ name }) => tensors.get(name)!);
  const sampler = new Sampler({ state, job, model, codec: meta.codec as CodecRecord, arena, weights });
  const size = previewSize(job);
  const { prompts, seed, steps, guidance, shift, keep_last: keepLast } = job.sample;
  const clips = await sampler.sample({
    requests: prompts.map((prompt) => ({ prompt, ...size })),
    seed,
    onProgress: () => requireBelow(order.bytesMax),
  });
  sampler.close();
  const { name } = job;
  const drawnAt = new Date();
  const how = { prompts, seed, steps, guidance, shift, ...size };
  const facts: PreviewFacts = { job: name, state, ...how, drawnAt: drawnAt.toISOString() };
  const storage = openStorage(job.checkpoint.uri);
  const { contents, pictures } = await contentsOf(order, clips);
  failpoint("preview.write");
  const { uri, files } = await writePreview(storage, facts, contents);
  await prunePreviews(storage, keepLast);
  await writeBoard(storage, { state, seconds: drawnAt.getTime() / 1000 }, pictures, keepLast);
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const seconds = (performance.now() - begun) / 1000;
  return { kind: "drawn", state, uri, bytes, seconds, peakBytes: 1024 * process.resourceUsage().maxRSS };
}

/**
 * A sheet of all pictures, clips frame by frame; and each picture or clip alone. For TensorBoard, which plays no clips, the
 * frames of each side by side.
 */
async function contentsOf(
  { job, scratch }: ToPreview,
  clips: readonly RgbClip[],
): Promise<{ contents: PreviewContent[]; pictures: Picture[] }> {
  const tiles = clips.map((clip, i) => ({ clip, caption: job.sample.prompts[i]! }));
  const contents: PreviewContent[] = [{ name: "sheet.png", bytes: await sheetPng(tiles) }];
  const pictures: Picture[] = [];
  for (const [i, clip] of clips.entries()) {
    const tag = boardTag(i, job.sample.prompts[i]!);
    if (clip.frames === 1) {
      const png = await picturePng(clip);
      contents.push({ name: `picture-${i + 1}.png`, bytes: png });
      pictures.push({ tag, png });
      continue;
    }
    pictures.push({ tag, png: await sheetPng([tiles[i]!]) });
    const name = `clip-${i + 1}.mp4`;
    const file = path.join(scratch, name);
    await writeClip(file, clip, { fps: job.data.fps });
    contents.push({ name, bytes: await readFile(file) });
  }
  return { contents, pictures };
}

/** Training needs its memory more: a plan that was too small ends the preview, not a rank. */
function requireBelow(bytesMax: number): void {
  const bytes = process.memoryUsage.rss();
  if (bytes <= bytesMax) return;
  throw new GokuError(
    "MEMORY_SHORT",
    `Cannot go on drawing: the process takes ${bytes} bytes, planned were ${bytesMax} at most`,
  );
}
