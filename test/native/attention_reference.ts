/** Slow twin of packed attention: plain loops in float64, straight from the formulas. */
export interface AttentionCase {
  heads: number;
  width: number;
  qOffsets: Int32Array;
  kOffsets: Int32Array;
  q: Float64Array;
  k: Float64Array;
  v: Float64Array;
}

const at = (array: Float64Array, index: number): number => array[index] as number;

/** Calls visit(query row, head, key rows of the sample, p over them, log-sum-exp). */
function eachQuery(
  c: AttentionCase,
  visit: (row: number, head: number, keyStart: number, p: Float64Array, lse: number) => void,
): void {
  const { heads: H, width: d } = c;
  for (let s = 0; s + 1 < c.qOffsets.length; s++) {
    const [keyStart, keyEnd] = [c.kOffsets[s] as number, c.kOffsets[s + 1] as number];
    for (let row = c.qOffsets[s] as number; row < (c.qOffsets[s + 1] as number); row++) {
      for (let head = 0; head < H; head++) {
        const scores = new Float64Array(keyEnd - keyStart);
        for (let j = 0; j < scores.length; j++) {
          let score = 0;
          for (let i = 0; i < d; i++) {
            score += at(c.q, (row * H + head) * d + i) * at(c.k, ((keyStart + j) * H + head) * d + i);
          }
          scores[j] = score / Math.sqrt(d);
        }
        const top = scores.reduce((a, b) => Math.max(a, b), -Infinity);
        const total = scores.reduce((sum, score) => sum + Math.exp(score - top), 0);
        const lse = scores.length === 0 ? -Infinity : top + Math.log(total);
        visit(
          row,
          head,
          keyStart,
          scores.map((score) => Math.exp(score - lse)),
          lse,
        );
      }
    }
  }
}

export function attentionForward(c: AttentionCase): { out: Float64Array; lse: Float64Array } {
  const { heads: H, width: d } = c;
  const out = new Float64Array(c.q.length);
  const lse = new Float64Array(c.q.length / d);
  eachQuery(c, (row, head, keyStart, p, queryLse) => {
    lse[row * H + head] = queryLse;
    for (let j = 0; j < p.length; j++) {
      for (let i = 0; i < d; i++) {
        out[(row * H + head) * d + i] =
          at(out, (row * H + head) * d + i) + at(p, j) * at(c.v, ((keyStart + j) * H + head) * d + i);
      }
    }
  });
  return { out, lse };
}

/** dv = p^T dout; dp = dout v^T; ds = p * (dp - sum(p * dp)); dq = ds k / sqrt(d); dk = ds^T q / sqrt(d). */
export function attentionBackward(
  c: AttentionCase,
  dout: Float64Array,
): { dq: Float64Array; dk: Float64Array; dv: Float64Array } {
  const { heads: H, width: d } = c;
  const dq = new Float64Array(c.q.length);
  const dk = new Float64Array(c.k.length);
  const dv = new Float64Array(c.v.length);
  eachQuery(c, (row, head, keyStart, p) => {
    const query = (row * H + head) * d;
    const dp = p.map((_, j) => {
      const key = ((keyStart + j) * H + head) * d;
      let sum = 0;
      for (let i = 0; i < d; i++) sum += at(dout, query + i) * at(c.v, key + i);
      return sum;
    });
    const delta = p.reduce((sum, one, j) => sum + one * at(dp, j), 0);
    for (let j = 0; j < p.length; j++) {
      const key = ((keyStart + j) * H + head) * d;
      const ds = (at(p, j) * (at(dp, j) - delta)) / Math.sqrt(d);
      for (let i = 0; i < d; i++) {
        dv[key + i] = at(dv, key + i) + at(p, j) * at(dout, query + i);
        dq[query + i] = at(dq, query + i) + ds * at(c.k, key + i);
        dk[key + i] = at(dk, key + i) + ds * at(c.q, query + i);
      }
    }
  });
  return { dq, dk, dv };
}
