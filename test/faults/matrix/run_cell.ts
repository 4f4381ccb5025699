import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type Credentials, credentialsOf } from "../../support/credentials.js";
import { EtcdServers } from "../../support/etcd_servers.js";
import { TestCluster, type TestClusterOptions, testJob } from "../cluster.js";
import type { CellExpectation, CellFacts, CellResult, Moment } from "./cell.js";
import { CellRun, placeOf } from "./cell_run.js";
import type { ControlFacts } from "./control_story.js";
import { describeCell, namedIn, type Told } from "./describe_cell.js";
import type { FaultRow } from "./fault_row.js";
import { judgeCell } from "./judge_cell.js";
import { readMemberLogs } from "./member_logs.js";
import type { Network } from "./network.js";

/** Where cells are run. */
export interface Ground {
  /** Null: loopback. */
  network: Network | null;
  credentials: Credentials;
  /** Losses of the run that nothing disturbs. */
  reference: ReadonlyMap<number, number>;
  /** Logs of cells that failed go here, each into a folder of its own. */
  folder: string;
}

/** A cell that takes longer hangs. Far above what a busy machine needs. */
const LIMIT_MS = 300_000;
/** Longer than the keepalive of a connection that was cut, and the pause before the next. */
const FREED_MS = 60_000;
/** The copies of a tiny state are made as fast as its steps. */
const OVERRIDES = ["checkpoint.replica_mib_per_second=256"];

/** Runs one fault at one moment on a cluster of its own, and judges how that ended. */
export async function runCell(row: FaultRow, moment: Moment, ground: Ground): Promise<CellResult> {
  const begunMs = performance.now();
  const strike = row.strikes[moment]!;
  const clocks = mkdtempSync(path.join(tmpdir(), "goku-clocks-"));
  // etcd is on loopback, and so is whoever asks it.
  const etcd = row.etcd === null ? null : await EtcdServers.start({ members: row.etcd.members });
  const network = etcd === null ? ground.network : null;
  const cluster = await TestCluster.start({
    nodes: row.nodes,
    restart: row.restart,
    failpoints: strike.failpoints.join(","),
    placeOf: placeOf(network, clocks),
    ...(etcd === null
      ? {}
      : { store: `etcd://${etcd.endpoints.join(",")}/faults`, standbys: row.etcd!.standbys }),
    ...machineOf(row, ground.credentials),
  });
  const steps = strike.steps ?? row.steps;
  const own = strike.overrides ?? row.overrides;
  const overrides = [...OVERRIDES, ...own, `train.steps=${steps}`];
  const job = await testJob(cluster.folder, overrides);
  const run = new CellRun({
    cluster,
    clocks,
    network,
    etcd,
    generationStruck: moment === "recovering" ? 2 : 1,
    jobName: job.name,
    worldSize: WORLD_SIZE,
    checkpointUri: job.checkpoint.uri,
  });
  const failures: string[] = [];
  let result: Omit<CellResult, "row" | "moment" | "failures" | "seconds"> = NOTHING;
  try {
    await cluster.submit(job);
    await withLimit(
      follow(run, async () => {
        await run.reached(strike.at);
        if (row.control !== null) run.answers.start();
        await strike.act(run);
      }),
    );
    const expected = expectation(row, moment, run, ground);
    const told = tell(row, run, expected.quiet);
    const facts = await gather(row, run, steps, told);
    failures.push(...judgeCell(facts, expected));
    result = describeCell(facts, expected, told);
    if (expected.culprit.kind !== "nothing" && result.detected.by === "") failures.push("nobody noticed");
    network?.heal();
    if (!(await run.memoryFreed(FREED_MS))) failures.push("memory of the job that is over was not freed");
  } catch (error) {
    failures.push((error as Error).message);
  } finally {
    run.end();
    ground.network?.heal();
    if (failures.length > 0)
      await keepEvidence(cluster, path.join(ground.folder, `${row.id}-${moment}`), failures);
    if (failures.length > 0) await cluster.local.stop("SIGKILL");
    // What was killed leaves its memory behind.
    const left = await cluster.stop().then(
      () => null,
      (error: Error) => error.message,
    );
    if (left !== null && failures.length === 0) failures.push(left);
    await etcd?.stop();
    rmSync(clocks, { recursive: true, force: true });
  }
  return { row: row.id, moment, failures, ...result, seconds: (performance.now() - begunMs) / 1000 };
}

/** Ranks of the layout of every cell's job. */
const WORLD_SIZE = 4;

const NOTHING = {
  detected: { by: "", seconds: null },
  localised: "",
  recovered: { by: "", seconds: null },
  stepsLost: null,
  losses: "",
};

/** The run that nothing disturbs, on the same ground. */
export async function runReference(
  steps: number,
  ground: Omit<Ground, "reference">,
): Promise<Map<number, number>> {
  const cluster = await TestCluster.start({
    ...credentialsOf(ground.credentials),
    ...(ground.network ? { placeOf: placeOf(ground.network, ground.folder) } : {}),
  });
  try {
    await cluster.submit(await testJob(cluster.folder, [...OVERRIDES, `train.steps=${steps}`]));
    const { losses, phase } = await cluster.follow();
    if (phase !== "COMPLETED" || losses.size !== steps)
      throw new Error(`the undisturbed run ended ${phase}\n${cluster.logs}`);
    return losses;
  } finally {
    await cluster.stop();
  }
}

/** As all clusters, but where the kernel has to say what it did. */
function machineOf(row: FaultRow, credentials: Credentials): Pick<TestClusterOptions, "env" | "access"> {
  const { env, ...access } = credentialsOf(credentials);
  return { ...access, env: row.needs === "memory limits" ? { ...env, GOKU_HOST_ROOT: "/" } : env };
}

/** The job to its end, and the strike; one that did not come about fails. */
async function follow(run: CellRun, strike: () => Promise<void>): Promise<void> {
  const struck = strike();
  struck.catch(() => {}); // told below, once the job is over
  await run.cluster.follow();
  run.end();
  await struck;
}

async function withLimit(work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`hung: not over after ${LIMIT_MS / 1000} s`)), LIMIT_MS);
  });
  work.catch(() => {}); // after the limit nobody asks any more
  try {
    await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
}

/** What was told and seen from the fault on. */
function tell(row: FaultRow, run: CellRun, quiet: boolean): Told {
  const struckAtMs = run.struckAtMs!;
  const fromMs = run.releasedAtMs ?? struckAtMs;
  const { events, steps } = run.cluster.record;
  const wall = (atMs: number) => performance.timeOrigin + atMs;
  const overAtMs = Math.max(
    run.returnedAtMs ?? wall(steps.at(-1)?.atMs ?? 0),
    run.answers.gaps.at(-1)?.toMs ?? 0,
  );
  const training = run.pages.training(fromMs, overAtMs);
  const control: ControlFacts = {
    what: row.control ?? "controller",
    struckAtMs,
    returnedAtMs: run.returnedAtMs,
    agentCount: row.nodes,
    lines: linesSince(run, Number.POSITIVE_INFINITY),
    gaps: run.answers.gaps,
    electedAtMs: run.electedAtMs,
    training,
    quiet,
  };
  return {
    events,
    steps: steps.map(({ generation, atMs }) => ({ generation, wallMs: wall(atMs) })),
    struckAtMs,
    training,
    control: row.control === null ? null : control,
  };
}

function linesSince({ cluster, struckAtMs }: CellRun, untilMs: number) {
  return readMemberLogs(cluster.folder).filter(({ timeMs }) => timeMs >= struckAtMs! && timeMs < untilMs);
}

async function gather(row: FaultRow, run: CellRun, stepsTotal: number, told: Told): Promise<CellFacts> {
  const { client, record } = run.cluster;
  const job = await run.job();
  const { incidents } = await client.call("listIncidents", { job: job.name });
  const { nodes } = await client.call("listNodes", {});
  const generations = [...new Set(record.steps.map(({ generation }) => generation))].sort((a, b) => a - b);
  return {
    phase: record.phase,
    reason: job.reason,
    stepsTotal,
    losses: record.losses,
    generations: generations.map((number) => {
      const steps = record.steps.filter(({ generation }) => generation === number).map(({ step }) => step);
      return { number, first: Math.min(...steps), last: Math.max(...steps) };
    }),
    seen: run.pages.generations(),
    incidents,
    generationStruck: run.generationStruck,
    copyLeft: run.copy,
    nodesBefore: run.nodesBefore,
    shunned: nodes
      .filter(({ quarantined, drained, avoided }) => quarantined || drained || avoided.length > 0)
      .map(({ nodeId }) => nodeId),
    named: namedIn({ incidents }, told, linesSince(run, blameUntilMs(row, run))),
  };
}

/** A leader that goes on after it stood still, and members of etcd that start, have troubles of their own. */
function blameUntilMs({ control }: FaultRow, { returnedAtMs }: CellRun): number {
  return control === "controller" ? Number.POSITIVE_INFINITY : (returnedAtMs ?? Number.POSITIVE_INFINITY);
}

function expectation(row: FaultRow, moment: Moment, run: CellRun, { reference }: Ground): CellExpectation {
  return {
    losses: reference,
    tolerance: 0,
    untoldMax: row.untoldMax,
    quiet: row.quiet.includes(moment),
    culprit: row.culprit(run),
    code: row.code,
    harmed: [...run.harmed],
    replacedMax: row.replacedMax,
  };
}

/** Logs, and what the controller says of its incidents if it still speaks. */
async function keepEvidence(
  cluster: TestCluster,
  folder: string,
  failures: readonly string[],
): Promise<void> {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const isLog = (name: string) => name === cluster.folder || name.endsWith(".log");
  cpSync(cluster.folder, folder, { recursive: true, filter: isLog });
  const incidents = await cluster.client.call("listIncidents", { job: "" }).then(
    (answer) => answer.incidents,
    () => [],
  );
  const { events, steps } = cluster.record;
  const told = { failures, fired: cluster.fired, incidents, events, steps };
  writeFileSync(
    path.join(folder, "told.json"),
    JSON.stringify(told, (_, value) => (typeof value === "bigint" ? String(value) : value), 2),
  );
}
