/**
 * Checkpoints of 1 GiB of state on four ranks against PyTorch DCP and the disk itself, taken in turn in one run, medians:
 * what a snapshot costs the optimizer's step, a durable save, a load at three ranks; what snapshots cost a job in time and
 * memory; and what planning costs for 8B parameters on 8,192 ranks. Where torch cannot be imported its columns say skipped.
 * Run alone: node dist/bench/checkpoint.js [--rounds N] [--mib N] [--folder DIR]
 */
import { type ChildProcess, fork, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { median } from "../job/median.js";
import type { ModelConfig } from "../job/model_config.js";
import { parameterSpecs } from "../job/parameters.js";
import type { FromCheckpointRank, ToCheckpointRank } from "./checkpoint_rank.js";
import { commitFigures } from "./commit_figure.js";
import { judge } from "./figures.js";
import { modelOfBytes } from "./model_of_bytes.js";
import { nextMessage } from "./next_message.js";
import { planFigures, printFigures } from "./plan_figures.js";
import { reportSnapshotCost } from "./snapshot_cost.js";
import { TorchRanks } from "./torch_ranks.js";

const SAVED = { layout: "1x4x1", ranks: 4 };
const LOADED = { layout: "1x3x1", ranks: 3 };
/** Of each run of a job, beside those that warm it up. */
const STEPS = 8;
const LIMITS = {
  stallSeconds: 0.02,
  saveOverDisk: 1.25,
  saveOverDcp: 0.4,
  loadOverDcp: 0.6,
};

/** Processes of checkpoint_rank.ts that are asked together. */
class OurProcesses {
  private readonly children: ChildProcess[];

  constructor(count: number) {
    const module = new URL("./checkpoint_rank.js", import.meta.url);
    this.children = Array.from({ length: count }, () => fork(module));
  }

  async ask(order: (index: number) => ToCheckpointRank): Promise<FromCheckpointRank[]> {
    const answers = Promise.all(this.children.map((child) => nextMessage<FromCheckpointRank>(child)));
    for (const [index, child] of this.children.entries()) child.send(order(index));
    return answers;
  }

  /** Makes them the ranks of a layout that load together. */
  async connect(model: ModelConfig, layout: string, folder: string): Promise<void> {
    const heard = await this.ask((rank) => ({ kind: "listen", model, layout, rank }));
    const members = heard.map(({ port }, rank) => ({
      ...{ rank, nodeId: "bench", host: "127.0.0.1", port, pid: this.children[rank]!.pid! },
    }));
    await this.ask(() => ({ kind: "connect", members, folder }));
  }

  close(): void {
    for (const child of this.children) child.kill("SIGKILL");
  }
}

const slowest = (answers: readonly FromCheckpointRank[]) =>
  Math.max(...answers.map(({ seconds }) => seconds));

/** Seconds that the disk takes for so many bytes. */
function writePlain(file: string, bytes: number): number {
  const begun = performance.now();
  const count = Math.ceil(bytes / 2 ** 20);
  const done = spawnSync("dd", ["if=/dev/zero", `of=${file}`, "bs=1M", `count=${count}`, "conv=fsync"], {
    stdio: "ignore",
  });
  if (done.status !== 0) throw new Error(`Cannot measure the disk: dd of ${file} failed`);
  const seconds = (performance.now() - begun) / 1000;
  rmSync(file);
  return seconds;
}

interface Figures {
  bytes: number;
  plainStep: number[];
  snapshotStep: number[];
  disk: number[];
  save: number[];
  dcpSave: number[];
  load: number[];
  dcpLoad: number[];
}

async function measureAll(options: { rounds: number; bytes: number; folder: string }): Promise<Figures> {
  const { rounds, folder } = options;
  const model = modelOfBytes(options.bytes);
  const memory = mkdtempSync("/dev/shm/goku-bench-");
  const ranks = new OurProcesses(SAVED.ranks);
  const agents = new OurProcesses(2);
  const loaders = new OurProcesses(LOADED.ranks);
  const parameters = path.join(folder, "parameters.json");
  writeFileSync(parameters, JSON.stringify(parameterSpecs(model).map(({ name, shape }) => [name, shape])));
  const dcpRanks = (count: number) =>
    TorchRanks.start("checkpoint_dcp.py", count, [path.join(folder, `dcp-${count}`), parameters]);
  const dcp = {
    save: await dcpRanks(SAVED.ranks),
    load: await dcpRanks(LOADED.ranks),
  };
  const found: Figures = {
    bytes: 0,
    plainStep: [],
    snapshotStep: [],
    disk: [],
    save: [],
    dcpSave: [],
    load: [],
    dcpLoad: [],
  };
  try {
    await loaders.connect(model, LOADED.layout, memory);
    const opened = await ranks.ask((rank) => ({
      kind: "open",
      model,
      layout: SAVED.layout,
      rank,
      folder: path.join(memory, String(rank)),
    }));
    found.bytes = opened.reduce((sum, { bytes }) => sum + bytes, 0);
    for (let round = 0; round < 3 * rounds; round++) {
      found.plainStep.push(slowest(await ranks.ask(() => ({ kind: "step", snapshot: false }))));
      found.snapshotStep.push(slowest(await ranks.ask(() => ({ kind: "step", snapshot: true }))));
    }
    const slots = await ranks.ask(() => ({ kind: "step", snapshot: true }));
    const held = slots.map(({ slot }, rank) => ({ rank, slot: slot! }));
    for (let round = 0; round < rounds; round++) {
      const ours = path.join(folder, `ours-${round}`);
      const theirs = path.join(folder, `dcp-state-${round}`);
      found.disk.push(writePlain(path.join(folder, "plain"), found.bytes));
      const uri = `file://${ours}`;
      const common = { kind: "save", model, layout: SAVED.layout, uri } as const;
      found.save.push(slowest(await agents.ask((i) => ({ ...common, ranks: held.slice(2 * i, 2 * i + 2) }))));
      if (dcp.save) found.dcpSave.push(await dcp.save.measure(`save ${theirs}`));
      found.load.push(slowest(await loaders.ask(() => ({ kind: "load", uri }))));
      if (dcp.load) found.dcpLoad.push(await dcp.load.measure(`load ${theirs}`));
      for (const used of [ours, theirs]) rmSync(used, { recursive: true, force: true });
    }
    return found;
  } finally {
    for (const processes of [ranks, agents, loaders, dcp.save, dcp.load]) processes?.close();
    rmSync(memory, { recursive: true, force: true });
  }
}

function report(found: Figures): void {
  const gigabytes = (seconds: number) => `${(found.bytes / seconds / 1e9).toFixed(2)} GB/s`;
  const line = (name: string, value: string, limit: string) =>
    console.log(`${name.padEnd(46)}${value.padStart(24)}  ${limit}`);
  const seconds = (name: string, values: readonly number[]) => {
    const value = median(values);
    line(name, values.length === 0 ? "skipped" : `${value.toFixed(3)} s  ${gigabytes(value)}`, "");
  };
  const ratio = (name: string, ours: readonly number[], peer: readonly number[], limit: number) => {
    const value = median(ours) / median(peer);
    if (peer.length === 0) line(name, "skipped", "");
    else line(name, value.toFixed(3), `limit ${limit}  ${judge(value, limit)}`);
  };
  const stall = median(found.snapshotStep) - median(found.plainStep);
  line("state, over four ranks", `${(found.bytes / 2 ** 20).toFixed(0)} MiB`, "");
  line("optimizer step, no snapshot", `${(1000 * median(found.plainStep)).toFixed(1)} ms`, "");
  line("optimizer step that leaves a snapshot", `${(1000 * median(found.snapshotStep)).toFixed(1)} ms`, "");
  line(
    "stall of a snapshot",
    `${(1000 * stall).toFixed(1)} ms`,
    `limit ${1000 * LIMITS.stallSeconds} ms  ${judge(stall, LIMITS.stallSeconds)}`,
  );
  seconds("the disk itself (dd conv=fsync)", found.disk);
  seconds("durable save, until it is committed", found.save);
  seconds("DCP save", found.dcpSave);
  ratio("save over the disk's time", found.save, found.disk, LIMITS.saveOverDisk);
  ratio("save over DCP's time", found.save, found.dcpSave, LIMITS.saveOverDcp);
  seconds("load at three ranks", found.load);
  seconds("DCP load at three ranks", found.dcpLoad);
  ratio("load over DCP's time", found.load, found.dcpLoad, LIMITS.loadOverDcp);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "5" },
      mib: { type: "string", default: "1024" },
      folder: { type: "string", default: os.tmpdir() },
    },
  });
  mkdirSync(values.folder, { recursive: true });
  const folder = mkdtempSync(path.join(values.folder, "goku-bench-"));
  const [rounds, bytes] = [Number(values.rounds), Number(values.mib) * 2 ** 20];
  try {
    report(await measureAll({ rounds, bytes, folder }));
    await reportSnapshotCost({ rounds, steps: STEPS, stateBytes: bytes, folder });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  printFigures([...(await planFigures()), ...(await commitFigures())]);
}

if (realpathSync(process.argv[1]!) === fileURLToPath(import.meta.url)) await main();
