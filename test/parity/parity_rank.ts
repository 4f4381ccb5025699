/** One rank of a parity run: a process of its own, told what to do by run_parity.ts. */
import path from "node:path";
import { Layout } from "../../job/layout.js";
import { patchSize } from "../../job/parameters.js";
import { shardPieces } from "../../job/sharding.js";
import type { PackBatch, StepPlan } from "../../worker/data/pack_batch.js";
import { loadNative } from "../../worker/engine/load_native.js";
import type { CommEndpoint, Native } from "../../worker/engine/native.js";
import { readFloats, type Tensor, writeFloats } from "../../worker/engine/tensor.js";
import type { NumberSource } from "../../worker/model/local_pack.js";
import { packShape } from "../../worker/model/pack_context.js";
import { PAGE_BYTES } from "../../worker/pages.js";
import { closeGroups, createGroups, type Groups } from "../../worker/parallel/groups.js";
import { Trainer } from "../../worker/parallel/trainer.js";
import { Progress } from "../../worker/progress.js";
import { PARITY_STEPS, type ParityCase, parityJob, readParityCase } from "./parity_case.js";
import type { FromParityRank, Piece, RankTask, ToParityRank } from "./parity_messages.js";

const inbox: ToParityRank[] = [];
let wake: (() => void) | null = null;
process.on("message", (message) => {
  inbox.push(message as ToParityRank);
  wake?.();
});

async function receive<K extends ToParityRank["kind"]>(kind: K): Promise<Extract<ToParityRank, { kind: K }>> {
  while (inbox.length === 0) {
    await new Promise<void>((resolve) => {
      wake = resolve;
    });
  }
  const message = inbox.shift()!;
  if (message.kind !== kind) throw new Error(`Cannot go on: got message ${message.kind}, want ${kind}`);
  return message as Extract<ToParityRank, { kind: K }>;
}

function send(message: FromParityRank): Promise<void> {
  return new Promise((resolve) => process.send!(message, () => resolve()));
}

/** The packs of a step as the data side would give them: all samples in one pack, or each its own. */
function stepPacks(
  parityCase: ParityCase,
  packs: RankTask["packs"],
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
  pick: (shard: Trainer["shards"][number]) => Tensor,
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

async function train(native: Native, task: RankTask, members: CommEndpoint[]): Promise<void> {
  const layout = Layout.parse(task.layout);
  const parityCase = await readParityCase(task.path);
  const job = parityJob(parityCase, task);
  const { rank } = task;
  const pages = ["control", "progress"].map((name) =>
    native.pageMap(path.join(task.folder, `${name}.${rank}`), PAGE_BYTES),
  ) as [Uint8Array, Uint8Array];
  const groups: Groups = await createGroups(native, {
    job: `parity-${path.basename(task.folder)}`,
    generation: 1n,
    layout,
    rank,
    members,
    abortPage: pages[0],
    progressPage: pages[1],
    timeoutMs: 60_000,
    transport: task.transport,
  });
  const { batches, firstTokens } = stepPacks(parityCase, task.packs);
  const P = patchSize(parityCase.model);
  const pieces: Piece[] = [];
  let step = 0;
  const trainer = new Trainer({
    native,
    job,
    model: parityCase.model,
    layout,
    rank,
    groups,
    progress: new Progress(pages[1]),
    emptyText: { length: 1, data: new Float32Array(parityCase.model.text_width) },
    numbers: caseNumbers(parityCase, firstTokens),
    onVelocity: (slot, values) => {
      if (step > 1) return;
      const tokens = batches[slot]!.data.length / P;
      const { local } = packShape([[1, 1, tokens]], [0], {
        parts: layout.sp,
        index: layout.coordinates(rank).sequence,
      });
      pieces.push({ name: "velocity", start: (firstTokens[slot]! + local.start) * P, values });
    },
  });
  loadState(native, trainer, parityCase, layout, rank);
  const liveBytes = native.memoryStats().liveBytes;
  const losses: number[] = [];
  const norms: number[] = [];
  const read = (prefix: string, pick: (shard: Trainer["shards"][number]) => Tensor) =>
    pieces.push(...shardValues(native, trainer, { layout, rank }, prefix, pick));
  for (step = 1; step <= PARITY_STEPS; step++) {
    const plan: StepPlan = {
      step,
      packs: batches.map(({ packIndex, samples, data }) => ({ packIndex, samples, tokens: data.length / P })),
      sampleCount: parityCase.grids.length,
      tokens: parityCase.tensor("data").length / P,
      images: 0,
      videos: 0,
      fill: 1,
    };
    const mine = batches.filter((_, slot) => slot % layout.dataRankCount === layout.dataRank(rank));
    trainer.computeStep({ step, plan, packs: mine });
    const vote = trainer.vote(step, { snapshotWhole: true, slotFree: true, save: false, stop: false });
    if (step === 1) read("grad", (shard) => shard.gradient!);
    trainer.apply(step, vote);
    losses.push(vote.loss);
    norms.push(vote.gradNorm);
  }
  read("after", (shard) => shard.model);
  read("ema", (shard) => shard.ema);
  await send({ kind: "pieces", pieces });
  await send({ kind: "result", losses, norms, leakedBytes: native.memoryStats().liveBytes - liveBytes });
  trainer.close();
  closeGroups(native, groups);
  for (const page of pages) native.pageUnmap(page);
}

async function main(): Promise<void> {
  const { task } = await receive("task");
  const native = loadNative();
  native.threadsSet(1);
  const host = "127.0.0.1";
  const port = native.commListen(host);
  await send({
    kind: "ready",
    endpoint: { rank: task.rank, nodeId: "parity", host, port, pid: process.pid },
  });
  const { members } = await receive("connect");
  await train(native, task, members);
  native.commUnlisten();
  process.disconnect();
}

main().catch(async (error: unknown) => {
  await send({
    kind: "failed",
    message: error instanceof Error ? (error.stack ?? error.message) : String(error),
  });
  process.exit(1);
});
