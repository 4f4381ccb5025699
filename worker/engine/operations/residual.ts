import type { Tape, Value } from "../tape.js";
import type { Modulation } from "./modulation.js";

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
