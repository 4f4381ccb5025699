/** Slow twins of norms and gates: plain loops in float64, straight from the formulas. All matrices row-major. */
const at = (array: ArrayLike<number>, index: number): number => array[index] as number;

function add(array: Float64Array, index: number, value: number): void {
  array[index] = at(array, index) + value;
}

/** Sample of every row. */
export function rowSamples(offsets: Int32Array): number[] {
  const samples: number[] = [];
  for (let s = 0; s + 1 < offsets.length; s++) {
    for (let row = at(offsets, s); row < at(offsets, s + 1); row++) samples.push(s);
  }
  return samples;
}

export interface ModulationColumns {
  mod: Float64Array;
  modWidth: number;
  shiftColumn: number;
  scaleColumn: number;
}

export interface NormCase {
  x: Float64Array;
  offsets: Int32Array;
  D: number;
  eps: number;
  /** null: LayerNorm (mean subtracted, no weights); else RMSNorm weights. */
  w: Float64Array | null;
  modulation: ModulationColumns | null;
}

/** Mean (0 for RMSNorm) and 1/sqrt(variance + eps) of one row. */
function rowStats(c: NormCase, row: number): [number, number] {
  const numbers = c.x.subarray(row * c.D, (row + 1) * c.D);
  const mean = c.w === null ? numbers.reduce((a, b) => a + b, 0) / c.D : 0;
  const variance = numbers.reduce((sum, number) => sum + (number - mean) ** 2, 0) / c.D;
  return [mean, 1 / Math.sqrt(variance + c.eps)];
}

const modulated = (
  m: ModulationColumns | null,
  column: "shiftColumn" | "scaleColumn",
  s: number,
  c: number,
) => (m === null ? 0 : at(m.mod, s * m.modWidth + m[column] + c));

/** y = normed * w * (1 + scale) + shift. */
export function normForward(c: NormCase): { y: Float64Array; mean: Float64Array; rstd: Float64Array } {
  const samples = rowSamples(c.offsets);
  const y = new Float64Array(c.x.length);
  const mean = new Float64Array(samples.length);
  const rstd = new Float64Array(samples.length);
  for (const [row, s] of samples.entries()) {
    const [average, r] = rowStats(c, row);
    mean[row] = average;
    rstd[row] = r;
    for (let i = 0; i < c.D; i++) {
      const h = (at(c.x, row * c.D + i) - average) * r;
      const weight = c.w === null ? 1 : at(c.w, i);
      const scale = 1 + modulated(c.modulation, "scaleColumn", s, i);
      y[row * c.D + i] = h * weight * scale + modulated(c.modulation, "shiftColumn", s, i);
    }
  }
  return { y, mean, rstd };
}

/** Gradients of sum(y * dy): dx, dw and dmod (only its shift and scale columns differ from 0). */
export function normBackward(
  c: NormCase,
  dy: Float64Array,
): { dx: Float64Array; dw: Float64Array; dmod: Float64Array } {
  const dx = new Float64Array(c.x.length);
  const dw = new Float64Array(c.D);
  const dmod = new Float64Array(c.modulation?.mod.length ?? 0);
  for (const [row, s] of rowSamples(c.offsets).entries()) {
    const [average, r] = rowStats(c, row);
    const g = new Float64Array(c.D);
    const h = new Float64Array(c.D);
    for (let i = 0; i < c.D; i++) {
      const gradient = at(dy, row * c.D + i);
      const weight = c.w === null ? 1 : at(c.w, i);
      const scale = 1 + modulated(c.modulation, "scaleColumn", s, i);
      h[i] = (at(c.x, row * c.D + i) - average) * r;
      g[i] = gradient * weight * scale;
      add(dw, i, gradient * scale * at(h, i));
      if (c.modulation !== null) {
        add(dmod, s * c.modulation.modWidth + c.modulation.shiftColumn + i, gradient);
        add(dmod, s * c.modulation.modWidth + c.modulation.scaleColumn + i, gradient * weight * at(h, i));
      }
    }
    const meanG = c.w === null ? g.reduce((a, b) => a + b, 0) / c.D : 0;
    const meanGh = g.reduce((sum, one, i) => sum + one * at(h, i), 0) / c.D;
    for (let i = 0; i < c.D; i++) dx[row * c.D + i] = r * (at(g, i) - meanG - at(h, i) * meanGh);
  }
  return { dx, dw, dmod };
}

/** Pairs (2j, 2j+1) of every head turned by angle (cos, sin)[row, j]; direction -1 turns back. */
export function rotate(
  x: Float64Array,
  cos: Float64Array,
  sin: Float64Array,
  heads: number,
  width: number,
  direction: 1 | -1,
): Float64Array {
  const y = new Float64Array(x.length);
  for (let pair = 0; pair < x.length / 2; pair++) {
    const row = Math.floor((2 * pair) / (heads * width));
    const angle = row * (width / 2) + (pair % (width / 2));
    const [c, s] = [at(cos, angle), direction * at(sin, angle)];
    y[2 * pair] = at(x, 2 * pair) * c - at(x, 2 * pair + 1) * s;
    y[2 * pair + 1] = at(x, 2 * pair) * s + at(x, 2 * pair + 1) * c;
  }
  return y;
}

/** Asserts nothing itself: the derivative of loss() by input[i], by central differences. */
export function finiteDifference(loss: () => number, input: Float64Array, i: number, step = 1e-5): number {
  const kept = at(input, i);
  input[i] = kept + step;
  const above = loss();
  input[i] = kept - step;
  const below = loss();
  input[i] = kept;
  return (above - below) / (2 * step);
}
