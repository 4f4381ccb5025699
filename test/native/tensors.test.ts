import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { loadNative } from "../../worker/engine/load_native.js";
import { DTYPE } from "../../worker/engine/native.js";

const native = loadNative();
const folder = mkdtempSync(path.join(tmpdir(), "goku-native-"));
after(() => rmSync(folder, { recursive: true, force: true }));

const argument = (message: RegExp) => ({ code: "NATIVE_ARGUMENT", message });

function read(id: number, offset: number, count: number): number[] {
  const out = new Float32Array(count);
  native.tensorRead(id, offset, new Uint8Array(out.buffer));
  return [...out];
}
function write(id: number, offset: number, ...values: number[]): void {
  native.tensorWrite(id, offset, new Uint8Array(Float32Array.from(values).buffer));
}

test("a tensor keeps the bytes written to it, at any element offset", () => {
  const id = native.tensorAlloc(DTYPE.f32, 5);
  native.tensorFill(id, 1);
  write(id, 2, 7, 8);
  assert.deepEqual(read(id, 0, 5), [1, 1, 7, 8, 1]);
  assert.deepEqual(read(id, 3, 2), [8, 1]);
  assert.deepEqual(read(id, 5, 0), []);
  native.tensorFree(id);
});

test("a view shares memory with its base and keeps it after the base is freed", () => {
  const base = native.tensorAlloc(DTYPE.f32, 6);
  native.tensorFill(base, 0);
  const view = native.tensorView(base, 2, 3);
  const inner = native.tensorView(view, 1, 1);
  write(inner, 0, 5);
  assert.deepEqual(read(base, 0, 6), [0, 0, 0, 5, 0, 0]);
  const live = native.memoryStats().liveBytes;
  native.tensorFree(base);
  assert.equal(native.memoryStats().liveBytes, live);
  assert.deepEqual(read(view, 0, 3), [0, 5, 0]);
  native.tensorFree(view);
  assert.deepEqual(read(inner, 0, 1), [5]);
  native.tensorFree(inner);
  assert.ok(native.memoryStats().liveBytes < live);
});

test("a freed tensor is refused everywhere, and its number is not given out again", () => {
  const id = native.tensorAlloc(DTYPE.f32, 4);
  native.tensorFree(id);
  assert.throws(() => native.tensorFree(id), argument(/^tensorFree: tensor \d+ is freed already or unknown/));
  assert.throws(
    () => native.tensorFill(id, 0),
    argument(/^tensorFill\.args\[0\]: tensor \d+ is freed or unknown/),
  );
  assert.throws(() => native.tensorView(id, 0, 1), argument(/tensorView: tensor \d+ is freed or unknown/));
  for (let i = 0; i < 5000; i++) {
    const next = native.tensorAlloc(DTYPE.f32, 4);
    assert.notEqual(next, id);
    native.tensorFree(next);
  }
  assert.throws(() => native.tensorFill(id, 0), { code: "NATIVE_ARGUMENT" });
});

test("numbers that never were tensors are refused", () => {
  for (const id of [0, 1, 2 ** 21, 2 ** 40, 2 ** 53, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])
    assert.throws(() => native.tensorFill(id, 0), { code: "NATIVE_ARGUMENT" }, `${id}`);
});

test("a missing or mistyped argument is named by its place", () => {
  const loose = native as unknown as Record<string, (...args: unknown[]) => unknown>;
  const id = native.tensorAlloc(DTYPE.f32, 4);
  assert.throws(() => loose.tensorAlloc!(0), argument(/^tensorAlloc\.args\[1\]: missing$/));
  assert.throws(() => loose.tensorFill!(id, undefined), argument(/^tensorFill\.args\[1\]: missing$/));
  assert.throws(
    () => loose.tensorFill!(id, "1"),
    argument(/^tensorFill\.args\[1\]: a string, want a number$/),
  );
  assert.throws(
    () => loose.tensorFill!({ id }, 1),
    argument(/^tensorFill\.args\[0\]: an object, want a number$/),
  );
  assert.throws(
    () => loose.tensorRead!(id, 0, new Float32Array(4)),
    argument(/^tensorRead\.args\[2\]: a typed array of another kind, want Uint8Array$/),
  );
  assert.throws(
    () => loose.tensorRead!(id, 0, [1]),
    argument(/^tensorRead\.args\[2\]: an object, want Uint8Array$/),
  );
  assert.throws(() => loose.tensorAlloc!(4, 1), argument(/^tensorAlloc\.args\[0\]: 4, want a whole number/));
  assert.throws(
    () => loose.tensorAlloc!(0, 1.5),
    argument(/^tensorAlloc\.args\[1\]: 1\.5, want a whole number/),
  );
  native.tensorFree(id);
});

test("ranges outside a tensor are refused, however large their numbers", () => {
  const id = native.tensorAlloc(DTYPE.f32, 4);
  for (const offset of [1, 4, 5, 2 ** 52]) {
    assert.throws(() => native.tensorRead(id, offset, new Uint8Array(16)), argument(/of a tensor of 4/));
    assert.throws(() => native.tensorWrite(id, offset, new Uint8Array(16)), argument(/of a tensor of 4/));
    assert.throws(() => native.tensorView(id, offset, 4), argument(/of a tensor of 4/));
  }
  assert.throws(
    () => native.tensorRead(id, 0, new Uint8Array(3)),
    argument(/3 bytes, want a multiple of 4 for f32/),
  );
  assert.throws(() => native.tensorView(id, 0, 2 ** 53), argument(/of a tensor of 4/));
  native.tensorFree(id);
});

test("a tensor that cannot be had is an out-of-memory error, and nothing is lost", () => {
  const before = native.memoryStats();
  assert.throws(() => native.tensorAlloc(DTYPE.f64, 2 ** 49), {
    code: "NATIVE_OUT_OF_MEMORY",
    message: /^Cannot allocate a tensor of 4503599627370496 bytes: /,
  });
  assert.equal(native.memoryStats().liveBytes, before.liveBytes);
  assert.equal(native.memoryStats().liveTensors, before.liveTensors);
});

test("memory is counted: live, peak since the reset, and kept for reuse", () => {
  const before = native.memoryStats();
  const [a, b] = [native.tensorAlloc(DTYPE.f32, 1000), native.tensorAlloc(DTYPE.bf16, 1)];
  const both = native.memoryStats();
  assert.equal(both.liveTensors, before.liveTensors + 2);
  // 4000 and 2 bytes in units of 64.
  assert.equal(both.liveBytes, before.liveBytes + 4032 + 64);
  native.tensorFree(a);
  native.memoryPeakReset();
  assert.equal(native.memoryStats().peakBytes, before.liveBytes + 64);
  native.tensorFree(b);
  const end = native.memoryStats();
  assert.equal(end.liveBytes, before.liveBytes);
  assert.equal(end.peakBytes, before.liveBytes + 64);
  assert.ok(end.cachedBytes >= 4032 + 64);
});

test("freed memory is used again: random sizes in random order leave no growing rest", () => {
  let state = 7;
  const random = (below: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return Math.floor((state / 2 ** 31) * below);
  };
  const before = native.memoryStats();
  const held: { id: number; marks: number[] }[] = [];
  let grown = 0;
  for (let i = 0; i < 4000; i++) {
    if (held.length > 60 || (held.length > 0 && random(2) === 0)) {
      const { id, marks } = held.splice(random(held.length), 1)[0]!;
      // Whoever overlapped this one would have overwritten its first or last number.
      assert.deepEqual([read(id, 0, 1)[0], read(id, marks[2]! - 1, 1)[0]], marks.slice(0, 2));
      native.tensorFree(id);
    } else {
      const count = 2 + random(random(10) === 0 ? 200_000 : 500);
      const id = native.tensorAlloc(DTYPE.f32, count);
      write(id, 0, i);
      write(id, count - 1, -i);
      held.push({ id, marks: [i, -i, count] });
    }
    if (i === 2000) grown = native.memoryStats().cachedBytes + native.memoryStats().liveBytes;
  }
  for (const { id } of held) native.tensorFree(id);
  const end = native.memoryStats();
  assert.equal(end.liveBytes, before.liveBytes);
  assert.equal(end.liveTensors, before.liveTensors);
  assert.ok(end.cachedBytes <= 2 * grown, `${end.cachedBytes} bytes kept, ${grown} in the middle of the run`);
});

test("cpuInfo() tells the threads that threadsSet() set", () => {
  const { isa, threads } = native.cpuInfo();
  assert.match(isa, /^(avx2|avx512|avx512_bf16)$/);
  native.threadsSet(3);
  assert.equal(native.cpuInfo().threads, 3);
  native.threadsSet(threads);
  assert.throws(() => native.threadsSet(0), argument(/args\[0\]: 0, want a whole number from 1/));
});

test("pageMap() makes a file of zero bytes that two mappings share", () => {
  const file = path.join(folder, "page");
  const page = native.pageMap(file, 4096);
  assert.equal(statSync(file).size, 4096);
  assert.ok(page.every((byte) => byte === 0));
  const twin = native.pageMap(file, 4096);
  page[17] = 42;
  assert.equal(twin[17], 42);
  assert.equal(readFileSync(file)[17], 42);
  native.pageUnmap(page);
  assert.equal(twin[17], 42);
  native.pageUnmap(twin);
});

test("views of an unmapped page are empty, and nothing crashes", () => {
  const page = native.pageMap(path.join(folder, "gone"), 4096);
  const part = page.subarray(100, 200);
  native.pageUnmap(page);
  assert.deepEqual([page.length, part.length, part[5]], [0, 0, undefined]);
  page[0] = 1;
  assert.throws(() => native.pageUnmap(page), argument(/no mapped page \(unmapped already\?\)/));
  assert.throws(
    () => native.pageTensor(page, 0, DTYPE.f32, 4),
    argument(/4 elements at byte 0 of a page of 0/),
  );
});

test("pageUnmap() refuses what pageMap() did not return", () => {
  assert.throws(() => native.pageUnmap(new Uint8Array(8)), argument(/no mapped page/));
  const page = native.pageMap(path.join(folder, "part"), 4096);
  assert.throws(() => native.pageUnmap(page.subarray(0, 10)), argument(/no mapped page/));
  assert.equal(page.length, 4096);
  native.pageUnmap(page);
});

test("a tensor of a page reads and writes the page's bytes, and keeps it mapped", () => {
  const page = native.pageMap(path.join(folder, "tensor"), 4096);
  const [tensor, none] = [
    native.pageTensor(page, 64, DTYPE.f32, 3),
    native.pageTensor(page, 4096, DTYPE.f32, 0),
  ];
  write(tensor, 0, 1.5, -2, 3);
  assert.deepEqual([...new Float32Array(page.buffer, 64, 3)], [1.5, -2, 3]);
  const view = native.tensorView(tensor, 1, 2);
  native.pageUnmap(page);
  assert.deepEqual(read(tensor, 0, 3), [1.5, -2, 3]);
  native.tensorFree(tensor);
  assert.deepEqual(read(view, 0, 2), [-2, 3]);
  native.tensorFree(view);
  native.tensorFree(none);
  const again = native.pageMap(path.join(folder, "tensor"), 4096);
  assert.deepEqual([...new Float32Array(again.buffer, 64, 3)], [1.5, -2, 3]);
  assert.throws(
    () => native.pageTensor(again, 2, DTYPE.f32, 1),
    argument(/args\[1\]: 2, want a multiple of 4/),
  );
  assert.throws(
    () => native.pageTensor(again, 4092, DTYPE.f32, 2),
    argument(/2 elements at byte 4092 of a page of 4096/),
  );
  assert.throws(() => native.pageTensor(again, 8192, DTYPE.f32, 0), argument(/of a page of 4096/));
  native.pageUnmap(again);
});

test("pageMap() says which file it could not map and why", () => {
  const short = path.join(folder, "short");
  writeFileSync(short, "x");
  truncateSync(short, 100);
  const io = (message: RegExp) => ({ code: "NATIVE_IO", message });
  assert.throws(
    () => native.pageMap(short, 4096),
    io(/^Cannot map 4096 bytes of .*short: the file has 100 bytes/),
  );
  assert.throws(() => native.pageMap(path.join(folder, "no", "where"), 64), io(/No such file or directory$/));
  assert.throws(() => native.pageMap(folder, 64), io(/Is a directory$/));
  assert.throws(() => native.pageMap(short, 0), argument(/0 bytes/));
});

test("a process with tensors and pages that were never freed exits by itself", () => {
  const loader = fileURLToPath(new URL("../../worker/engine/load_native.js", import.meta.url));
  const file = path.join(folder, "dropped");
  const program = `
    const { loadNative } = await import(${JSON.stringify(loader)});
    const native = loadNative();
    for (let i = 0; i < 100; i++) native.tensorView(native.tensorAlloc(0, 1000), 5, 10);
    native.pageMap(${JSON.stringify(file)}, 4096)[0] = 9;
    native.linearForward(native.tensorAlloc(0, 90000), native.tensorAlloc(0, 90000), native.tensorAlloc(0, 90000), 0, 300, 300, 300, 0);`;
  const done = spawnSync(process.execPath, ["--input-type=module", "--eval", program], {
    encoding: "utf8",
    timeout: 60_000,
  });
  assert.equal(done.status, 0, done.stderr);
  assert.equal(readFileSync(file)[0], 9);
});

test("a worker thread has tensors of its own, freed when it ends", async () => {
  const loader = new URL("../../worker/engine/load_native.js", import.meta.url).href;
  const program = `
    const { parentPort } = require("node:worker_threads");
    import(${JSON.stringify(loader)}).then(({ loadNative }) => {
      const native = loadNative();
      native.tensorAlloc(0, 1000);
      parentPort.postMessage(native.memoryStats().liveTensors);
    });`;
  const before = native.memoryStats().liveTensors;
  const worker = new Worker(program, { eval: true });
  const inside = await new Promise((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
  });
  assert.equal(inside, 1);
  assert.equal(await new Promise((resolve) => worker.once("exit", resolve)), 0);
  assert.equal(native.memoryStats().liveTensors, before);
});

test("loadNative() names the file that is missing", () => {
  const loader = fileURLToPath(new URL("../../worker/engine/load_native.js", import.meta.url));
  const missing = path.join(folder, "missing.node");
  assert.ok(!existsSync(missing));
  const program = `
    const { loadNative } = await import(${JSON.stringify(loader)});
    try { loadNative(); } catch (error) { console.log(error.code, error.message); }`;
  const done = spawnSync(process.execPath, ["--input-type=module", "--eval", program], {
    encoding: "utf8",
    env: { ...process.env, GOKU_NATIVE: missing },
  });
  assert.match(
    done.stdout,
    /^NATIVE_MISSING Cannot load the native addon .*missing\.node: .*, run make build\n$/,
  );
});
