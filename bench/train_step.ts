/**
 * One training step (forward, backward, clipping, AdamW, EMA) against the same model in PyTorch eager: same threads,
 * steps of both taken in turn, medians. Where torch cannot be imported its lines say skipped.
 * Run alone: node dist/bench/train_step.js [--rounds N] [--threads N] [--bf16 | --fp32]
 */
import { type ChildProcess, fork } from "node:child_process";
import { realpathSync } from "node:fs";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { median } from "../job/median.js";
import { judge } from "./figures.js";
import { TorchPeer } from "./torch_peer.js";
import type { FromTrainStepRank, ToTrainStepRank, TrainStepSettings } from "./train_step_rank.js";

/** One measured figure; a limit makes it a check: above it, the process exits with 1. */
export interface BenchLine {
  name: string;
  /** null: the peer is not there. */
  value: number | null;
  unit: string;
  /** At most this; null: for information. */
  limit: number | null;
}

/** The step of the product's promise: 8 images of 64 tokens and 3 videos of 512, 32 text tokens each. */
function settings(bf16: boolean, threads: number): TrainStepSettings {
  const image: [number, number, number] = [1, 8, 8];
  const video: [number, number, number] = [8, 8, 8];
  const grids = [...new Array(8).fill(image), ...new Array(3).fill(video)] as [number, number, number][];
  return {
    threads,
    bf16,
    model: { depth: 6, width: 384, heads: 6, text_width: 512, latent_channels: 16, patch: [1, 2, 2] },
    grids,
    text_lengths: grids.map(() => 32),
  };
}

const LIMITS = { fp32: { time: 0.6, memory: 0.7 }, bf16: { time: 0.65, memory: 0.7 }, overhead: 0.03 };

/** Measures one precision; `rounds` steps of each side after one to warm up. */
export async function benchTrainStep(options: {
  bf16: boolean;
  rounds: number;
  threads: number;
}): Promise<BenchLine[]> {
  const { bf16, rounds, threads } = options;
  const precision = bf16 ? "bf16" : "fp32";
  const ours = await OurSide.start(settings(bf16, threads));
  const torch = await TorchPeer.start("train_step_torch.py", settings(bf16, threads));
  const times = { ours: [] as number[], torch: [] as number[] };
  try {
    await ours.ask("step");
    await torch?.measure("step");
    for (let round = 0; round < rounds; round++) {
      times.ours.push((await ours.ask("step")).seconds!);
      if (torch) times.torch.push(await torch.measure("step"));
    }
    const peak = await ours.ask("peak");
    const measured = await ours.ask("measured step");
    const name = (what: string) => `train step ${precision}: ${what}`;
    const lines: BenchLine[] = [
      { name: name("seconds"), value: median(times.ours), unit: "s", limit: null },
      { name: name("peak resident memory"), value: peak.peakBytes! / 2 ** 20, unit: "MiB", limit: null },
      { name: name("peak tensor memory"), value: peak.tensorPeakBytes! / 2 ** 20, unit: "MiB", limit: null },
      {
        name: name("engine overhead"),
        value: measured.overhead!,
        unit: "of the step",
        limit: LIMITS.overhead,
      },
    ];
    for (const [call, seconds] of measured.profile!.slice(0, 8)) {
      lines.push({ name: name(`  ${call}`), value: seconds, unit: "s", limit: null });
    }
    const torchPeak = (await torch?.peakBytes()) ?? null;
    const torchSeconds = torch ? median(times.torch) : null;
    const over = (value: number, peer: number | null) => (peer === null ? null : value / peer);
    const limit = LIMITS[precision];
    lines.push(
      { name: name("PyTorch seconds"), value: torchSeconds, unit: "s", limit: null },
      {
        name: name("PyTorch peak resident memory"),
        value: torchPeak === null ? null : torchPeak / 2 ** 20,
        unit: "MiB",
        limit: null,
      },
      {
        name: name("time over PyTorch's"),
        value: over(median(times.ours), torchSeconds),
        unit: "",
        limit: limit.time,
      },
      {
        name: name("peak memory over PyTorch's"),
        value: over(peak.peakBytes!, torchPeak),
        unit: "",
        limit: limit.memory,
      },
    );
    return lines;
  } finally {
    ours.close();
    torch?.close();
  }
}

class OurSide {
  private readonly child: ChildProcess;

  private constructor(child: ChildProcess) {
    this.child = child;
  }

  static async start(side: TrainStepSettings): Promise<OurSide> {
    const env = { ...process.env, OMP_WAIT_POLICY: "passive" }; // as agents start ranks
    const rank = new OurSide(fork(new URL("./train_step_rank.js", import.meta.url), { env }));
    await rank.ask({ settings: side });
    return rank;
  }

  ask(message: ToTrainStepRank): Promise<FromTrainStepRank> {
    return new Promise((resolve, reject) => {
      const ended = (code: number | null) =>
        reject(new Error(`Cannot measure: our process ended with exit code ${code}`));
      this.child.once("exit", ended);
      this.child.once("message", (answer) => {
        this.child.off("exit", ended);
        resolve(answer as FromTrainStepRank);
      });
      this.child.send(message);
    });
  }

  close(): void {
    this.child.kill("SIGKILL");
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "5" },
      threads: { type: "string", default: String(availableParallelism()) },
      bf16: { type: "boolean", default: false },
      fp32: { type: "boolean", default: false },
    },
  });
  const both = values.bf16 === values.fp32;
  const sizes = { rounds: Number(values.rounds), threads: Number(values.threads) };
  for (const bf16 of both ? [false, true] : [values.bf16]) {
    for (const { name, value, unit, limit } of await benchTrainStep({ bf16, ...sizes })) {
      const judged = limit === null || value === null ? "" : `  limit ${limit}  ${judge(value, limit)}`;
      const shown = value === null ? "skipped (no torch)" : `${value.toFixed(4).padStart(12)} ${unit}`;
      console.log(`${name.padEnd(52)} ${shown}${judged}`);
    }
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) await main();
