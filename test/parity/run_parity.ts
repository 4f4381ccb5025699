import { type ChildProcess, fork } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { Layout } from "../../job/layout.js";
import { parameterSpecs } from "../../job/parameters.js";
import { loadNative } from "../../worker/engine/load_native.js";
import type { CommEndpoint } from "../../worker/engine/native.js";
import { Arena } from "../../worker/engine/tensor.js";
import { sampleLatents } from "../../worker/model/sampler.js";
import { WholeWeights } from "../../worker/model/whole_weights.js";
import { type ParityCase, readParityCase } from "./parity_case.js";
import type { FromParityRank, ParityOptions, Piece, RankTask, ToParityRank } from "./parity_messages.js";

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
  norms: number;
  gradient: number;
  parameter: number | null;
  sample: number | null;
}
const LIMITS: Record<"fp32" | "bf16", Limits> = {
  fp32: { velocity: 3e-6, loss: 3e-6, norms: 3e-6, gradient: 5e-6, parameter: 1e-4, sample: 3e-6 },
  bf16: { velocity: 1.5e-2, loss: 1e-3, norms: 3e-3, gradient: 4e-2, parameter: null, sample: null },
};

/** Computes a case on real rank processes and compares every quantity with the golden values. */
export async function runParity(casePath: string, options: ParityOptions): Promise<ParityLine[]> {
  const parityCase = await readParityCase(casePath);
  const trained = await trainOnRanks(casePath, options);
  const limits = options.bf16 ? LIMITS.bf16 : LIMITS.fp32;
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
    compare("losses", trained.losses, "losses", limits.loss),
    compare("norms", trained.norms, "norms", limits.norms),
    worst("worst gradient", "grad", limits.gradient),
    worst("worst parameter after three steps", "after", limits.parameter),
    worst("worst ema after three steps", "ema", limits.parameter),
  ];
  for (const { name, values } of await drawSamples(parityCase, options)) {
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

class Trained {
  losses: number[] = [];
  norms: number[] = [];
  leakedBytes = 0;
  private readonly pieces = new Map<string, Piece[]>();

  add(pieces: readonly Piece[]): void {
    for (const piece of pieces) {
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

async function trainOnRanks(casePath: string, options: ParityOptions): Promise<Trained> {
  const layout = Layout.parse(options.layout);
  const folder = await mkdtemp(path.join(tmpdir(), "goku-parity-"));
  const children: ChildProcess[] = [];
  try {
    const ranks = Array.from({ length: layout.worldSize }, (_, rank) => {
      const child = fork(new URL("./parity_rank.js", import.meta.url), { serialization: "advanced" });
      children.push(child);
      return new RankProcess(child, { ...options, path: path.resolve(casePath), rank, folder });
    });
    const members = await Promise.all(ranks.map((rank) => rank.ready));
    for (const rank of ranks) rank.connect(members);
    const trained = new Trained();
    const results = await Promise.all(ranks.map((rank) => rank.result));
    for (const { pieces, result } of results) {
      trained.add(pieces);
      trained.leakedBytes = Math.max(trained.leakedBytes, Math.abs(result.leakedBytes));
    }
    trained.losses = results[0]!.result.losses;
    trained.norms = results[0]!.result.norms;
    return trained;
  } finally {
    for (const child of children) child.kill("SIGKILL");
    await rm(folder, { recursive: true, force: true });
  }
}

/** A promise and its two ends. */
function deferred<T>() {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}

type RankResult = { pieces: Piece[]; result: Extract<FromParityRank, { kind: "result" }> };

/** A forked rank and what it says. */
class RankProcess {
  readonly ready: Promise<CommEndpoint>;
  readonly result: Promise<RankResult>;
  private readonly child: ChildProcess;

  constructor(child: ChildProcess, task: RankTask) {
    this.child = child;
    const ready = deferred<CommEndpoint>();
    const result = deferred<RankResult>();
    const fail = (message: string) => {
      const error = new Error(`rank ${task.rank}: ${message}`);
      ready.reject(error);
      result.reject(error);
    };
    const pieces: Piece[] = [];
    child.on("message", (raw) => {
      const message = raw as FromParityRank;
      if (message.kind === "ready") ready.resolve(message.endpoint);
      else if (message.kind === "pieces") pieces.push(...message.pieces);
      else if (message.kind === "failed") fail(message.message);
      else result.resolve({ pieces, result: message });
    });
    child.on("exit", (code, signal) => fail(`ended early, exit code ${code}, signal ${signal}`));
    child.on("error", (error) => fail(error.message));
    this.ready = ready.promise;
    this.result = result.promise;
    // Both fail together; whoever awaits first reports it.
    this.ready.catch(() => {});
    this.result.catch(() => {});
    child.send({ kind: "task", task } satisfies ToParityRank);
  }

  connect(members: CommEndpoint[]): void {
    this.child.send({ kind: "connect", members } satisfies ToParityRank);
  }
}

/** Both samplers, from the parameters before training, in this process. */
async function drawSamples(
  parityCase: ParityCase,
  options: ParityOptions,
): Promise<{ name: string; values: Float32Array }[]> {
  const { model, sampler } = parityCase;
  const arena = new Arena(loadNative());
  const dtype = options.bf16 ? "bf16" : "f32";
  const weights = new WholeWeights(arena, model, dtype, ({ name }) => parityCase.tensor(`param.${name}`));
  const samples: { name: string; values: Float32Array }[] = [];
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
