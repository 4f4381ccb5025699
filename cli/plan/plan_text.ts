import type { DataReport } from "../../worker/data/pack_source.js";
import { dataLine } from "../data_report.js";
import { bytes, counted, duration, fields, table } from "../output.js";
import { checkpointFigures } from "./checkpoint_figures.js";
import { type Candidate, type JobPlan, RESERVED, usable } from "./plan_job.js";

const GIB = 2 ** 30;

/** The plan for people: what there is, every layout, and the recommended one in detail. */
export function planText(plan: JobPlan, data: DataReport | null, dataNote: string | null): string {
  const parts = [headText(plan, data, dataNote), candidatesText(plan)];
  if (plan.recommended !== null) {
    parts.push(recommendedText(plan, plan.recommended));
    parts.push(checkpointText(plan, plan.recommended.candidate));
  }
  if (plan.cluster.device === "gpu") parts.push(NOT_MEASURED);
  return parts.join("\n\n");
}

const NOT_MEASURED = `These figures are computed from the model's shapes and the training schedule;
none was measured on a GPU. Not counted: the CUDA context, NCCL's buffers,
workspaces of libraries, fragments; ${RESERVED.gpu * 100} % of the memory is left for them.`;

function headText(
  { job, cluster, parameters, pack, packBasis, layoutNote }: JobPlan,
  data: DataReport | null,
  dataNote: string | null,
): string {
  const { nodes, slots, gpu, memoryBytes, sharedMemoryBytes, memorySource } = cluster;
  const { packs_per_step: packs, tokens_per_pack: tokens } = job.train;
  const size = [`${tokens} tokens`, counted(pack.samples, "sample"), `${pack.textTokens} text tokens`].join(
    ", ",
  );
  const shared = sharedMemoryBytes === null ? null : `shared memory ${bytes(sharedMemoryBytes)}`;
  return fields([
    ["job", `${job.name}: ${job.model.preset}, ${millions(parameters)} parameters, ${job.precision}`],
    [
      gpu === null ? "nodes" : "GPUs",
      gpu === null
        ? `${counted(nodes, "node")} of ${counted(slots, "rank")}`
        : `${nodes * slots} ${gpu.name} on ${counted(nodes, "node")}`,
    ],
    [
      "memory",
      gpu === null
        ? [
            `${bytes(memoryBytes!)} a node (${memorySource}), ${bytes(usable(memoryBytes!, "cpu"))} to plan with`,
            shared,
          ]
            .filter((text) => text !== null)
            .join("; ")
        : `${bytes(gpu.memoryBytes)} a GPU, ${bytes(usable(gpu.memoryBytes, "gpu"))} to plan with`,
    ],
    ["step", `${counted(packs, "pack")}, ${tokensOfStep(job.train, data)}`],
    [
      "largest pack",
      `${packBasis === "data" ? `${pack.tokens} tokens, ${counted(pack.samples, "sample")}, ${pack.textTokens} text tokens at most` : `${size} (assumed: pictures of data.max_pixels, longest captions)`}`,
    ],
    ["data", data === null ? dataNote : dataLine(data)],
    ["packs", data === null ? null : packText(data)],
    ["note", layoutNote],
  ]);
}

/** How full packs get, and what they are made of. */
function packText(data: DataReport): string {
  const { packTokensMin, tokensPerPack, packSamplesMin, packSamplesMax, samplesPacked, packsPerEpoch } = data;
  const mean = (samplesPacked / packsPerEpoch).toFixed(1);
  const clips = data.tokensPerEpoch === 0 ? 0 : data.videoTokens / data.tokensPerEpoch;
  return `at least ${percent(packTokensMin / tokensPerPack)} full; ${mean} samples each (${packSamplesMin} to ${packSamplesMax}); ${percent(clips)} of the tokens are clips'`;
}

function tokensOfStep(
  train: { packs_per_step: number; tokens_per_pack: number },
  data: DataReport | null,
): string {
  const most = train.packs_per_step * train.tokens_per_pack;
  return data === null ? `${most} tokens at most` : `${Math.round(most * data.fill)} tokens in the mean`;
}

function candidatesText(plan: JobPlan): string {
  const gpu = plan.cluster.device === "gpu";
  const all = sorted(plan);
  const most = Math.max(...all.map(({ neededBytes }) => neededBytes));
  const [unit, unitBytes] = most >= 16 * GIB ? ["GiB", GIB] : ["MiB", 2 ** 20];
  const size = (count: number) => (count / unitBytes).toFixed(most >= 16 * GIB || most < GIB ? 1 : 0);
  const headings = gpu
    ? ["LAYOUT", "RECOMPUTE", "PARAM", "GRAD", "OPTIM", "EMA", "ACTIV", "WORK", "TOTAL", "FITS"]
    : ["LAYOUT", "RECOMPUTE", "WEIGHTS", "GRADS", "ACTIV", "OTHER", "SLOTS", "REPLICAS", "NODE", "FITS"];
  const rows = all.map((candidate) => [
    candidate.layout.toString(),
    candidate.recompute,
    ...figures(candidate).map(size),
    fitText(candidate, plan, size),
  ]);
  const about = gpu
    ? `${unit} of a GPU. WORK: the block at work, and the pack.`
    : `${unit}. WEIGHTS to OTHER (work, fragments, data, process): of the rank that needs\nthe most. SLOTS, REPLICAS, NODE (all together): of its node.`;
  const aligned = rightAligned([headings, ...rows], 2);
  return `${table(aligned[0]!, aligned.slice(1))}\n${about}`;
}

/** By layout, those that fit first; the recommended one at the top. */
function sorted({ candidates, recommended }: JobPlan): Candidate[] {
  const fits = (layout: Candidate["layout"]) =>
    candidates.some((other) => other.layout === layout && other.missingBytes === 0);
  const top = recommended?.candidate.layout;
  return candidates
    .map((candidate, index) => ({ candidate, index }))
    .sort(
      (a, b) =>
        Number(b.candidate.layout === top) - Number(a.candidate.layout === top) ||
        Number(fits(b.candidate.layout)) - Number(fits(a.candidate.layout)) ||
        a.index - b.index,
    )
    .map(({ candidate }) => candidate);
}

function figures({ memory, neededBytes }: Candidate): number[] {
  if (memory.device === "gpu") {
    const { parameters, gradients, optimizer, ema, activations, workspace, pack, total } = memory;
    return [parameters, gradients, optimizer, ema, activations, workspace + pack, total];
  }
  const { step, fragmentBytes, dataBytes, processBytes, snapshots } = memory;
  const other = step.workspace + step.pack + fragmentBytes + dataBytes + processBytes;
  return [
    step.weights,
    step.gradients,
    step.activations,
    other,
    snapshots.ownBytes,
    snapshots.keptBytes,
    neededBytes,
  ];
}

function fitText(candidate: Candidate, { recommended }: JobPlan, size: (count: number) => string): string {
  const { missingBytes, missing, idleRanks } = candidate;
  if (missingBytes > 0) return `over ${size(missingBytes)}${missing === "shared memory" ? " shm" : ""}`;
  const idle = idleRanks > 0 ? `, ${idleRanks} idle` : "";
  return `${candidate === recommended?.candidate ? "best" : "yes"}${idle}`;
}

/** Numbers under one another: columns from `first` on, but for the last. */
function rightAligned(rows: readonly string[][], first: number): string[][] {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)));
  return rows.map((row) =>
    row.map((cell, i) => (i < first || i === row.length - 1 ? cell : cell.padStart(widths[i]!))),
  );
}

function recommendedText(plan: JobPlan, { candidate, reason }: NonNullable<JobPlan["recommended"]>): string {
  const { layout, recompute, memory } = candidate;
  const { dp_replicate, dp_shard, sp } = layout.size;
  return fields([
    ["recommended", `layout ${layout}, recompute ${recompute}`],
    ["why", reason],
    ["in the job", `layout: { dp_replicate: ${dp_replicate}, dp_shard: ${dp_shard}, sp: ${sp} }`],
    ["", `recompute: ${recompute}`],
    ...kindsText(memory),
    [
      "ranks without a pack",
      candidate.idleRanks > 0 ? `${candidate.idleRanks}: raise train.packs_per_step` : null,
    ],
    [
      "sequence",
      `${plan.pack.tokens} tokens of a pack, ${Math.ceil(plan.pack.tokens / layout.sp)} of them on each rank`,
    ],
  ]);
}

function kindsText(memory: Candidate["memory"]): [string, string][] {
  if (memory.device === "gpu") {
    const { parameters, gradients, optimizer, ema, activations, workspace, pack, total } = memory;
    return [
      [
        "parameters",
        `${bytes(parameters)}: fp32 master and compute weights of the shard, weights gathered for two blocks`,
      ],
      ["gradients", `${bytes(gradients)}: fp32 sums on the shard, whole ones being made or on their way`],
      ["optimizer, EMA", `${bytes(optimizer)}, ${bytes(ema)}: fp32, of the shard`],
      ["activations", `${bytes(activations)}: kept from forward to backward`],
      ["work", `${bytes(workspace)} of the block at work, ${bytes(pack)} of the pack`],
      ["total", `${bytes(total)} on each GPU`],
    ];
  }
  const { step, fragmentBytes, dataBytes, processBytes, ranksBytes, nodeBaseBytes, uploadBytes, nodeBytes } =
    memory;
  const uploads = uploadBytes === 0 ? "" : `, ${bytes(uploadBytes)} of uploads under way`;
  return [
    ["weights", `${bytes(step.weights)}: gathered for two blocks, and the shard in the compute type`],
    ["gradients", `${bytes(step.gradients)}: fp32 sums on the shard, whole ones being made or on their way`],
    ["activations", `${bytes(step.activations)}: kept from forward to backward`],
    ["work", `${bytes(step.workspace)} of the block at work, ${bytes(step.pack)} of the pack`],
    [
      "tensors",
      `${bytes(step.total)} of each rank at the widest moment of a step, about ${bytes(fragmentBytes)} more in fragments`,
    ],
    [
      "data, process",
      `${bytes(dataBytes)} at most for packs and samples, about ${bytes(processBytes)} for the process`,
    ],
    [
      "node",
      `${bytes(nodeBytes)}: ${bytes(ranksBytes)} of its ranks, about ${bytes(nodeBaseBytes)} of agent and spare${uploads}, the rest snapshots`,
    ],
  ];
}

function checkpointText(plan: JobPlan, candidate: Candidate): string {
  const { cluster, job } = plan;
  const { snapshots } = candidate;
  const figures = checkpointFigures(plan, candidate);
  const of = cluster.sharedMemoryBytes === null ? "" : ` of ${bytes(cluster.sharedMemoryBytes)}`;
  const kept =
    snapshots.keptBytes > 0
      ? `, ${bytes(snapshots.keptBytes)} for ${counted(snapshots.keptRanks, "rank")} of other nodes`
      : "";
  return fields([
    [
      "checkpoint",
      `${bytes(figures.durableBytes)} each; ${bytes(figures.storageBytes)} with the ${job.checkpoint.keep_last} kept and one being written${job.checkpoint.keep_every === null ? "" : ", more for keep_every"}`,
    ],
    [
      "snapshots",
      `${bytes(figures.sharedBytes)} of shared memory a node${of}: ${counted(cluster.slots, "rank")} with ${figures.slotCount} slots of ${bytes(figures.slotBytes)}${kept}`,
    ],
    ["replicas", replicaText(plan, candidate)],
    ["previews", previewText(plan)],
  ]);
}

/** Null: the job draws none. */
function previewText({ previews }: JobPlan): string | null {
  if (previews === null) return null;
  const { memory, fits, leftBytes } = previews;
  const { weights, activations, pictures, process, total } = memory;
  const parts = `${bytes(weights)} of weights, ${bytes(activations)} while drawing, ${bytes(pictures)} of pictures, ${bytes(process)} for the process`;
  const judged =
    fits === null
      ? "of the memory of rank 0's node"
      : fits
        ? `of the ${bytes(leftBytes!)} that are left on a node`
        : `and ${bytes(leftBytes!)} are left on a node: they will be left out`;
  return `${bytes(total)} at most on rank 0's node, ${judged}: ${parts}`;
}

function replicaText(plan: JobPlan, candidate: Candidate): string {
  const { sentBytes, transferSeconds, lostSecondsMax } = checkpointFigures(plan, candidate);
  const { reason } = candidate.snapshots.keepers;
  const said = reason.replace(/^replicas: /, "");
  if (sentBytes === 0) return said;
  const rate = plan.job.checkpoint.replica_mib_per_second;
  const sent = `${said}; a node sends ${bytes(sentBytes)} a transfer`;
  if (transferSeconds === null || lostSecondsMax === null)
    return `${sent}, at 2 MiB/s for each of its cores unless checkpoint.replica_mib_per_second says more; a lost node costs at most two transfers of steps`;
  const at = rate === null ? "2 MiB/s for each of this machine's cores" : `${rate} MiB/s`;
  return `${sent}, ${duration(transferSeconds)} at ${at}; a lost node costs at most the steps of ${duration(lostSecondsMax)}`;
}

function percent(fraction: number): string {
  return `${(100 * fraction).toFixed(0)} %`;
}

function millions(count: number): string {
  return count >= 1e9 ? `${(count / 1e9).toFixed(2)} B` : `${(count / 1e6).toFixed(1)} M`;
}
