import type { ParameterSpec } from "../job/parameters.js";
import type { Checkpoint } from "./checkpoint.js";
import { CHUNK_BYTES } from "./digest.js";
import type { StateKind } from "./state.js";

/** How far apart the elements of one tensor are. */
export interface TensorDiff {
  /** "<kind>/<parameter name>". */
  tensor: string;
  count: number;
  /** Elements whose bits differ; 0: the tensors are equal. */
  differing: number;
  /** Of them, where either is no finite number. They count as infinitely far apart. */
  nonFinite: number;
  /** Largest |a - b|. */
  maxAbs: number;
  /** ||a - b|| / ||b||, infinite where only b is zero. */
  relative: number;
}

/** Read of either checkpoint at once. */
const PART_BYTES = 8 * CHUNK_BYTES;

/**
 * Compares every tensor of these kinds that both checkpoints hold in one shape, a few MiB at a time, each byte checked
 * against its digest. The furthest apart come first.
 */
export async function diffTensors(
  a: Checkpoint,
  b: Checkpoint,
  options: {
    kinds: readonly StateKind[];
    onProgress?: (progress: { bytesDone: number; bytesTotal: number }) => void;
  },
): Promise<TensorDiff[]> {
  const specs = commonSpecs(a, b);
  const kinds = options.kinds.filter((kind) => a.kinds.includes(kind) && b.kinds.includes(kind));
  const bytesTotal = 8 * kinds.length * specs.reduce((sum, { count }) => sum + count, 0);
  let bytesDone = 0;
  const found: TensorDiff[] = [];
  for (const kind of kinds) {
    for (const { name, count } of specs) {
      const sum = new DistanceSum();
      for (const interval of await a.cut(`${kind}/${name}`, PART_BYTES)) {
        sum.add(await a.readInterval(interval), await b.readInterval(interval));
        bytesDone += 8 * interval.length;
        options.onProgress?.({ bytesDone, bytesTotal });
      }
      found.push({ tensor: `${kind}/${name}`, count, ...sum.result() });
    }
  }
  return found.sort((x, y) => order(y.relative, x.relative) || order(y.differing, x.differing));
}

function commonSpecs(a: Checkpoint, b: Checkpoint): ParameterSpec[] {
  const shapes = new Map(b.specs.map(({ name, shape }) => [name, shape.join("x")]));
  return a.specs.filter(({ name, shape }) => shapes.get(name) === shape.join("x"));
}

/** Not by subtraction, which makes NaN of two infinities. */
function order(x: number, y: number): number {
  return x < y ? -1 : x > y ? 1 : 0;
}

class DistanceSum {
  #differing = 0;
  #nonFinite = 0;
  #maxAbs = 0;
  #squares = 0;
  #squaresOfB = 0;

  add(a: Float32Array, b: Float32Array): void {
    const bitsOfA = new Uint32Array(a.buffer);
    const bitsOfB = new Uint32Array(b.buffer);
    for (let i = 0; i < b.length; i++) {
      const value = b[i]!;
      this.#squaresOfB += value * value;
      if (bitsOfA[i] === bitsOfB[i]) continue;
      this.#differing++;
      const distance = Math.abs(a[i]! - value);
      if (distance < Number.POSITIVE_INFINITY) {
        if (distance > this.#maxAbs) this.#maxAbs = distance;
        this.#squares += distance * distance;
      } else this.#nonFinite++;
    }
  }

  result(): Omit<TensorDiff, "tensor" | "count"> {
    const infinite = this.#nonFinite > 0;
    const relative = this.#squares === 0 ? 0 : Math.sqrt(this.#squares / this.#squaresOfB);
    return {
      differing: this.#differing,
      nonFinite: this.#nonFinite,
      maxAbs: infinite ? Number.POSITIVE_INFINITY : this.#maxAbs,
      // A NaN that both hold alike makes ||b|| no number; what then differs has no scale.
      relative: infinite || Number.isNaN(relative) ? Number.POSITIVE_INFINITY : relative,
    };
  }
}
