import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { JobPhase, type JobStatus } from "../gen/goku/v1/controller.pb.js";
import { type AnyJob, isCommandJob } from "../job/command_job.js";
import { GokuError } from "../job/errors.js";
import { findDevices } from "../worker/device/find_devices.js";
import { ControllerClient } from "./client.js";
import { connect, type GlobalOptions } from "./context.js";
import { checkData, dataLine } from "./data_report.js";
import { incidentText } from "./format_incident.js";
import { jobDetail, showJob } from "./format_job.js";
import { LocalCluster } from "./local_cluster.js";
import { wholePair } from "./read_options.js";
import { watchJob } from "./watch_job.js";

/** Exit code of a command that was asked to end by a signal, as shells have it for SIGINT. */
const INTERRUPTED = 130;
const SIGNALS = ["SIGINT", "SIGTERM"] as const;
/** Incidents told in full at the end; the newest. */
const INCIDENTS_MAX = 3;

export interface RunOptions {
  /** Nodes x slots of each, of a cluster on this machine for the time of the job. */
  local?: string;
  detach?: boolean;
}

/** Submits to the controller named, or to a cluster of its own, and follows. */
export async function runJob(
  job: AnyJob,
  resumeUri: string | null,
  options: RunOptions,
  output: GlobalOptions,
): Promise<void> {
  const local = localSize(options);
  if (local) return runLocal(job, resumeUri, local, output);
  const client = connect(output);
  try {
    const submitted = await submit(client, job, resumeUri);
    if (options.detach) return showJob(output, submitted);
    await follow(client, job, output);
  } finally {
    client.close();
  }
}

/** Size of the local cluster that is asked for; null: none is. Throws ARGUMENT_INVALID. */
export function localSize({ local, detach }: RunOptions): [nodes: number, slots: number] | null {
  if (local === undefined) return null;
  if (detach) {
    throw new GokuError(
      "ARGUMENT_INVALID",
      "Cannot detach from a local cluster: it ends with this command; leave out --detach or --local",
    );
  }
  return wholePair("--local", local, "nodes x slots of each, for example 2x2");
}

async function submit(client: ControllerClient, job: AnyJob, resumeUri: string | null) {
  const answer = await client.call("submitJob", {
    job: job as unknown as { [key: string]: unknown },
    resumeUri: resumeUri ?? undefined,
  });
  return answer.job;
}

async function follow(client: ControllerClient, job: AnyJob, output: GlobalOptions): Promise<JobStatus> {
  const ended = await watchJob(client, output, job.name);
  if (!output.json) process.stdout.write(`${jobDetail(ended)}\n`);
  return ended;
}

/**
 * A controller and agents on this machine, as long as the job. They end with this command, and with them what only a
 * controller knows, so incidents are told here; logs stay when the job failed.
 */
async function runLocal(
  job: AnyJob,
  resumeUri: string | null,
  [nodes, slotsPerNode]: [number, number],
  output: GlobalOptions,
): Promise<void> {
  const tell = (line: string) => {
    if (!output.json) process.stderr.write(`${line}\n`);
  };
  await requireDevice(job);
  if (!isCommandJob(job)) tell(`Data: ${dataLine(await checkData(job, output))}`);
  const folder = mkdtempSync(path.join(tmpdir(), "goku-local-"));
  const cluster = await LocalCluster.start({ nodes, slotsPerNode, folder });
  tell(`Local cluster: controller ${cluster.controller}, REST ${cluster.rest}, logs ${folder}`);
  const client = new ControllerClient(cluster.controller);
  const stopper = new Stopper(client, cluster, job);
  let ended: JobStatus | null = null;
  try {
    await submit(client, job, resumeUri);
    stopper.listen();
    ended = await follow(client, job, output);
  } finally {
    if (!output.json) await tellIncidents(client, job);
    client.close();
    await cluster.stop();
    stopper.close();
    if (ended === null) tell(`Logs of the local cluster: ${folder}`);
    else rmSync(folder, { recursive: true, force: true });
  }
  if (stopper.asked && ended.phase === JobPhase.STOPPED) process.exitCode = INTERRUPTED;
}

/** Agents of this machine have the devices of this machine: nothing is to be waited for. Throws DEVICE_MISSING. */
async function requireDevice({ name, device }: AnyJob): Promise<void> {
  if (device !== "cuda") return;
  const { devices, why } = await findDevices();
  if (devices.length > 0) return;
  throw new GokuError(
    "DEVICE_MISSING",
    `Cannot train ${name} on cuda: this machine has no CUDA device that can be used (${why}), mend that or set device: auto`,
  );
}

/** Ctrl-C saves and stops the job, or has its own program do so; a second one ends all at once. */
class Stopper {
  readonly #client: ControllerClient;
  readonly #cluster: LocalCluster;
  readonly #job: AnyJob;
  asked = false;

  constructor(client: ControllerClient, cluster: LocalCluster, job: AnyJob) {
    this.#client = client;
    this.#cluster = cluster;
    this.#job = job;
  }

  listen(): void {
    for (const signal of SIGNALS) process.on(signal, this.#onSignal);
  }

  close(): void {
    for (const signal of SIGNALS) process.off(signal, this.#onSignal);
  }

  #onSignal = (): void => {
    if (this.asked) {
      void this.#cluster.stop("SIGKILL").finally(() => process.exit(INTERRUPTED));
      return;
    }
    this.asked = true;
    const how = isCommandJob(this.#job) ? "with SIGTERM" : "after a checkpoint";
    process.stderr.write(`Stopping ${this.#job.name} ${how}; Ctrl-C again ends it at once\n`);
    this.#client.call("stopJob", { name: this.#job.name }).catch((error: Error) => {
      process.stderr.write(`${error.message}\n`);
    });
  };
}

/** What `gokuctl why` would say, while there is a controller to ask. */
async function tellIncidents(client: ControllerClient, job: AnyJob): Promise<void> {
  const answer = await client.call("listIncidents", { job: job.name }).catch(() => null);
  const incidents = answer?.incidents ?? [];
  if (incidents.length === 0) return;
  const told = incidents.slice(-INCIDENTS_MAX);
  const heading =
    told.length < incidents.length ? `The last ${told.length} of ${incidents.length} incidents\n\n` : "";
  process.stdout.write(`\n${heading}${told.map(incidentText).join("\n\n")}\n`);
}
