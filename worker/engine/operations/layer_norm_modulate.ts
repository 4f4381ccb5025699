import type { Tape, Value } from "../tape.js";
import type { Tensor } from "../tensor.js";
import type { Modulation } from "./modulation.js";

/** y = layerNorm(x) (1 + scale) + shift, without affine weights. */
export function layerNormModulate(
  tape: Tape,
  x: Value,
  modulation: Modulation,
  columns: { shift: number; scale: number },
  eps: number,
): Value {
  const { native } = tape;
  const { offsets, value: mod } = modulation;
  const [rows, D] = x.tensor.shape as [number, number];
  const width = mod.tensor.columns;
  const stats = tape.alloc("f32", rows, 2);
  const forward = (input: Tensor, modTensor: Tensor): Tensor => {
    const y = tape.alloc(x.tensor.dtype, rows, D);
    if (rows > 0) {
      native.layerNormModulateForward(
        y.id,
        stats.id,
        input.id,
        modTensor.id,
        width,
        columns.shift,
        columns.scale,
        offsets,
        D,
        eps,
      );
    }
    return y;
  };
  const y = forward(x.tensor, mod.tensor);
  if (!tape.recording) {
    stats.free();
    return tape.output(y);
  }
  const input = tape.save(x);
  const savedMod = tape.save(mod);
  const out = tape.output(y, () => forward(input.use(), savedMod.use()));
  tape.record([input, savedMod, stats], () => {
    const dy = out.takeGrad();
    const dx = x.gradToAdd(tape.arena);
    const dmod = mod.gradColumns(tape.arena);
    native.layerNormModulateBackward(
      dx.id,
      dmod.id,
      dy.id,
      input.use().id,
      stats.id,
      savedMod.use().id,
      width,
      columns.shift,
      columns.scale,
      offsets,
      D,
    );
    dy.free();
  });
  return out;
}
