import assert from "node:assert/strict";
import { test } from "node:test";
import { checkDeviceMatrix, roundingInput } from "../../../worker/checks/device_matrix.js";
import { checkDeviceMemory } from "../../../worker/checks/device_memory.js";
import { loadNative } from "../../../worker/engine/load_native.js";
import type { Native } from "../../../worker/engine/native.js";

/** What the checks of a device make of bits that are wrong in one way or another; the CPU's addon stands for a device here. */
const cpu = loadNative();
const UNTIL_IT_FAILS = { budgetMs: 600_000 };

/** The addon with a device of 256 MiB, of which a sixteenth is examined, from which numbers are read as `read` has it. */
function deviceThat(
  read: (offset: number, into: Uint8Array) => { offset: number; flip: number | null },
): Native {
  return Object.assign(Object.create(cpu) as Native, {
    devices: () => [{ name: "stand-in", memoryBytes: 256 * 2 ** 20 }],
    tensorRead: (id: number, offset: number, into: Uint8Array) => {
      const found = read(offset, into);
      cpu.tensorRead(id, found.offset, into);
      if (found.flip !== null) into[found.flip]! ^= 1;
    },
  });
}

/** Bytes of the product whose sums are rounded, 64 x 64. */
const ROUNDED_BYTES = 64 * 64 * 4;
/** Turns a bit of that product where it is read for the n-th time, counted from 1. */
function turningBit(n: number, byte: number): Native {
  let seen = 0;
  return deviceThat((offset, into) => {
    if (into.length === ROUNDED_BYTES) seen += 1;
    return { offset, flip: into.length === ROUNDED_BYTES && seen === n ? byte : null };
  });
}

test("device_matrix: the CPU's products pass: the same bits on whole numbers, within the bound where sums are rounded", () => {
  const finding = checkDeviceMatrix(cpu, { budgetMs: 0 });
  assert.ok(finding.ok && finding.value > 0, finding.detail);
});

test("device_matrix: the numbers of the second product are exact in bf16, and their sums are not exact in fp32", () => {
  const [x, w] = [roundingInput(512, 1), roundingInput(512, 2)];
  for (const number of [...x, ...w])
    assert.equal(new Uint32Array(Float32Array.of(number).buffer)[0]! & 0xffff, 0, `${number}`);
  let [inF32, inF64] = [0, 0];
  for (const [k, number] of x.entries()) {
    inF32 = Math.fround(inF32 + number * w[k]!);
    inF64 += number * w[k]!;
  }
  assert.notEqual(inF32, Math.fround(inF64));
});

test("device_matrix: a product that comes out otherwise than the first time fails, whatever bit it is", () => {
  // The first round reads it in fp32, then in bf16; so does the second.
  const { ok, detail } = checkDeviceMatrix(turningBit(4, 0), UNTIL_IT_FAILS);
  assert.deepEqual([ok, detail], [false, "round 2, bf16: a product has other bits than the first time"]);
});

test("device_matrix: a product that is not computed fails, though the one before was right", () => {
  let products = 0;
  const idle = Object.assign(Object.create(cpu) as Native, {
    linearForward: (...operands: Parameters<Native["linearForward"]>) => {
      products += 1;
      if (products !== 3) cpu.linearForward(...operands); // the first round multiplies twice in fp32, then in bf16
    },
  });
  const { ok, detail } = checkDeviceMatrix(idle, { budgetMs: 0 });
  assert.deepEqual([ok, detail], [false, "round 1, bf16: block 0 of 1 differs from the exact product"]);
});

test("device_matrix: a product that is wrong from the first time on fails by its distance to the product in f64", () => {
  const { ok, detail } = checkDeviceMatrix(turningBit(1, 4 * 5 + 3), UNTIL_IT_FAILS);
  assert.equal(ok, false);
  assert.match(detail, /^round 1, fp32: place 5 of a product is \S+, want \S+ within \S+$/);
});

test("device_memory: two chunks that are one, as where an address line is shorted, are told by the number of a page", () => {
  const shorted = deviceThat((offset) => ({ offset: offset & ~(2 ** 20), flip: null }));
  const { ok, detail } = checkDeviceMemory(shorted, { budgetMs: 0 });
  assert.equal(ok, false);
  assert.match(detail, /^pattern 0: word 1048576 holds 0x00000000, want 0x[0-9a-f]{8}: /);
});

test("device_memory: memory that is well passes, and how much was looked at is told", () => {
  const well = deviceThat((offset) => ({ offset, flip: null }));
  assert.deepEqual(checkDeviceMemory(well, { budgetMs: 0 }), {
    ok: true,
    value: 16,
    unit: "MiB",
    detail: "1 patterns over 16 MiB of it",
  });
});
