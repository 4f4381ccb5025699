import type { Parameter } from "../parameter.js";
import type { Tape, Value } from "../tape.js";
import type { Tensor } from "../tensor.js";

/** Rotary angles of the rows at hand: f32 [rows, d/2] each. */
export interface Rope {
  cos: Tensor;
  sin: Tensor;
}

/** QK-norm over all heads together, then rotation of each head (none: rope null). x: [rows, H*d]. */
export function qkNormRope(
  tape: Tape,
  x: Value,
  weight: Parameter,
  rope: Rope | null,
  heads: number,
  eps: number,
): Value {
  const { native } = tape;
  const [rows, D] = x.tensor.shape as [number, number];
  const d = D / heads;
  const cos = rope?.cos.id ?? 0;
  const sin = rope?.sin.id ?? 0;
  const rstd = tape.alloc("f32", rows);
  const forward = (input: Tensor): Tensor => {
    const y = tape.alloc(x.tensor.dtype, rows, D);
    if (rows > 0)
      native.qkNormRopeForward(y.id, rstd.id, input.id, weight.weight().id, cos, sin, rows, heads, d, eps);
    return y;
  };
  const y = forward(x.tensor);
  if (!tape.recording) {
    rstd.free();
    return tape.output(y);
  }
  const input = tape.save(x);
  const out = tape.output(y, () => forward(input.use()));
  tape.record([input, rstd], () => {
    const dy = out.takeGrad();
    const dw = weight.gradient();
    native.tensorFill(dw.id, 0);
    if (rows > 0) {
      native.qkNormRopeBackward(
        dy.id,
        dw.id,
        dy.id,
        input.use().id,
        rstd.id,
        weight.weight().id,
        cos,
        sin,
        rows,
        heads,
        d,
      );
    }
    x.giveGrad(tape.arena, dy);
  });
  return out;
}
