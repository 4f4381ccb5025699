import assert from "node:assert/strict";
import { test } from "node:test";
import {
  explaining,
  kindOf,
  type NodeSign,
  signText,
  standsOut,
} from "../../../controller/core/judge_signals.js";

function sign(name: string, more: Partial<NodeSign> = {}): NodeSign {
  const told = { rank: null, generation: 7, device: "", text: name, count: 1, atMs: 0, heardMs: 100_000 };
  return { name, ...kindOf(name)!, ...told, ...more };
}

const FAULT = { atMs: 101_000, generation: 7, rank: 2, killed: false };

test("explaining(): the machine's word comes first, the kernel's before a program's, and then the program's own last one", () => {
  const python = sign("log.python_error", { rank: 2 });
  const memory = sign("log.gpu_out_of_memory", { rank: 2, heardMs: 100_500 });
  const ecc = sign("log.cuda_ecc", { rank: 2 });
  const xid = sign("xid.48");
  assert.equal(explaining([], FAULT), null);
  assert.equal(explaining([python], FAULT), python);
  assert.equal(explaining([python, memory], FAULT), memory);
  assert.equal(explaining([ecc, memory], FAULT), ecc);
  assert.equal(explaining([xid, ecc, memory], FAULT), xid);
});

test("explaining(): what is unclear, old, of another rank or of another generation explains nothing", () => {
  const of = (name: string, more: Partial<NodeSign> = {}) =>
    explaining([sign(name, { rank: 2, ...more })], FAULT);
  assert.equal(of("log.nccl"), null);
  assert.equal(of("log.cuda_ecc", { heardMs: 40_000 }), null);
  assert.equal(of("log.cuda_ecc", { rank: 3 }), null);
  assert.equal(of("log.cuda_ecc", { generation: 6 }), null);
  assert.notEqual(of("log.cuda_ecc"), null);
});

test("explaining(): a node without a rank named is explained by its machine alone", () => {
  const node = { ...FAULT, rank: null };
  const xid = sign("xid.79");
  assert.equal(explaining([sign("log.python_error", { rank: 2 }), xid], node), xid);
  assert.equal(explaining([sign("log.cuda_ecc", { rank: 2 })], node), null);
  assert.equal(explaining([sign("kernel.memory_correctable")], node), null, "corrected");
});

test("explaining(): a kill for memory that names no process of ours is taken for a rank's that was just killed", () => {
  const kill = sign("kernel.oom_kill");
  assert.equal(explaining([kill], { ...FAULT, killed: true }), kill);
  assert.equal(explaining([kill], FAULT), null, "it was not killed");
  assert.equal(explaining([kill], { ...FAULT, killed: true, atMs: 111_000 }), null, "too long ago");
  const own = sign("kernel.oom_kill", { rank: 2 });
  assert.equal(explaining([own], FAULT), own, "the kernel named its process");
  const python = sign("log.python_error", { rank: 2, heardMs: 100_900 });
  assert.equal(explaining([own, python], FAULT), own);
});

test("standsOut(): ten times the median of at least two other machines; with fewer the limit alone counts", () => {
  assert.equal(standsOut(700, []), true);
  assert.equal(standsOut(700, [900]), true);
  assert.equal(standsOut(700, [0, 0]), true);
  assert.equal(standsOut(700, [60, 80, 500]), false);
  assert.equal(standsOut(801, [60, 80, 500]), true);
});

test("signText(): who, where it was read, what it is, how often, the line, what it means", () => {
  const text = signText("node-b", sign("xid.79", { device: "0000:3b:00", text: "NVRM: Xid", count: 3 }));
  assert.match(
    text,
    /^node-b: the kernel's log, xid\.79 0000:3b:00, 3 times: NVRM: Xid \(the GPU has fallen /,
  );
  assert.match(
    signText("b", sign("log.nccl", { rank: 5 })),
    /^rank 5 on b: its output, log\.nccl: log\.nccl \(/,
  );
});
