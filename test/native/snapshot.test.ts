import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import { DTYPE, type TensorId } from "../../worker/engine/native.js";
import { native, randomArray, Tensors } from "./kernel_support.js";

/** None, one, and more than a MiB. */
const COUNTS = [0, 1, 100, 262_144 + 3];
const CHUNK_BYTES = 2 ** 20;

const ids = (tensors: TensorId[]) => Float64Array.from(tensors);

function bytesOf(id: TensorId, count: number): Buffer {
  const bytes = Buffer.alloc(4 * count);
  native.tensorRead(id, 0, bytes);
  return bytes;
}

function sumsOf(bytes: Uint8Array): number[] {
  const chunks = Math.ceil(bytes.length / CHUNK_BYTES);
  return Array.from({ length: chunks }, (_, i) =>
    crc32(bytes.subarray(i * CHUNK_BYTES, (i + 1) * CHUNK_BYTES)),
  );
}

test("snapshotStart() copies tensors as the calls before leave them, whatever later ones write after the fence", () => {
  const tensors = new Tensors();
  const from = COUNTS.map((count, i) => tensors.from("f32", randomArray(i, "f32", count)));
  const added = COUNTS.map((count, i) => tensors.from("f32", randomArray(10 + i, "f32", count)));
  const to = COUNTS.map((count) => tensors.alloc("f32", count));
  const add = () => {
    for (const [i, id] of from.entries()) if (COUNTS[i]! > 0) native.tensorAdd(id, added[i]!);
  };
  add();
  const ticket = native.snapshotStart(ids(from), ids(to));
  native.snapshotFence(ticket);
  add();
  const later = from.map((id, i) => bytesOf(id, COUNTS[i]!)); // what was added is there, and nobody has waited for the copies
  const checksums = new Uint32Array(
    COUNTS.reduce((sum, count) => sum + Math.ceil((4 * count) / CHUNK_BYTES), 0),
  );
  native.snapshotWait(ticket, checksums);
  const found = to.map((id, i) => bytesOf(id, COUNTS[i]!));
  for (const [i, count] of COUNTS.entries()) {
    const once = tensors.from("f32", randomArray(i, "f32", count));
    if (count > 0) native.tensorAdd(once, added[i]!);
    assert.ok(found[i]!.equals(bytesOf(once, count)), `${count} elements`);
    if (count > 0) native.tensorAdd(once, added[i]!);
    assert.ok(later[i]!.equals(bytesOf(once, count)), `${count} elements, written later`);
  }
  assert.deepEqual([...checksums], found.flatMap(sumsOf));
  tensors.release();
});

test("snapshotStart() writes a page, and holds tensors and page that are let go before the wait", () => {
  const folder = mkdtempSync("/dev/shm/goku-test-snapshot-");
  const [count, at] = [70_000, 4096];
  try {
    const file = path.join(folder, "page");
    const page = native.pageMap(file, at + 4 * count);
    const tensors = new Tensors();
    const from = tensors.from("f32", randomArray(3, "f32", count));
    const wanted = bytesOf(from, count);
    const to = native.pageTensor(page, at, DTYPE.f32, count);
    const ticket = native.snapshotStart(ids([from]), ids([to]));
    native.tensorFree(to);
    native.pageUnmap(page);
    tensors.release();
    const others = new Tensors();
    others.alloc("f32", count); // would be what was freed
    native.snapshotWait(ticket, new Uint32Array(0));
    assert.ok(readFileSync(file).subarray(at).equals(wanted));
    others.release();
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("snapshots refuse tensors that do not match, room that does not, and one that is over", () => {
  const tensors = new Tensors();
  const [a, b] = [tensors.alloc("f32", 8), tensors.alloc("f32", 9)];
  const half = tensors.alloc("bf16", 8);
  const refused = (call: () => void, message: RegExp) =>
    assert.throws(call, (error: Error & { code?: string }) => {
      assert.equal(error.code, "NATIVE_ARGUMENT");
      assert.match(error.message, message);
      return true;
    });
  refused(() => native.snapshotStart(ids([a]), ids([])), /snapshotStart: 1 tensors to 0, want as many/);
  refused(() => native.snapshotStart(ids([a]), ids([b])), /tensors of 8 and 9 elements/);
  refused(() => native.snapshotStart(ids([a]), ids([half])), /f32 to bf16, want the same dtype/);
  refused(
    () => native.snapshotStart(ids([a, 12345678]), ids([a, b])),
    /args\[0\]: element 1: tensor 12345678/,
  );
  refused(() => native.snapshotFence(999), /snapshotFence\.args\[0\]: snapshot 999 is over or unknown/);
  const other = tensors.alloc("f32", 8);
  const tight = native.snapshotStart(ids([a]), ids([other]));
  refused(() => native.snapshotWait(tight, new Uint32Array(2)), /room for 2 checksums, want 1/);
  refused(() => native.snapshotWait(tight, new Uint32Array(1)), /is over or unknown/);
  tensors.release();
});
