import type { Tape, Value } from "../tape.js";

/** Packed attention over `heads` heads: sample i's queries see its own keys only. q: [N, heads*d]; k, v: [M, heads*d]. */
export function attention(
  tape: Tape,
  q: Value,
  k: Value,
  v: Value,
  offsets: { query: Int32Array; key: Int32Array },
  heads: number,
  headWidth: number,
): Value {
  const { native, arena } = tape;
  const rows = q.tensor.rows;
  const out = tape.alloc(q.tensor.dtype, rows, heads * headWidth);
  const lse = tape.alloc("f32", rows, heads);
  const empty = rows === 0 || heads === 0;
  if (!empty) {
    native.attentionForward(
      out.id,
      lse.id,
      q.tensor.id,
      k.tensor.id,
      v.tensor.id,
      offsets.query,
      offsets.key,
      heads,
      headWidth,
    );
  }
  const value = tape.output(out);
  if (!tape.recording) {
    lse.free();
    return value;
  }
  const saved = [tape.save(q), tape.save(k), tape.save(v), tape.save(value), lse] as const;
  tape.record(saved, () => {
    const dout = value.takeGrad();
    const dq = arena.alloc(q.tensor.dtype, ...q.tensor.shape);
    const dk = arena.alloc(k.tensor.dtype, ...k.tensor.shape);
    const dv = arena.alloc(v.tensor.dtype, ...v.tensor.shape);
    if (!empty) {
      const [qs, ks, vs, outs] = saved;
      native.attentionBackward(
        dq.id,
        dk.id,
        dv.id,
        dout.id,
        outs.use().id,
        lse.id,
        qs.use().id,
        ks.use().id,
        vs.use().id,
        offsets.query,
        offsets.key,
        heads,
        headWidth,
      );
    } else {
      for (const gradient of [dk, dv]) if (gradient.count > 0) native.tensorFill(gradient.id, 0);
    }
    dout.free();
    q.giveGrad(arena, dq);
    k.giveGrad(arena, dk);
    v.giveGrad(arena, dv);
  });
  return value;
}
