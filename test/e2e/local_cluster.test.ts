import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { after, test } from "node:test";
import { entryPoint } from "../../job/entry_points.js";
import { writeShapes } from "../../worker/data/shapes/write_shapes.js";

/** `train --local` as a person runs it: in a process group of its own, which Ctrl-C reaches as a whole. */
const scratch = mkdtempSync(path.join(tmpdir(), "goku-local-test-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

async function jobFile(): Promise<string> {
  await writeShapes({ directory: path.join(scratch, "media"), singles: 24, pairs: 8, clips: 3 });
  const file = path.join(scratch, "job.yaml");
  writeFileSync(
    file,
    `name: local
model: { preset: goku-nano, depth: 2, width: 64, heads: 2, text_width: 32 }
data: { media: ${scratch}/media }
train: { steps: 100000, packs_per_step: 2, tokens_per_pack: 128 }
checkpoint: { uri: "file://${scratch}/run", every_steps: 100000 }
`,
  );
  return file;
}

interface Line {
  kind?: string;
  step?: { step: number } | number | null;
  phase?: string;
}

/** Runs it with --json; `onStep` sees every step. Returns all lines, and how it ended. */
async function trainLocal(
  file: string,
  onStep: (step: number, child: ChildProcess) => void,
): Promise<{ lines: Line[]; code: number | null; stderr: string; temporary: string }> {
  const temporary = path.join(scratch, "tmp");
  mkdirSync(temporary);
  const main = entryPoint("gokuctl");
  const child = spawn(process.execPath, [main, "train", file, "--local", "2x1", "--json"], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, TMPDIR: temporary },
    detached: true,
  });
  let stderr = "";
  child.stderr.on("data", (chunk) => {
    stderr += chunk;
  });
  const lines: Line[] = [];
  for await (const text of createInterface({ input: child.stdout })) {
    const line = JSON.parse(text) as Line;
    lines.push(line);
    if (line.kind === "step" && typeof line.step === "object") onStep(line.step!.step, child);
  }
  if (child.exitCode === null) await once(child, "exit");
  return { lines, code: child.exitCode, stderr, temporary };
}

/** Process of the local controller: the child of gokuctl that was started as one. */
function controllerPid(gokuctl: number): number {
  const children = readFileSync(`/proc/${gokuctl}/task/${gokuctl}/children`, "utf8").trim().split(" ");
  const found = children.find((pid) =>
    readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").includes("controller"),
  );
  return Number(found);
}

test("train --local: training outlives its controller; Ctrl-C saves, stops, ends with 130 and leaves nothing behind", async () => {
  let killedAt: number | null = null;
  let memory: string[] = [];
  let interrupted = false;
  const { lines, code, stderr, temporary } = await trainLocal(await jobFile(), (step, child) => {
    if (killedAt === null) {
      process.kill(controllerPid(child.pid!), "SIGKILL");
      killedAt = step;
      memory = readdirSync(path.join(scratch, "tmp"))
        .map((name) => path.join("/dev/shm/goku", name))
        .filter(existsSync);
    } else if (!interrupted && step >= killedAt + 5) {
      process.kill(-child.pid!, "SIGINT");
      interrupted = true;
    }
  });
  assert.equal(code, 130, stderr);
  assert.match(stderr, /Stopping local after a checkpoint/);
  const last = lines.at(-1)!;
  assert.equal(last.phase, "STOPPED");
  const left = readdirSync(path.join(scratch, "run")).sort();
  assert.deepEqual(left, [`checkpoint-${last.step}`, "metrics.jsonl", "tensorboard"]);
  assert.deepEqual(readdirSync(temporary), []);
  assert.equal(memory.length, 1);
  assert.ok(!existsSync(memory[0]!), "its shared memory");
});
