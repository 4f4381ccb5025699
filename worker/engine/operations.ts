/**
 * The differentiable operations: each function runs its forward kernel and records its backward kernel. Equations
 * stand in native.ts. Matrices are [rows, columns]; a rank may hold no rows, and kernels are not called on nothing.
 */
import type { DTypeName } from "./native.js";
import type { Parameter } from "./parameter.js";
import type { Saved, Tape, Value } from "./tape.js";
import type { Tensor } from "./tensor.js";

/** Scale and shift (or gate) of every sample: columns of one f32 matrix [S, width]. */
export interface Modulation {
  value: Value;
  /** Row r of the tokens belongs to sample i when offsets[i] <= r < offsets[i + 1]. */
  offsets: Int32Array;
}

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

/** y = x + gate * branch, the gate being a column block of the modulation. */
export function gateResidual(
  tape: Tape,
  x: Value,
  branch: Value,
  modulation: Modulation,
  gateColumn: number,
): Value {
  const { native } = tape;
  const { offsets, value: mod } = modulation;
  const [rows, D] = x.tensor.shape as [number, number];
  const width = mod.tensor.columns;
  const y = tape.alloc(x.tensor.dtype, rows, D);
  if (rows > 0)
    native.gateResidualForward(
      y.id,
      x.tensor.id,
      branch.tensor.id,
      mod.tensor.id,
      width,
      gateColumn,
      offsets,
      D,
    );
  const out = tape.output(y);
  if (tape.recording) {
    const savedBranch = tape.save(branch);
    const savedMod = tape.save(mod);
    tape.record([savedBranch, savedMod], () => {
      const dy = out.takeGrad();
      const dbranch = tape.arena.alloc(branch.tensor.dtype, rows, D);
      const dmod = mod.gradColumns(tape.arena);
      native.gateResidualBackward(
        dbranch.id,
        dmod.id,
        dy.id,
        savedBranch.use().id,
        savedMod.use().id,
        width,
        gateColumn,
        offsets,
        D,
      );
      branch.giveGrad(tape.arena, dbranch);
      x.giveGrad(tape.arena, dy);
    });
  }
  return out;
}

/** y = x + branch, in the memory of `branch`, which nobody may have saved (a linear's output is not). */
export function addResidual(tape: Tape, x: Value, branch: Value): Value {
  if (x.tensor.count > 0) tape.native.tensorAdd(branch.tensor.id, x.tensor.id);
  const out = tape.output(branch.tensor.retain());
  if (tape.recording) {
    tape.record([], () => {
      const dy = out.takeGrad();
      branch.giveGrad(tape.arena, dy.retain());
      x.giveGrad(tape.arena, dy);
    });
  }
  return out;
}
