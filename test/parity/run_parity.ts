import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { Layout } from "../../job/layout.js";
import { parameterSpecs } from "../../job/parameters.js";
import { loadNative } from "../../worker/engine/load_native.js";
import { Arena } from "../../worker/engine/tensor.js";
import { sampleLatents } from "../../worker/model/sampler.js";
import { WholeWeights } from "../../worker/model/whole_weights.js";
import { runRanks } from "../support/rank_process.js";
import { type ParityCase, readParityCase } from "./parity_case.js";
import type { ParityResult, ParityRun, ParityTask, ParityWorld, Piece } from "./parity_rank.js";

/** One compared quantity. */
export interface ParityLine {
  quantity: string;
  /** ||a - b|| / ||b||, NaN when anything is not a number. */
  error: number;
  /** null: shown, not judged. */
  limit: number | null;
  ok: boolean;
}

interface Limits {
  velocity: number;
  loss: number;
  /** Losses of all three steps, after weights have moved. */
  losses: number | null;
  norms: number;
  gradient: number;
  parameter: number | null;
  sample: number | null;
}
const LIMITS: Record<"fp32" | "bf16", Limits> = {
  fp32: {
    velocity: 3e-6,
    loss: 3e-6,
    losses: 3e-6,
    norms: 3e-6,
    gradient: 5e-6,
    parameter: 1e-4,
    sample: 3e-6,
  },
  bf16: {
    velocity: 1.5e-2,
    loss: 1e-3,
    losses: null,
    norms: 3e-3,
    gradient: 4e-2,
    parameter: null,
    sample: null,
  },
};

/** Computes cases on real rank processes and compares every quantity with the golden values; one list per run. */
export async function runParity(runs: readonly ParityRun[], world: ParityWorld): Promise<ParityLine[][]> {
  for (const run of runs) await readParityCase(run.path);
  const trained = await trainOnRanks(runs, world);
  const lines: ParityLine[][] = [];
  for (const [i, run] of runs.entries()) lines.push(await compareRun(run, trained[i]!));
  return lines;
}

async function compareRun(run: ParityRun, trained: Trained): Promise<ParityLine[]> {
  const parityCase = await readParityCase(run.path);
  const limits = run.bf16 ? LIMITS.bf16 : LIMITS.fp32;
  const line = (quantity: string, error: number, limit: number | null): ParityLine => ({
    quantity,
    error,
    limit,
    ok: Number.isFinite(error) && (limit === null || error <= limit),
  });
  const compare = (quantity: string, values: ArrayLike<number>, golden: string, limit: number | null) =>
    line(quantity, relativeError(values, parityCase.tensor(golden)), limit);
  const worst = (quantity: string, prefix: string, limit: number | null) => {
    const errors = parameterSpecs(parityCase.model).map(({ name }) => ({
      name,
      error: relativeError(
        trained.whole(`${prefix}.${name}`, parityCase),
        parityCase.tensor(`${prefix}.${name}`),
      ),
    }));
    const found = errors.reduce((a, b) => (a.error >= b.error || Number.isNaN(a.error) ? a : b));
    return line(`${quantity} (${found.name})`, found.error, limit);
  };
  const lines = [
    compare("velocity", trained.whole("velocity", parityCase), "velocity", limits.velocity),
    compare("loss", trained.losses.slice(0, 1), "loss", limits.loss),
    compare("losses", trained.losses, "losses", limits.losses),
    compare("norms", trained.norms, "norms", limits.norms),
    worst("worst gradient", "grad", limits.gradient),
    worst("worst parameter after three steps", "after", limits.parameter),
    worst("worst ema after three steps", "ema", limits.parameter),
  ];
  for (const { name, values } of await samplesOf(run, parityCase)) {
    lines.push(compare(name, values, name, limits.sample));
  }
  lines.push(line("bytes leaked by the steps", trained.leakedBytes, 0));
  return lines;
}

/** ||a - b|| / ||b|| in float64; ||a|| where b is all zero; NaN where the lengths differ. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.NaN;
  let difference = 0;
  let size = 0;
  for (let i = 0; i < a.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return Math.sqrt(difference) / (size > 0 ? Math.sqrt(size) : 1);
}

/** What all ranks together made of a case. */
class Trained {
  readonly losses: number[];
  readonly norms: number[];
  readonly leakedBytes: number;
  private readonly pieces = new Map<string, Piece[]>();

  constructor(results: readonly ParityResult[]) {
    this.losses = results[0]!.losses;
    this.norms = results[0]!.norms;
    this.leakedBytes = Math.max(...results.map((result) => Math.abs(result.leakedBytes)));
    for (const piece of results.flatMap((result) => result.pieces)) {
      const known = this.pieces.get(piece.name);
      if (known) known.push(piece);
      else this.pieces.set(piece.name, [piece]);
    }
  }

  /** A run put together; what no rank sent is NaN. */
  whole(name: string, parityCase: ParityCase): Float32Array {
    const whole = new Float32Array(parityCase.tensor(name).length).fill(Number.NaN);
    for (const { start, values } of this.pieces.get(name) ?? []) whole.set(values, start);
    return whole;
  }
}

async function trainOnRanks(runs: readonly ParityRun[], world: ParityWorld): Promise<Trained[]> {
  const folder = await mkdtemp(path.join(tmpdir(), "goku-parity-"));
  try {
    const { worldSize } = Layout.parse(world.layout);
    const task: ParityTask = {
      ...world,
      runs: runs.map((run) => ({ ...run, path: path.resolve(run.path) })),
      folder,
    };
    const ranks = await runRanks<ParityTask, ParityResult[]>(RANK_MODULE, worldSize, task);
    return runs.map((_, i) => new Trained(ranks.map((results) => results[i]!)));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const RANK_MODULE = new URL("./parity_rank.js", import.meta.url);

interface DrawnSample {
  name: string;
  values: Float32Array;
}

/** By case and precision: they depend on nothing else. */
const drawn = new Map<string, Promise<DrawnSample[]>>();

function samplesOf({ path: file, bf16 }: ParityRun, parityCase: ParityCase): Promise<DrawnSample[]> {
  const key = `${path.resolve(file)} ${bf16}`;
  const known = drawn.get(key) ?? drawSamples(parityCase, bf16);
  drawn.set(key, known);
  return known;
}

/** Both samplers, from the parameters before training, in this process. */
async function drawSamples(parityCase: ParityCase, bf16: boolean): Promise<DrawnSample[]> {
  const { model, sampler } = parityCase;
  const native = loadNative();
  native.threadsSet(1); // the cases are small
  const arena = new Arena(native);
  const dtype = bf16 ? "bf16" : "f32";
  const weights = new WholeWeights(model, ({ name, count }) =>
    arena.from(parityCase.tensor(`param.${name}`), dtype, count),
  );
  const samples: DrawnSample[] = [];
  for (const guidance of sampler.guidance) {
    const values = await sampleLatents(arena, model, dtype, weights, {
      grids: parityCase.grids,
      text: { lengths: parityCase.textLengths, data: parityCase.tensor("text") },
      emptyText: { lengths: sampler.emptyLengths, data: parityCase.tensor("empty_text") },
      steps: sampler.steps,
      guidance,
      shift: sampler.shift,
      noise: parityCase.tensor("noise"),
      reference: model.reference_frame ? parityCase.tensor("reference") : null,
    });
    samples.push({ name: `sample.g${guidance}`, values });
  }
  weights.close();
  return samples;
}
