/**
 * Packed attention, forward and forward with backward, against PyTorch's scaled_dot_product_attention on the same
 * lengths and threads: runs of both taken in turn, medians. Where torch cannot be imported its lines say skipped.
 * Run alone: node dist/bench/attention.js [--rounds N] [--threads N]
 */
import { realpathSync } from "node:fs";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { median } from "../job/median.js";
import { loadNative } from "../worker/engine/load_native.js";
import { DTYPE, type TensorId } from "../worker/engine/native.js";
import { TorchPeer } from "./torch_peer.js";

interface Settings {
  name: string;
  threads: number;
  dtype: "f32" | "bf16";
  heads: number;
  width: number;
  q_lengths: number[];
  k_lengths: number[];
}

/** Medians in seconds; torch: the faster of its two ways, null where it cannot be imported. */
export interface AttentionTimes {
  forward: number;
  both: number;
  torch: { forward: number; both: number } | null;
}

const VIDEO = 512;
const IMAGE = 64;
const TEXT = 32;

/** 3 videos and 8 images of 6 heads of 64, as in the training step that is measured, and a long sample. */
function cases(threads: number): Settings[] {
  const lengths = [...new Array(3).fill(VIDEO), ...new Array(8).fill(IMAGE)] as number[];
  const all: Settings[] = [];
  for (const dtype of ["f32", "bf16"] as const) {
    const shape = { threads, dtype, heads: 6, width: 64, q_lengths: lengths };
    all.push({ ...shape, name: `self, 3 x ${VIDEO} + 8 x ${IMAGE}`, k_lengths: lengths });
    all.push({ ...shape, name: `cross, ${TEXT} text keys each`, k_lengths: lengths.map(() => TEXT) });
    all.push({ ...shape, name: "self, 1 x 2048, 2 heads", heads: 2, q_lengths: [2048], k_lengths: [2048] });
  }
  return all;
}

export async function benchAttention(settings: Settings, rounds: number): Promise<AttentionTimes> {
  const ours = new OurSide(settings);
  const torch = await TorchPeer.start("attention_torch.py", settings);
  const times = { forward: [] as number[], both: [] as number[] };
  const torchTimes = {
    forward: [] as number[],
    "forward loop": [] as number[],
    both: [] as number[],
    "both loop": [] as number[],
  };
  try {
    for (let round = -1; round < rounds; round++) {
      for (const what of ["forward", "both"] as const) {
        const seconds = ours.measure(what);
        if (round >= 0) times[what].push(seconds);
        for (const way of [what, `${what} loop`] as const) {
          const theirs = await torch?.measure(way);
          if (round >= 0 && theirs !== undefined) torchTimes[way].push(theirs);
        }
      }
    }
  } finally {
    ours.close();
    torch?.close();
  }
  const fastest = (what: "forward" | "both"): number =>
    Math.min(median(torchTimes[what]), median(torchTimes[`${what} loop`]));
  return {
    forward: median(times.forward),
    both: median(times.both),
    torch: torch === null ? null : { forward: fastest("forward"), both: fastest("both") },
  };
}

class OurSide {
  private readonly native = loadNative();
  private readonly tensors: TensorId[] = [];
  private readonly settings: Settings;
  private readonly run: (what: "forward" | "both") => void;

  constructor(settings: Settings) {
    this.settings = settings;
    this.native.threadsSet(settings.threads);
    const { heads, width, q_lengths, k_lengths } = settings;
    const [qOffsets, kOffsets] = [runningSums(q_lengths), runningSums(k_lengths)];
    const [N, M] = [qOffsets.at(-1) as number, kOffsets.at(-1) as number];
    const D = heads * width;
    const [q, dq, dout, out] = [N, N, N, N].map((rows) => this.tensor(rows * D)) as [
      number,
      number,
      number,
      number,
    ];
    const [k, v, dk, dv] = [M, M, M, M].map((rows) => this.tensor(rows * D)) as [
      number,
      number,
      number,
      number,
    ];
    const lse = this.native.tensorAlloc(DTYPE.f32, N * heads);
    this.tensors.push(lse);
    this.run = (what) => {
      this.native.attentionForward(out, lse, q, k, v, qOffsets, kOffsets, heads, width);
      if (what === "forward") return;
      this.native.attentionBackward(dq, dk, dv, dout, out, lse, q, k, v, qOffsets, kOffsets, heads, width);
    };
  }

  measure(what: "forward" | "both"): number {
    const begun = performance.now();
    this.run(what);
    return (performance.now() - begun) / 1000;
  }

  close(): void {
    for (const id of this.tensors.splice(0)) this.native.tensorFree(id);
  }

  /** Standard normal numbers. */
  private tensor(count: number): TensorId {
    const numbers = this.native.tensorAlloc(DTYPE.f32, count);
    this.native.philoxNormal(numbers, 0, count, 1n, this.tensors.length, 0, 0, 0, 1);
    const id = this.native.tensorAlloc(DTYPE[this.settings.dtype], count);
    this.native.tensorCast(id, numbers);
    this.native.tensorFree(numbers);
    this.tensors.push(id);
    return id;
  }
}

function runningSums(lengths: readonly number[]): Int32Array {
  const sums = new Int32Array(lengths.length + 1);
  for (const [i, length] of lengths.entries()) sums[i + 1] = (sums[i] as number) + length;
  return sums;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { rounds: { type: "string", default: "9" }, threads: { type: "string" } },
  });
  const threads = Number(values.threads ?? availableParallelism());
  for (const settings of cases(threads)) {
    const times = await benchAttention(settings, Number(values.rounds));
    for (const what of ["forward", "both"] as const) {
      const name = `${settings.dtype.padEnd(4)} ${settings.name}, ${what === "both" ? "forward + backward" : "forward"}`;
      const theirs = times.torch?.[what];
      const peer =
        theirs === undefined
          ? "PyTorch skipped (torch cannot be imported)"
          : `PyTorch ${(theirs * 1e3).toFixed(2).padStart(8)} ms   ratio ${(times[what] / theirs).toFixed(3)}`;
      console.log(`${name.padEnd(62)} ${(times[what] * 1e3).toFixed(2).padStart(8)} ms   ${peer}`);
    }
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) await main();
