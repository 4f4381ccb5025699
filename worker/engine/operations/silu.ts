import type { Tape, Value } from "../tape.js";

/** SiLU of a small f32 matrix. */
export function silu(tape: Tape, x: Value): Value {
  const y = tape.alloc(x.tensor.dtype, ...x.tensor.shape);
  tape.native.siluForward(y.id, x.tensor.id);
  const out = tape.output(y);
  if (tape.recording) {
    const input = tape.save(x);
    tape.record([input], () => {
      const dy = out.takeGrad();
      tape.native.siluBackward(dy.id, dy.id, input.use().id);
      x.giveGrad(tape.arena, dy);
    });
  }
  return out;
}
