import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { type DefaultRenderer, Listr, type ListrTaskWrapper, type SimpleRenderer } from "listr2";
import { ControllerClient } from "../cli/client.js";
import { incidentText } from "../cli/format_incident.js";
import { isOver } from "../cli/format_job.js";
import { LocalCluster } from "../cli/local_cluster.js";
import { bar, duration, fields } from "../cli/output.js";
import { JobPhase, type JobStatus } from "../gen/goku/v1/controller.pb.js";
import { entryPoint } from "../job/entry_points.js";
import { GokuError } from "../job/errors.js";
import type { Job } from "../job/job.js";
import { loadJob } from "../job/load_job.js";
import { writeShapes } from "../worker/data/shapes/write_shapes.js";
import { judgePicture } from "../worker/media/judge_picture.js";
import { writeClip } from "../worker/media/write_clip.js";
import { writeLossCurve } from "../worker/media/write_loss_curve.js";
import { writeSheet } from "../worker/media/write_sheet.js";
import { openSampler } from "../worker/sample/open_sampler.js";

/**
 * The first thing a newcomer runs: the whole path on one machine, with real processes and a real fault.
 * Data -> cluster -> train -> SIGKILL a rank -> go on -> stop -> resume on three ranks -> sample and judge.
 */
const FOLDER = path.resolve("runs/demo");
/** Dotted overrides of the job, for a shorter look: make run ARGS="train.steps=60". */
const OVERRIDES = process.argv.slice(2);
const JOB_FILE = "examples/shapes.yaml";
const CLUSTER = { nodes: 2, slotsPerNode: 2 };
const RESUME_LAYOUT = "1x3x1";
const COLOURS = ["red", "green", "blue", "yellow"] as const;
const SHAPES = ["circle", "square", "triangle", "cross"] as const;

interface Demo {
  job: Job;
  cluster: LocalCluster;
  client: ControllerClient;
  started: number;
  killed: { step: number; rank: number; seconds: number } | null;
  /** What `gokuctl why` prints about the kill. */
  incident: string;
  tokensPerSecond: number;
  resumedFrom: number;
  points: Map<number, number>;
  verdict: { colours: number; shapes: number; both: number; of: number };
}
type Task = ListrTaskWrapper<Demo, typeof DefaultRenderer, typeof SimpleRenderer>;
/** How far each task was when it was drawn last. */
const progresses = new WeakMap<Task, { sinceMs: number; done: number; tenth: number }>();

async function main(): Promise<void> {
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  const job = loadJob(
    readFileSync(JOB_FILE, "utf8"),
    [
      `data.media=${path.join(FOLDER, "data")}`,
      `checkpoint.uri=file://${path.join(FOLDER, "checkpoints")}`,
      ...OVERRIDES,
    ],
    { file: JOB_FILE },
  );
  const demo: Demo = {
    job,
    cluster: undefined as unknown as LocalCluster,
    client: undefined as unknown as ControllerClient,
    started: performance.now(),
    killed: null,
    incident: "",
    tokensPerSecond: 0,
    resumedFrom: 0,
    points: new Map(),
    verdict: { colours: 0, shapes: 0, both: 0, of: 0 },
  };
  const total = job.train.steps;
  const tasks = new Listr<Demo>(
    [
      { title: "Write the data set: pictures and clips of coloured shapes, with captions", task: writeData },
      {
        title: `Start a controller and ${CLUSTER.nodes} agents with ${CLUSTER.slotsPerNode} ranks each`,
        task: startCluster,
      },
      {
        title: "Train, SIGKILL a rank on the way, go on",
        task: (d, t) => trainAndKill(d, t, { kill: Math.round(total * 0.2), stop: Math.round(total * 0.5) }),
      },
      { title: `Resume from the checkpoint on three ranks (${RESUME_LAYOUT}) instead of four`, task: resume },
      { title: "Sample pictures and a clip from prompts with the EMA weights", task: sample },
    ],
    { ctx: demo, rendererOptions: { collapseSubtasks: false } },
  );
  try {
    await tasks.run();
    await summary(demo);
    await keepPage(demo);
  } finally {
    demo.client?.close();
    await demo.cluster?.stop();
  }
}

async function writeData(demo: Demo, task: Task): Promise<void> {
  const written = await writeShapes({
    directory: demo.job.data.media,
    seed: demo.job.seed,
    onProgress: ({ done, total }) => draw(task, done / total, `${done} of ${total} files`),
  });
  task.title = `Wrote ${written.images} PNG pictures and ${written.clips} MP4 clips with captions to ${demo.job.data.media}`;
}

async function startCluster(demo: Demo, task: Task): Promise<void> {
  demo.cluster = await LocalCluster.start({ ...CLUSTER, folder: path.join(FOLDER, "cluster") });
  demo.client = new ControllerClient(demo.cluster.controller);
  task.title = `Started a controller (${demo.cluster.controller}) and ${CLUSTER.nodes} agents; watch it at ${demo.cluster.rest}/`;
}

async function trainAndKill(demo: Demo, task: Task, at: { kill: number; stop: number }): Promise<void> {
  const { client, job } = demo;
  await client.call("submitJob", { job: job as unknown as { [key: string]: unknown }, resumeUri: undefined });
  let killedAt: { step: number; rank: number; time: number } | null = null;
  let asked = false;
  await follow(demo, task, async (status, step) => {
    if (step >= at.kill && !killedAt) {
      killedAt = { ...(await killOneRank(demo)), step, time: performance.now() };
      task.output = `SIGKILL to rank ${killedAt.rank} after step ${step}`;
    } else if (killedAt && !demo.killed && step > killedAt.step && status.incidents > 0) {
      demo.killed = {
        step: killedAt.step,
        rank: killedAt.rank,
        seconds: (performance.now() - killedAt.time) / 1000,
      };
      const { incidents } = await client.call("listIncidents", { job: job.name });
      demo.incident = incidents.map(incidentText).join("\n");
      const seen = `${incidents[0]?.what}: ${duration(demo.killed.seconds)} until the next step completed`;
      task.output = seen;
      task.title = `Train: ${seen}`;
    } else if (step >= at.stop && !asked) {
      asked = true;
      demo.tokensPerSecond = status.tokensPerSecond ?? 0;
      await client.call("stopJob", { name: job.name });
    }
  });
  const { job: ended } = await client.call("getJob", { name: job.name });
  if (ended?.phase !== JobPhase.STOPPED)
    throw new GokuError("STATE_INVALID", `Cannot go on: the job ended as ${ended?.reason}`);
  demo.resumedFrom = Number(ended.checkpointStep);
  const killed = demo.killed as Demo["killed"];
  task.title =
    `Trained to step ${ended.step}; rank ${killed?.rank} was killed at step ${killed?.step}, ` +
    `${duration(killed?.seconds ?? null)} until the next step completed; stopped with a checkpoint`;
}

/** SIGKILLs the process of a rank on the second node. */
async function killOneRank(demo: Demo): Promise<{ rank: number }> {
  const { nodes } = await demo.client.call("listNodes", {});
  const rank = nodes.flatMap((node) => node.ranks).sort((a, b) => b.rank - a.rank)[0];
  if (!rank) throw new GokuError("NOT_FOUND", "Cannot kill a rank: no node reports one");
  process.kill(rank.pid, "SIGKILL");
  return { rank: rank.rank };
}

/** Runs the command a person would type, beside the cluster that is already there. */
async function resume(demo: Demo, task: Task): Promise<void> {
  const command = [entryPoint("gokuctl"), "resume", "--ckpt", path.join(FOLDER, "checkpoints")];
  const args = [...command, "--layout", RESUME_LAYOUT, "--controller", demo.cluster.controller, "--detach"];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  child.stdout.on("data", (chunk) => (said += chunk));
  child.stderr.on("data", (chunk) => (said += chunk));
  const code = await new Promise((resolve) => child.once("exit", resolve));
  if (code !== 0)
    throw new GokuError("INTERNAL", `Cannot resume: gokuctl ended with ${code}: ${said.trim()}`);
  await follow(demo, task, async () => {});
  const { job: ended } = await demo.client.call("getJob", { name: demo.job.name });
  if (ended?.phase !== JobPhase.COMPLETED)
    throw new GokuError("STATE_INVALID", `Cannot go on: the job ended as ${ended?.reason}`);
  task.title = `Resumed from step ${demo.resumedFrom} as ${RESUME_LAYOUT} and finished step ${ended.step}`;
}

async function sample(demo: Demo, task: Task): Promise<void> {
  const sampler = await openSampler(path.join(FOLDER, "checkpoints"), { weights: "ema" });
  const prompts = COLOURS.flatMap((colour) =>
    SHAPES.map((shape) => ({ colour, shape, text: `a ${colour} ${shape}` })),
  );
  const side = Math.floor(Math.sqrt(demo.job.data.max_pixels));
  const pictures = await sampler.sample({
    requests: prompts.map(({ text }) => ({ prompt: text, width: side, height: side, frames: 1 })),
    seed: demo.job.seed,
    onProgress: (done) => draw(task, done, "pictures"),
  });
  const tiles = pictures.map((clip, i) => {
    const verdict = judgePicture(clip, prompts[i]!);
    if (verdict.colourRight) demo.verdict.colours++;
    if (verdict.shapeRight) demo.verdict.shapes++;
    if (verdict.colourRight && verdict.shapeRight) demo.verdict.both++;
    demo.verdict.of++;
    return { clip, caption: prompts[i]!.text };
  });
  const [moving] = await sampler.sample({
    requests: [
      { prompt: "a green circle moving right", width: side, height: side, frames: demo.job.data.max_frames },
    ],
    seed: demo.job.seed + 1,
    onProgress: (done) => draw(task, done, "clip"),
  });
  sampler.close();
  await writeSheet(path.join(FOLDER, "samples.png"), tiles);
  await writeClip(path.join(FOLDER, "clip.mp4"), moving!, { fps: demo.job.data.fps });
  const points = [...demo.points].map(([step, loss]) => ({ step, loss })).sort((a, b) => a.step - b.step);
  await writeLossCurve(path.join(FOLDER, "loss.png"), points);
  task.title = `Sampled ${tiles.length} pictures and a clip`;
}

/** Follows the job to its end, drawing progress, remembering losses, and calling `at` after each step. */
async function follow(
  demo: Demo,
  task: Task,
  at: (status: JobStatus, step: number) => Promise<void>,
): Promise<void> {
  const { client, job } = demo;
  for await (const event of client.events({ job: job.name, afterId: 0n, follow: true })) {
    if (event.kind !== "step" || !event.step) continue;
    demo.points.set(Number(event.step.step), event.step.loss ?? Number.NaN);
    const { job: status } = await client.call("getJob", { name: job.name });
    if (!status) continue;
    const done = Number(event.step.step) / job.train.steps;
    draw(
      task,
      done,
      `step ${event.step.step}/${job.train.steps}  loss ${event.step.loss?.toFixed(4)}`,
      status.etaSeconds,
    );
    if (!isOver(status.phase)) await at(status, Number(event.step.step));
  }
}

/** Every change on a terminal; in a log, where no line is overwritten, one line for each tenth of the way. */
function draw(task: Task, done: number, note: string, etaSeconds?: number): void {
  const progress = progressOf(task, done);
  const tenth = Math.floor(10 * done);
  if (!process.stdout.isTTY && progress.tenth === tenth) return;
  progress.tenth = tenth;
  const paceEta = done > 0 ? ((performance.now() - progress.sinceMs) / 1000) * (1 / done - 1) : null;
  const percent = (100 * done).toFixed(0).padStart(3);
  task.output = `${bar(done, 30)} ${percent} %  ${note}  ETA ${duration(etaSeconds ?? paceEta)}`;
}

/** Begins anew with each part of a task. */
function progressOf(task: Task, done: number): { sinceMs: number; done: number; tenth: number } {
  let progress = progresses.get(task);
  if (!progress || done < progress.done) {
    progress = { sinceMs: performance.now(), done, tenth: -1 };
    progresses.set(task, progress);
  }
  progress.done = done;
  return progress;
}

async function summary(demo: Demo): Promise<void> {
  const { verdict } = demo;
  const { previews } = await demo.client.call("listPreviews", { job: demo.job.name });
  const drawn = previews.map(({ state }) => state?.step).join(", ");
  const text = fields([
    ["steps", `${demo.job.train.steps} (${demo.points.size} losses recorded)`],
    ["tokens/s", Math.round(demo.tokensPerSecond)],
    [
      "recovery",
      demo.killed
        ? `${demo.killed.seconds.toFixed(2)} s from SIGKILL of rank ${demo.killed.rank} to the next completed step`
        : "not measured",
    ],
    ["resume", `from step ${demo.resumedFrom}, layout 1x2x2 -> ${RESUME_LAYOUT}`],
    [
      "judged from pixels",
      `${verdict.colours} of ${verdict.of} show the colour asked, ${verdict.shapes} the shape, ${verdict.both} both`,
    ],
    ["pictures", path.join(FOLDER, "samples.png")],
    ["clip", path.join(FOLDER, "clip.mp4")],
    [
      "previews",
      drawn === ""
        ? "none was done in time"
        : `of steps ${drawn}, drawn while it trained: ${previews.at(-1)!.uri}`,
    ],
    ["loss curve", path.join(FOLDER, "loss.png")],
    ["checkpoints", path.join(FOLDER, "checkpoints")],
    ["time", duration((performance.now() - demo.started) / 1000)],
  ]);
  const report = demo.incident === "" ? text : `${demo.incident}\n\n${text}`;
  writeFileSync(path.join(FOLDER, "summary.txt"), `${report}\n`);
  process.stdout.write(`\n${report}\n\nNext: node dist/programs/gokuctl.js --help\n`);
}

/** Somebody sits there: the page, which tells the whole run, stays until he has seen it. */
async function keepPage({ cluster }: Demo): Promise<void> {
  if (!process.stdin.isTTY || !process.stdout.isTTY) return;
  process.stdout.write(
    `The run, the kill and the resume are told at ${cluster.rest}/  Enter or Ctrl-C ends it.\n`,
  );
  await new Promise<void>((resolve) => {
    process.once("SIGINT", resolve);
    process.stdin.once("data", () => resolve());
  });
  process.stdin.destroy();
}

await main();
