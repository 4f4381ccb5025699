/**
 * The three products of a linear layer (forward, gradient of the input, gradient of the weight) in GFLOPS, against
 * PyTorch on the same shapes and threads: runs of both taken in turn, medians. Where torch cannot be imported its
 * column says skipped. Run alone: node dist/bench/gemm.js [--rounds N] [--threads N]
 */
import { realpathSync } from "node:fs";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { median } from "../job/median.js";
import { loadNative } from "../worker/engine/load_native.js";
import { DTYPE, type TensorId } from "../worker/engine/native.js";
import { TorchPeer } from "./torch_peer.js";

interface Shape {
  name: string;
  /** Rows, in-width, out-width. */
  N: number;
  K: number;
  F: number;
}
type DType = "f32" | "bf16";
const PRODUCTS = ["forward", "input", "weight"] as const;
type Product = (typeof PRODUCTS)[number];

/** The layers of the training step that is measured (width 384, a pack of 2048 tokens), and one of goku-nano. */
const SHAPES: Shape[] = [
  { name: "attention projection", N: 2048, K: 384, F: 384 },
  { name: "MLP in", N: 2048, K: 384, F: 1536 },
  { name: "MLP out", N: 2048, K: 1536, F: 384 },
  { name: "text keys", N: 352, K: 512, F: 384 },
  { name: "modulation", N: 11, K: 384, F: 2304 },
  { name: "goku-nano MLP in", N: 512, K: 128, F: 512 },
];

/** Our three products of one shape. */
class OurSide {
  private readonly native = loadNative();
  private readonly tensors: TensorId[] = [];
  private readonly products: Record<Product, () => void>;

  constructor({ N, K, F }: Shape, dtype: DType, threads: number) {
    const { native } = this;
    native.threadsSet(threads);
    const [x, w, dy] = [this.normals(N * K, dtype), this.normals(F * K, dtype), this.normals(N * F, dtype)];
    const [y, dx, dw] = [this.alloc(N * F, dtype), this.alloc(N * K, dtype), this.alloc(F * K, "f32")];
    this.products = {
      forward: () => native.linearForward(y, x, w, 0, N, K, F, 0),
      input: () => native.linearBackwardInput(dx, dy, w, N, K, F, false),
      weight: () => native.linearBackwardWeight(dw, 0, dy, x, N, K, F, false),
    };
  }

  /** Seconds of one run, the mean of `repeats`. */
  measure(product: Product, repeats: number): number {
    const begun = performance.now();
    for (let i = 0; i < repeats; i++) this.products[product]();
    return (performance.now() - begun) / 1000 / repeats;
  }

  close(): void {
    for (const id of this.tensors.splice(0)) this.native.tensorFree(id);
  }

  private alloc(count: number, dtype: DType): TensorId {
    const id = this.native.tensorAlloc(DTYPE[dtype], count);
    this.tensors.push(id);
    return id;
  }

  private normals(count: number, dtype: DType): TensorId {
    const numbers = this.alloc(count, "f32");
    this.native.philoxNormal(numbers, 0, count, 1n, this.tensors.length, 0, 0, 0, 1);
    const id = this.alloc(count, dtype);
    this.native.tensorCast(id, numbers);
    return id;
  }
}

/** Seconds by product; torch null where it cannot be imported. */
type Times = Record<Product, { ours: number; torch: number | null }>;

export async function benchGemm(shape: Shape, dtype: DType, threads: number, rounds: number): Promise<Times> {
  const ours = new OurSide(shape, dtype, threads);
  const torch = await TorchPeer.start("gemm_torch.py", { ...shape, dtype, threads } as { threads: number });
  const times = {} as Times;
  try {
    for (const product of PRODUCTS) {
      const [ourRuns, torchRuns]: [number[], number[]] = [[], []];
      // Each side repeats a product until a run takes some 20 ms; a first run warms both up.
      const repeats = Math.ceil(0.02 / ours.measure(product, 1));
      const torchRepeats = torch ? Math.ceil(0.02 / (await torch.measure(`${product} 1`))) : 0;
      for (let round = 0; round < rounds; round++) {
        ourRuns.push(ours.measure(product, repeats));
        if (torch) torchRuns.push(await torch.measure(`${product} ${torchRepeats}`));
      }
      times[product] = { ours: median(ourRuns), torch: torch ? median(torchRuns) : null };
    }
  } finally {
    ours.close();
    torch?.close();
  }
  return times;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { rounds: { type: "string", default: "7" }, threads: { type: "string" } },
  });
  const threads = Number(values.threads ?? availableParallelism());
  const { isa } = loadNative().cpuInfo();
  console.log(`GFLOPS, ${threads} threads, ${isa}; ratio: our time over PyTorch's`);
  for (const dtype of ["f32", "bf16"] as const) {
    for (const shape of SHAPES) {
      const times = await benchGemm(shape, dtype, threads, Number(values.rounds));
      for (const product of PRODUCTS) {
        const { ours, torch } = times[product];
        const rate = (seconds: number) =>
          ((2e-9 * shape.N * shape.K * shape.F) / seconds).toFixed(1).padStart(7);
        const peer =
          torch === null
            ? "PyTorch skipped (torch cannot be imported)"
            : `PyTorch ${rate(torch)}   ratio ${(ours / torch).toFixed(3)}`;
        const name = `${dtype.padEnd(4)} ${shape.name} ${shape.N}x${shape.K}x${shape.F}, ${product}`;
        console.log(`${name.padEnd(52)} ${rate(ours)}   ${peer}`);
      }
    }
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) await main();
