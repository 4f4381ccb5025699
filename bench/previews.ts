import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { stringify } from "yaml";
import { ControllerClient } from "../cli/client.js";
import { LocalCluster } from "../cli/local_cluster.js";
import { loadJob } from "../job/load_job.js";
import { median } from "../job/median.js";
import { writeShapes } from "../worker/data/shapes/write_shapes.js";
import { judge } from "./figures.js";

/** Most that drawing may add to a step where a core is free. */
const LIMIT = 1.05;
const PREVIEWS = 9;
/** Steps between two previews; the first half of an interval, or more of it, passes while one is drawn. */
const EVERY = 60;

/** Seconds of the steps of one interval, by whether a preview was being drawn. */
interface Interval {
  drawing: number[];
  alone: number[];
}

/**
 * Step times with a preview being drawn over those without, in one run, interval after interval, so that whatever else the
 * machine does meets both. Two ranks of one thread each, of which one has no pack and sleeps in its collectives: so a core is
 * free on a machine of two.
 */
export async function measurePreviews(): Promise<Interval[]> {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-bench-previews-"));
  const stateDir = mkdtempSync("/dev/shm/goku-bench-previews-");
  await writeShapes({ directory: path.join(folder, "shapes"), singles: 96, pairs: 24, clips: 12 });
  const cluster = await LocalCluster.start({ nodes: 1, slotsPerNode: 2, folder, stateDir });
  const client = new ControllerClient(cluster.controller);
  const leave = new AbortController();
  try {
    await client.call("submitJob", { job: benchJob(folder), resumeUri: undefined });
    return await collect(client, leave.signal);
  } finally {
    leave.abort();
    client.close();
    await cluster.stop();
    rmSync(folder, { recursive: true, force: true });
    rmSync(stateDir, { recursive: true, force: true });
  }
}

function benchJob(folder: string): { [key: string]: unknown } {
  const text = stringify({
    name: "previews",
    data: { media: path.join(folder, "shapes") },
    layout: { dp_replicate: 2, dp_shard: 1, sp: 1 },
    train: { steps: 100_000, packs_per_step: 1, tokens_per_pack: 512 },
    checkpoint: { uri: `file://${path.join(folder, "run")}`, every_steps: 100_000 },
    sample: { every_steps: EVERY, prompts: ["a red circle", "a blue square", "a green cross"] },
  });
  return loadJob(text, [], { file: "previews" }) as unknown as { [key: string]: unknown };
}

async function collect(client: ControllerClient, signal: AbortSignal): Promise<Interval[]> {
  const intervals: Interval[] = [];
  let isDrawing = false;
  for await (const event of client.events({ job: "previews", afterId: 0n, follow: true }, signal)) {
    if (event.kind === "preview") {
      if (/ failed | is left out/.test(event.message)) throw new Error(`previews: ${event.message}`);
      isDrawing = event.message.startsWith("draws ");
      if (isDrawing && intervals.length === PREVIEWS) return intervals;
      if (isDrawing) intervals.push({ drawing: [], alone: [] });
    } else if (event.step) intervals.at(-1)?.[isDrawing ? "drawing" : "alone"].push(event.step.stepSeconds);
  }
  throw new Error("previews: the job has ended, see its log");
}

async function main(): Promise<void> {
  const whole = (await measurePreviews()).filter(
    ({ drawing, alone }) => drawing.length > 2 && alone.length > 2,
  );
  const ratios = whole.map(({ drawing, alone }) => median(drawing) / median(alone));
  // Of all steps: an interval alone has too few of them on a machine that others use, too.
  const [on, off] = [whole.flatMap(({ drawing }) => drawing), whole.flatMap(({ alone }) => alone)];
  const ratio = median(on) / median(off);
  const each = ratios.map((one) => one.toFixed(3)).join(", ");
  console.log(
    `previews  step while drawing ${(1000 * median(on)).toFixed(1)} ms (${on.length} steps), alone ${(1000 * median(off)).toFixed(1)} ms (${off.length})`,
  );
  console.log(
    `previews  ratio of the medians ${ratio.toFixed(3)}, limit ${LIMIT} ${judge(ratio, LIMIT)}; by interval ${each}`,
  );
}

if (process.argv[1] === import.meta.filename) await main();
