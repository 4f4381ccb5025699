import { statfsSync } from "node:fs";
import os from "node:os";
import { GokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import { Layout } from "../../job/layout.js";
import { memoryShare } from "../../job/memory_share.js";
import { nodeMemoryBytes } from "../../worker/node_memory.js";
import { byteSize, wholeNumber, wholePair } from "../read_options.js";

/** What a job is planned for. */
export interface PlannedCluster {
  device: "cpu" | "gpu";
  nodes: number;
  /** Ranks of each node. */
  slots: number;
  /** GPUs: its name, and its memory. */
  gpu: { name: string; memoryBytes: number } | null;
  /** Of each node; null: not known. */
  memoryBytes: number | null;
  /** What a node's tmpfs can hold; null: not known. */
  sharedMemoryBytes: number | null;
  /** Where the figures come from, in words. */
  memorySource: string;
}

export interface ClusterOptions {
  local?: string;
  nodes?: string;
  slots?: string;
  memory?: string;
  sharedMemory?: string;
  gpu?: string;
  gpus?: string;
  gpusPerNode?: string;
}

const SNAPSHOT_ROOT = "/dev/shm";

/** Throws ARGUMENT_INVALID. */
export function readCluster(options: ClusterOptions, job: Job): PlannedCluster {
  const gpuOptions = [options.gpus, options.gpusPerNode].some((value) => value !== undefined);
  if (gpuOptions && options.gpu === undefined) {
    const want = "want --gpu NAME:MEMORY beside it, for example --gpu h200:141GB";
    throw new GokuError("ARGUMENT_INVALID", `Cannot plan for GPUs: their memory is not given, ${want}`);
  }
  if (options.local !== undefined && (options.nodes ?? options.slots ?? options.gpu) !== undefined) {
    const want = "want either --local, or --nodes and --slots, or --gpu";
    throw new GokuError("ARGUMENT_INVALID", `Cannot plan: --local says all about the nodes, ${want}`);
  }
  return options.gpu === undefined ? readCpus(options, job) : readGpus(options.gpu, options);
}

function readGpus(text: string, options: ClusterOptions): PlannedCluster {
  const match = /^([A-Za-z0-9._-]{1,32}):(.+)$/.exec(text);
  if (!match)
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot read --gpu: found "${text}", want a name and the memory of one, for example h200:141GB`,
    );
  const memoryBytes = byteSize("--gpu", match[2]!);
  const gpus = wholeNumber("--gpus", options.gpus ?? "8", { least: 1, most: 1_000_000 });
  const perNode =
    options.gpusPerNode === undefined
      ? Math.min(8, gpus)
      : wholeNumber("--gpus-per-node", options.gpusPerNode, { least: 1, most: gpus });
  if (gpus % perNode !== 0)
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot plan for ${gpus} GPUs: nodes have ${perNode}, want a multiple of that, or --gpus-per-node`,
    );
  return {
    device: "gpu",
    nodes: gpus / perNode,
    slots: perNode,
    gpu: { name: match[1]!, memoryBytes },
    memoryBytes: options.memory === undefined ? null : byteSize("--memory", options.memory),
    sharedMemoryBytes:
      options.sharedMemory === undefined ? null : byteSize("--shared-memory", options.sharedMemory),
    memorySource: "",
  };
}

function readCpus(options: ClusterOptions, job: Job): PlannedCluster {
  // A job that says its layout says how many ranks it has; else they are as many as this machine has cores.
  const wanted = job.layout === "auto" ? os.availableParallelism() : new Layout(job.layout).worldSize;
  const [nodes, slots] =
    options.local === undefined
      ? [
          wholeNumber("--nodes", options.nodes ?? "1", { least: 1, most: 100_000 }),
          wholeNumber("--slots", options.slots ?? String(wanted), { least: 1, most: 4096 }),
        ]
      : wholePair("--local", options.local, "nodes x slots of each, for example 2x2");
  const parts = options.local === undefined ? 1 : nodes;
  const here = options.memory === undefined;
  const memoryBytes = here
    ? nodeMemoryBytes(parts)
    : memoryShare({ machineBytes: byteSize("--memory", options.memory!), limitBytes: 0, agents: parts });
  const shared =
    options.sharedMemory !== undefined
      ? byteSize("--shared-memory", options.sharedMemory)
      : here
        ? tmpfsBytes()
        : (memoryBytes * parts) / 2; // what Linux gives a tmpfs that nobody sized
  return {
    device: "cpu",
    nodes,
    slots,
    gpu: null,
    memoryBytes,
    sharedMemoryBytes: shared === null ? null : Math.floor(shared / parts),
    memorySource: here
      ? parts > 1
        ? `this machine's, shared by ${nodes} nodes`
        : "as this machine has"
      : "given",
  };
}

function tmpfsBytes(): number | null {
  try {
    const { blocks, bsize } = statfsSync(SNAPSHOT_ROOT);
    return blocks * bsize;
  } catch {
    return null;
  }
}
