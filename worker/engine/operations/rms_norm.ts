import type { Parameter } from "../parameter.js";
import type { Tape, Value } from "../tape.js";
import type { Tensor } from "../tensor.js";

/** y = rmsNorm(x) * weight, then modulated like layerNormModulate when a modulation is given. */
export function rmsNorm(
  tape: Tape,
  x: Value,
  weight: Parameter,
  offsets: Int32Array,
  eps: number,
  modulated: { value: Value; shift: number; scale: number } | null = null,
): Value {
  const { native } = tape;
  const [rows, D] = x.tensor.shape as [number, number];
  const mod = modulated?.value ?? null;
  const width = mod?.tensor.columns ?? 0;
  const shift = modulated?.shift ?? 0;
  const scale = modulated?.scale ?? 0;
  const rstd = tape.alloc("f32", rows);
  const forward = (input: Tensor, modTensor: Tensor | null): Tensor => {
    const y = tape.alloc(x.tensor.dtype, rows, D);
    if (rows > 0) {
      native.rmsNormForward(
        y.id,
        rstd.id,
        input.id,
        weight.weight().id,
        modTensor?.id ?? 0,
        width,
        shift,
        scale,
        offsets,
        D,
        eps,
      );
    }
    return y;
  };
  const y = forward(x.tensor, mod?.tensor ?? null);
  if (!tape.recording) {
    rstd.free();
    return tape.output(y);
  }
  const input = tape.save(x);
  const savedMod = mod ? tape.save(mod) : null;
  const out = tape.output(y, () => forward(input.use(), savedMod?.use() ?? null));
  tape.record(savedMod ? [input, rstd, savedMod] : [input, rstd], () => {
    const dy = out.takeGrad();
    const dx = x.gradToAdd(tape.arena);
    const dmod = mod?.gradColumns(tape.arena) ?? null;
    const dw = weight.gradient();
    native.tensorFill(dw.id, 0);
    native.rmsNormBackward(
      dx.id,
      dw.id,
      dmod?.id ?? 0,
      dy.id,
      input.use().id,
      rstd.id,
      weight.weight().id,
      savedMod?.use().id ?? 0,
      width,
      shift,
      scale,
      offsets,
      D,
    );
    dy.free();
  });
  return out;
}
