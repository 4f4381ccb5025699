import type { SignalKind } from "./signal_kind.js";

/**
 * Xids: the numbers under which NVIDIA's driver tells faults of GPUs in the kernel's log ("Xid Errors" in NVIDIA's documentation
 * says what each means and what to do). What an application causes is ended with its process; what needs a reset of the GPU or a
 * look at the machine is not waited for.
 */
export const XIDS: ReadonlyMap<number, SignalKind> = new Map([
  [13, app("graphics engine exception: a kernel read or wrote where it must not, rarely the GPU itself")],
  [31, app("memory page fault of the GPU: a kernel used an address that is not mapped")],
  [32, unclear("invalid or corrupted push buffer: the driver, the bus or the GPU's memory")],
  [38, unclear("fault of the driver's firmware")],
  [43, app("the GPU stopped processing: the program's channel was reset, the GPU is well")],
  [45, app("work was cleaned up after an earlier fault, or because the program was ended")],
  [48, bad("double-bit ECC error: memory that could not be corrected; the GPU needs a reset")],
  [61, worn("microcontroller of the GPU: internal breakpoint or warning")],
  [62, bad("microcontroller of the GPU halted; the GPU needs a reset")],
  [63, worn("a page or row of the GPU's memory is retired: done at the next reset of the GPU")],
  [64, bad("a page or row of the GPU's memory could not be retired; the GPU needs a reset")],
  [68, app("exception of the video decoder")],
  [69, app("graphics engine class error: a kernel did what the GPU does not know")],
  [74, bad("NVLink error: a link between GPUs failed")],
  [79, bad("the GPU has fallen off the bus: the driver cannot reach it; the machine needs a restart")],
  [92, worn("high rate of single-bit ECC errors")],
  [94, worn("contained ECC error: it ended its program alone; the GPU needs a reset at the next occasion")],
  [95, bad("uncontained ECC error: any program may hold wrong bits; the GPU needs a reset at once")],
  [109, unclear("a context switch of the GPU timed out")],
  [119, bad("the GPU's system processor (GSP) does not answer; the GPU needs a reset")],
  [120, bad("error of the GPU's system processor (GSP); the GPU needs a reset")],
  [121, unclear("the link between CPU and GPU (C2C) corrected an error")],
  [140, bad("ECC errors that were not recovered; the GPU needs a reset")],
  [143, bad("the GPU could not be initialised")],
  [154, unclear("the driver says what the GPU needs to recover; the Xid before it counts")],
]);

/** A number that the table does not name. */
export const OTHER_XID: SignalKind = unclear("an Xid without a rule: see NVIDIA's list");

/** Kind of a number: xid.79, or xid.other. */
export function xidKind(xid: number): string {
  return XIDS.has(xid) ? `xid.${xid}` : "xid.other";
}

function app(meaning: string): SignalKind {
  return { class: "program_error", cause: "program", action: "note", meaning };
}

function unclear(meaning: string): SignalKind {
  return { class: "gpu_fault", cause: "unclear", action: "note", meaning };
}

/** It goes on, for now. */
function worn(meaning: string): SignalKind {
  return { class: "gpu_fault", cause: "machine", action: "replace", meaning };
}

function bad(meaning: string): SignalKind {
  return { class: "gpu_fault", cause: "machine", action: "quarantine", meaning };
}
