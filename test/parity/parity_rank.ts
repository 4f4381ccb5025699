/** One rank of a parity run: a process of its own, forked by run_parity.ts. */
import path from "node:path";
import { Layout } from "../../job/layout.js";
import { patchSize } from "../../job/parameters.js";
import { shardPieces } from "../../job/sharding.js";
import type { PackBatch, StepPlan } from "../../worker/data/pack_batch.js";
import type { Native } from "../../worker/engine/native.js";
import { readFloats, type Tensor, writeFloats } from "../../worker/engine/tensor.js";
import type { NumberSource } from "../../worker/model/local_pack.js";
import { packShape } from "../../worker/model/pack_context.js";
import { PAGE_BYTES } from "../../worker/pages.js";
import { closeGroups, createGroups, type Groups } from "../../worker/parallel/groups.js";
import { type ShardUnit, Trainer } from "../../worker/parallel/trainer.js";
import { Progress } from "../../worker/progress.js";
import { ORDINARY_FLAGS } from "../support/ordinary_flags.js";
import { type RankPlace, serveRank } from "../support/rank_process.js";
import { PARITY_STEPS, type ParityCase, parityJob, readParityCase } from "./parity_case.js";

/** How a case is to be computed. */
export interface ParityRun {
  /** CASE.safetensors. */
  path: string;
  /** All samples in one pack, or every sample its own. */
  packs: "one" | "each";
  bf16: boolean;
  recompute: "none" | "full";
}

/** The ranks that compute, one case after another. */
export interface ParityWorld {
  /** "RxSxU". */
  layout: string;
  transport: "auto" | "tcp";
}

export interface ParityTask extends ParityWorld {
  runs: readonly ParityRun[];
  /** Folder for the shared pages. */
  folder: string;
}

/** The packs of a step as the data side would give them: all samples in one pack, or each its own. */
function stepPacks(
  parityCase: ParityCase,
  packs: ParityRun["packs"],
): { batches: PackBatch[]; firstTokens: number[] } {
  const { grids, textLengths, model } = parityCase;
  const P = patchSize(model);
  const whole = packShape(grids, textLengths);
  const data = parityCase.tensor("data");
  const text = parityCase.tensor("text");
  const groups = packs === "one" ? [grids.map((_, i) => i)] : grids.map((_, i) => [i]);
  const batches = groups.map((samples, packIndex): PackBatch => {
    const first = samples[0]!;
    const end = samples.at(-1)! + 1;
    return {
      packIndex,
      grids: samples.map((i) => grids[i]!),
      textLengths: samples.map((i) => textLengths[i]!),
      data: data.subarray(whole.packOffsets[first]! * P, whole.packOffsets[end]! * P),
      text: text.subarray(
        whole.textOffsets[first]! * model.text_width,
        whole.textOffsets[end]! * model.text_width,
      ),
      places: samples,
      weights: samples.map(() => 1),
      samples: samples.map((i) => `sample ${i}`),
    };
  });
  return { batches, firstTokens: groups.map((samples) => whole.packOffsets[samples[0]!]!) };
}

/** Noise, time and reference of the case instead of drawn ones. */
function caseNumbers(parityCase: ParityCase, firstTokens: readonly number[]): NumberSource {
  const time = parityCase.tensor("time");
  const noise = parityCase.tensor("noise");
  const reference = parityCase.model.reference_frame ? parityCase.tensor("reference") : null;
  return (batch) => {
    const first = firstTokens[batch.packIndex]!;
    return {
      time: Float32Array.from(batch.places, (place) => time[place]!),
      textLengths: batch.textLengths,
      text: batch.text,
      noise: (arena, { local }, P) => {
        const start = (first + local.start) * P;
        return arena.from(noise.subarray(start, start + local.length * P), "f32", local.length, P);
      },
      reference: () => {
        const P = patchSize(parityCase.model);
        const tokens = batch.data.length / P;
        return reference!.subarray(first * P, (first + tokens) * P);
      },
    };
  };
}

/** Fills the shards from `param.<name>`: ema the same, moments zero. */
function loadState(
  native: Native,
  trainer: Trainer,
  parityCase: ParityCase,
  layout: Layout,
  rank: number,
): void {
  const shards = new Map(trainer.shards.map((shard) => [shard.unit.name, shard]));
  for (const piece of shardPieces(
    trainer.shards.map(({ unit }) => unit),
    layout,
    rank,
  )) {
    const values = parityCase
      .tensor(`param.${piece.parameter}`)
      .subarray(piece.start, piece.start + piece.length);
    const shard = shards.get(piece.unit)!;
    writeFloats(native, shard.model, piece.shardOffset, values);
    writeFloats(native, shard.ema, piece.shardOffset, values);
  }
  for (const shard of trainer.shards) {
    if (shard.range.length === 0) continue;
    native.tensorFill(shard.adam_m.id, 0);
    native.tensorFill(shard.adam_v.id, 0);
  }
  trainer.restored();
}

/** One kind of tensor of every shard of this rank, by parameter; nothing on other replicas than the first. */
function shardValues(
  native: Native,
  trainer: Trainer,
  task: { layout: Layout; rank: number },
  prefix: string,
  pick: (shard: ShardUnit) => Tensor,
): Piece[] {
  if (task.layout.coordinates(task.rank).replica > 0) return [];
  const shards = new Map(trainer.shards.map((shard) => [shard.unit.name, shard]));
  const units = trainer.shards.map(({ unit }) => unit);
  return shardPieces(units, task.layout, task.rank).map((piece) => ({
    name: `${prefix}.${piece.parameter}`,
    start: piece.start,
    values: readFloats(native, pick(shards.get(piece.unit)!), piece.shardOffset, piece.length),
  }));
}

/** Numbers [start, start + values.length) of a named run. */
export interface Piece {
  name: string;
  start: number;
  values: Float32Array;
}

export interface ParityResult {
  losses: number[];
  norms: number[];
  pieces: Piece[];
  /** Tensor bytes alive after the steps, less those before. */
  leakedBytes: number;
}

async function train(task: ParityTask, { native, rank, members }: RankPlace): Promise<ParityResult[]> {
  const layout = Layout.parse(task.layout);
  const pages = ["control", "progress"].map((name) =>
    native.pageMap(path.join(task.folder, `${name}.${rank}`), PAGE_BYTES),
  ) as [Uint8Array, Uint8Array];
  const groups: Groups = await createGroups(native, {
    job: path.basename(task.folder),
    generation: 1n,
    layout,
    rank,
    members,
    abortPage: pages[0],
    progressPage: pages[1],
    timeoutMs: 60_000,
    transport: task.transport,
  });
  const results: ParityResult[] = [];
  for (const run of task.runs) {
    const parityCase = await readParityCase(run.path);
    results.push(
      trainCase(native, { run, parityCase, layout, rank, groups, progress: new Progress(pages[1]) }),
    );
  }
  closeGroups(native, groups);
  for (const page of pages) native.pageUnmap(page);
  return results;
}

interface CaseRun {
  run: ParityRun;
  parityCase: ParityCase;
  layout: Layout;
  rank: number;
  groups: Groups;
  progress: Progress;
}

function trainCase(native: Native, options: CaseRun): ParityResult {
  const { run, parityCase, layout, rank, groups, progress } = options;
  const { model } = parityCase;
  const P = patchSize(model);
  const { batches, firstTokens } = stepPacks(parityCase, run.packs);
  const result: ParityResult = { losses: [], norms: [], pieces: [], leakedBytes: 0 };
  const sequence = { parts: layout.sp, index: layout.coordinates(rank).sequence };
  const trainer = new Trainer({
    native,
    job: parityJob(parityCase, run),
    model,
    layout,
    rank,
    groups,
    progress,
    emptyText: { length: 1, data: new Float32Array(model.text_width) },
    numbers: caseNumbers(parityCase, firstTokens),
    onVelocity: (slot, values) => {
      if (result.losses.length > 0) return;
      const { local } = packShape(batches[slot]!.grids, batches[slot]!.textLengths, sequence);
      result.pieces.push({ name: "velocity", start: (firstTokens[slot]! + local.start) * P, values });
    },
  });
  loadState(native, trainer, parityCase, layout, rank);
  const liveBytes = native.memoryStats().liveBytes;
  const read = (prefix: string, pick: (shard: ShardUnit) => Tensor) =>
    result.pieces.push(...shardValues(native, trainer, { layout, rank }, prefix, pick));
  const mine = batches.filter((_, slot) => slot % layout.dataRankCount === layout.dataRank(rank));
  for (let step = 1; step <= PARITY_STEPS; step++) {
    trainer.computeStep({ step, plan: stepPlan(step, parityCase, batches), packs: mine, moved: 0 });
    const vote = trainer.vote(step, ORDINARY_FLAGS);
    if (step === 1) read("grad", (shard) => shard.gradient!);
    trainer.apply(step, vote);
    result.losses.push(vote.loss);
    result.norms.push(vote.gradNorm);
  }
  read("after", (shard) => shard.model);
  read("ema", (shard) => shard.ema);
  result.leakedBytes = native.memoryStats().liveBytes - liveBytes;
  trainer.close();
  return result;
}

function stepPlan(step: number, parityCase: ParityCase, batches: readonly PackBatch[]): StepPlan {
  const tokens = (grids: PackBatch["grids"]) => grids.reduce((sum, [t, y, x]) => sum + t * y * x, 0);
  const videos = parityCase.grids.filter(([t]) => t > 1).length;
  return {
    step,
    packs: batches.map(({ packIndex, samples, grids }) => ({ packIndex, samples, tokens: tokens(grids) })),
    sampleCount: parityCase.grids.length,
    tokens: tokens(parityCase.grids),
    images: parityCase.grids.length - videos,
    videos,
    fill: 1,
  };
}

serveRank(train);
