/**
 * A differentiable operation, as every file of this folder: a function that runs its forward kernel and records its
 * backward kernel. Equations stand in ../native.ts. Matrices are [rows, columns]; a rank may hold no rows.
 */
import type { DTypeName } from "../native.js";
import type { Parameter } from "../parameter.js";
import type { Saved, Tape, Value } from "../tape.js";
import type { Tensor } from "../tensor.js";

/** y = x W^T + bias, in `dtype`. */
export function linear(
  tape: Tape,
  x: Value,
  weight: Parameter,
  bias: Parameter | null,
  dtype: DTypeName,
): Value {
  const y = tape.alloc(dtype, x.tensor.rows, weight.shape[0]!);
  linearForward(tape, y, null, x, weight, bias);
  const out = tape.output(y);
  if (tape.recording) {
    const input = tape.save(x);
    tape.record([input], () => linearBackward(tape, out.takeGrad(), x, input, weight, bias));
  }
  return out;
}

/** y = gelu_tanh(x W^T + bias); what is kept is the value before the activation. */
export function linearGelu(
  tape: Tape,
  x: Value,
  weight: Parameter,
  bias: Parameter,
  dtype: DTypeName,
): Value {
  const rows = x.tensor.rows;
  const columns = weight.shape[0]!;
  const y = tape.alloc(dtype, rows, columns);
  const before = tape.alloc(dtype, rows, columns);
  linearForward(tape, y, before, x, weight, bias);
  if (!tape.recording) {
    before.free();
    return tape.output(y);
  }
  const out = tape.output(y, () => {
    const again = tape.alloc(dtype, rows, columns);
    if (rows > 0) tape.native.geluForward(again.id, before.id);
    return again;
  });
  const input = tape.save(x);
  tape.record([input, before], () => {
    const dy = out.takeGrad();
    if (rows > 0) tape.native.geluBackward(dy.id, dy.id, before.id);
    linearBackward(tape, dy, x, input, weight, bias);
  });
  return out;
}

/** With `before`: y = gelu_tanh of what `before` receives. */
function linearForward(
  tape: Tape,
  y: Tensor,
  before: Tensor | null,
  x: Value,
  weight: Parameter,
  bias: Parameter | null,
): void {
  const [F, K] = weight.shape as [number, number];
  const rows = x.tensor.rows;
  if (rows === 0) return;
  const { native } = tape;
  native.linearForward(
    y.id,
    x.tensor.id,
    weight.weight().id,
    bias?.weight().id ?? 0,
    rows,
    K,
    F,
    before?.id ?? 0,
  );
}

/** Takes over dy. */
function linearBackward(
  tape: Tape,
  dy: Tensor,
  x: Value,
  input: Saved,
  weight: Parameter,
  bias: Parameter | null,
): void {
  const { native, arena } = tape;
  const [F, K] = weight.shape as [number, number];
  const rows = dy.rows;
  const dw = weight.gradient();
  const dbias = bias?.gradient() ?? null;
  if (rows === 0) {
    native.tensorFill(dw.id, 0);
    if (dbias) native.tensorFill(dbias.id, 0);
  } else {
    native.linearBackwardWeight(dw.id, dbias?.id ?? 0, dy.id, input.use().id, rows, K, F, false);
  }
  if (x.needsGrad) {
    const { tensor: dx, accumulate } = x.gradToAccumulate(arena);
    if (rows > 0) native.linearBackwardInput(dx.id, dy.id, weight.weight().id, rows, K, F, accumulate);
  }
  dy.free();
}
