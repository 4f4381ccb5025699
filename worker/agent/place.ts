import type { Prepare } from "../../gen/goku/v1/agent.pb.js";
import { type AnyJob, jobSchemaOf } from "../../job/command_job.js";
import { DEVICES, type Device } from "../../job/device.js";
import { GokuError } from "../../job/errors.js";
import type { Layout } from "../../job/layout.js";
import type { FoundDevices } from "../device/find_devices.js";
import { readLayout } from "./wire.js";

export interface Keeper {
  nodeId: string;
  host: string;
  port: number;
}

/** The place of a node in a generation. */
export interface Place {
  generation: bigint;
  jobId: string;
  job: AnyJob;
  layout: Layout;
  device: Device;
  /** World ranks of this node. */
  ranks: readonly number[];
  /** Some rank of the world sends its state to another node. */
  replicate: boolean;
  /** Where ranks of this node send theirs. */
  keepers: ReadonlyMap<number, Keeper>;
  /** What nodes of the job show each other. */
  peerSecret: string;
  /** Ranks of other nodes whose copies this node keeps. */
  keeps: readonly number[];
  /** Generations of the job before this one. */
  restarts: number;
  /** Highest step that the job has completed, as it has told. */
  stepHighest: number;
  /** A step was completed in this generation: every rank of the world has its state in its present set. */
  stepped: boolean;
  /** Copies of this generation are whole everywhere: older ones are of no use any more. */
  replicated: boolean;
  /** It was told to prove that checkpoints go to one folder. */
  isProven: boolean;
  /** Of the data that the state restored was trained on; null: not restored yet. */
  dataDigest: string | null;
}

export function readKeepers({ replicas }: Prepare): Map<number, Keeper> {
  return new Map(replicas.map(({ rank, nodeId, host, port }) => [rank, { nodeId, host, port }]));
}

/** Checks a Prepare where it comes in. Throws JOB_INVALID, LAYOUT_INVALID, DEVICE_MISSING, STATE_INVALID. Pure. */
export function readPlace(
  wire: Prepare,
  { node, slots, gpus }: { node: string; slots: number; gpus: FoundDevices },
): Place {
  const { generation, jobId, ranks } = wire;
  const doing = `Cannot prepare generation ${generation}`;
  const parsed = jobSchemaOf(wire.job ?? {}).safeParse(wire.job);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new GokuError("JOB_INVALID", `${doing}: job.${issue?.path.join(".")}: ${issue?.message}`);
  }
  const layout = readLayout(wire.layout);
  if (ranks.length > slots)
    throw new GokuError("STATE_INVALID", `${doing}: ${ranks.length} ranks for ${slots} slots of ${node}`);
  if (new Set(ranks).size !== ranks.length || ranks.some((rank) => rank >= layout.worldSize))
    throw new GokuError("STATE_INVALID", `${doing}: ranks ${ranks.join(", ")} of ${layout.worldSize}`);
  const device = DEVICES.find((known) => known === (wire.device || "cpu"));
  if (device === undefined)
    throw new GokuError(
      "STATE_INVALID",
      `${doing}: device ${wire.device}, want one of ${DEVICES.join(", ")}`,
    );
  if (device === "cuda" && gpus.devices.length === 0)
    throw new GokuError("DEVICE_MISSING", `${doing} on cuda: ${node} has no CUDA device (${gpus.why})`);
  if (wire.peerSecret === "") throw new GokuError("STATE_INVALID", `${doing}: it has no peer_secret`);
  return {
    generation,
    jobId,
    job: parsed.data,
    layout,
    device,
    ranks,
    replicate: wire.replicate,
    keepers: readKeepers(wire),
    keeps: wire.keeps,
    restarts: wire.restarts,
    stepHighest: Number(wire.stepHighest),
    peerSecret: wire.peerSecret,
    stepped: false,
    replicated: false,
    isProven: false,
    dataDigest: null,
  };
}
