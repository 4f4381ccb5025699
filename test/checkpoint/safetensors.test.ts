import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { digestOf } from "../../checkpoint/digest.js";
import { openCheckpoint } from "../../checkpoint/load.js";
import {
  encodeSafetensorsHeader,
  readSafetensors,
  readSafetensorsHeader,
  SAFETENSORS_DTYPES,
  type SafetensorsDtype,
  safetensorsFloats,
  safetensorsNumbers,
} from "../../checkpoint/safetensors.js";
import { GokuError } from "../../job/errors.js";
import {
  AWKWARD,
  layoutOf,
  metaOf,
  Random,
  refuses,
  requireState,
  saveAndCommit,
  scratchFolder,
  state,
} from "./fixtures.js";

const scratch = scratchFolder();

function fileOf(header: unknown, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.byteLength));
  return Buffer.concat([length, json, data]);
}

test("encodeSafetensorsHeader() is read back, aligned, in order", () => {
  const tensors = [
    { name: "b", dtype: "F32", shape: [2, 3] },
    { name: "empty", dtype: "F32", shape: [0, 3] },
    { name: "7", dtype: "BF16", shape: [] },
    { name: "__proto__", dtype: "I64", shape: [1] },
  ] as const;
  const bytes = encodeSafetensorsHeader(tensors, { note: "ä" });
  assert.equal(bytes.byteLength % 64, 0);
  const header = readSafetensorsHeader(bytes);
  assert.deepEqual([...header.tensors.keys()], ["b", "empty", "7", "__proto__"]);
  assert.deepEqual(
    [...header.tensors.values()].map((entry) => [entry.offset - bytes.byteLength, entry.bytes]),
    [
      [0, 24],
      [24, 0],
      [24, 2],
      [26, 8],
    ],
  );
  assert.equal(header.fileBytes, bytes.byteLength + 34);
  assert.deepEqual([...header.metadata], [["note", "ä"]]);
  assert.throws(() => encodeSafetensorsHeader([tensors[0], tensors[0]], {}), TypeError);
});

test("safetensorsNumbers() and safetensorsFloats() widen each element type", async () => {
  const values = new Float64Array([-1.5, 0.1]);
  const halves = new Uint16Array([0x3e00, 0x0001, 0xfc00]); // 1.5, 2^-24, -inf
  const brains = new Uint16Array([0x3fc0, 0xff80]); // 1.5, -inf
  const longs = new BigInt64Array([-3n, 2n ** 40n]);
  const parts: [string, SafetensorsDtype, number, ArrayBufferView][] = [
    ["f64", "F64", 2, values],
    ["i64", "I64", 2, longs],
    ["f32", "F32", 1, new Uint32Array([0x7fc12345])],
    ["bf16", "BF16", 2, brains],
    ["f16", "F16", 3, halves],
    ["i8", "I8", 2, new Int8Array([-7, 7])],
    ["bool", "BOOL", 1, new Uint8Array([1])],
  ];
  const header = encodeSafetensorsHeader(
    parts.map(([name, dtype, count]) => ({ name, dtype, shape: [count] })),
    {},
  );
  const file = path.join(scratch, "types.safetensors");
  const raw = parts.map(([, , , view]) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
  writeFileSync(file, Buffer.concat([header, ...raw]));
  const { tensors } = await readSafetensors(file);
  const numbers = (name: string) => [...safetensorsNumbers(tensors.get(name)!)];
  assert.deepEqual(numbers("f64"), [-1.5, 0.1]);
  assert.deepEqual(numbers("i64"), [-3, 2 ** 40]);
  assert.deepEqual(numbers("bf16"), [1.5, Number.NEGATIVE_INFINITY]);
  assert.deepEqual(numbers("f16"), [1.5, 2 ** -24, Number.NEGATIVE_INFINITY]);
  assert.deepEqual(numbers("i8"), [-7, 7]);
  assert.deepEqual(numbers("bool"), [1]);
  assert.equal(
    new Uint32Array(safetensorsFloats(tensors.get("f32")!).buffer)[0],
    0x7fc12345,
    "a NaN keeps its bits",
  );
  assert.deepEqual([...safetensorsFloats(tensors.get("f64")!)], [-1.5, Math.fround(0.1)]);
});

const entry = (span: [number, number], shape: number[] = [1], dtype = "F32") => ({
  dtype,
  shape,
  data_offsets: span,
});
const HOSTILE: [string, Uint8Array, RegExp][] = [
  ["no bytes", new Uint8Array(0), /at least 8/],
  ["a header longer than the file", fileOf("{}").with(0, 200), /only 2 follow/],
  ["a header of 2^63 bytes", fileOf("{}").with(7, 128), /the format allows/],
  ["no JSON", fileOf("{nope"), /no JSON/],
  ["invalid UTF-8", fileOf("{}").with(8, 0xff), /no JSON/],
  ["a list", fileOf([]), /no JSON object/],
  ["deep nesting", fileOf(`${"[".repeat(100_000)}`), /no JSON/],
  ["a gap", fileOf({ a: entry([0, 4]), b: entry([8, 12]) }), /"b" begins at byte/],
  ["an overlap", fileOf({ a: entry([0, 4]), b: entry([2, 6]) }), /"b" begins at byte/],
  ["a place twice", fileOf({ a: entry([0, 4]), b: entry([0, 4]) }), /begins at byte/],
  ["a start beyond zero", fileOf({ a: entry([4, 8]) }), /"a" begins at byte/],
  ["a negative offset", fileOf({ a: entry([-4, 0]) }), /no valid data_offsets/],
  ["an end before its start", fileOf({ a: entry([4, 0]) }), /spans bytes 4 to 0/],
  ["another size than its shape", fileOf({ a: entry([0, 8]) }), /wants 4/],
  ["a huge shape", fileOf({ a: entry([0, 4], [2 ** 40, 2 ** 40]) }), /spans bytes/],
  ["a fraction", fileOf({ a: entry([0, 4], [1.5]) }), /no valid shape/],
  ["an unknown type", fileOf({ a: entry([0, 4], [1], "constructor") }), /dtype "constructor"/],
  ["metadata that is no text", fileOf({ __metadata__: { a: 1 } }), /is no string/],
  ["a tensor that is null", fileOf({ a: null }), /is no object/],
];
for (const [what, bytes, pattern] of HOSTILE) {
  test(`readSafetensorsHeader() refuses ${what}`, () => {
    assert.throws(
      () => readSafetensorsHeader(bytes, "x.safetensors"),
      refuses("CHECKPOINT_CORRUPT", pattern),
    );
  });
}

test("readSafetensorsHeader() survives random changes of a good file", () => {
  const good = encodeSafetensorsHeader(
    [
      { name: "a", dtype: "F32", shape: [3] },
      { name: "b", dtype: "F16", shape: [2, 2] },
    ],
    { k: "v" },
  );
  const random = new Random(14);
  for (let i = 0; i < 3000; i++) {
    const bytes = good.slice(0, 1 + random.below(good.byteLength));
    for (let k = random.below(3); k >= 0; k--) bytes[random.below(bytes.byteLength)] = random.below(256);
    try {
      const header = readSafetensorsHeader(bytes);
      for (const { offset, bytes: size } of header.tensors.values())
        assert.ok(offset >= header.headerBytes && offset + size <= header.fileBytes);
    } catch (error) {
      assert.ok(error instanceof GokuError, String(error));
    }
  }
});

test("readSafetensors() refuses a file that is missing, too short or too long", async () => {
  const file = path.join(scratch, "short.safetensors");
  await assert.rejects(readSafetensors(path.join(scratch, "none")), refuses("NOT_FOUND", /check the path/));
  for (const size of [3, 5]) {
    writeFileSync(file, fileOf({ a: entry([0, 4]) }, new Uint8Array(size)));
    await assert.rejects(readSafetensors(file), refuses("CHECKPOINT_CORRUPT", /its header wants/));
  }
});

test("the golden files are read", async () => {
  const { tensors } = await readSafetensors("test/golden/mixed.safetensors");
  assert.ok(tensors.size > 100);
  for (const tensor of tensors.values())
    assert.equal(safetensorsNumbers(tensor).length * SAFETENSORS_DTYPES[tensor.dtype], tensor.bytes);
});

const PYTHON = `
import hashlib, json, sys
from safetensors import safe_open
found = {}
for path in sys.argv[1:]:
    with safe_open(path, framework="np") as f:
        for name in f.keys():
            tensor = f.get_tensor(name)
            found[path + " " + name] = [list(tensor.shape), str(tensor.dtype), hashlib.sha256(tensor.tobytes()).hexdigest()]
print(json.dumps(found))
`;

test("each data file is read, alone, by the safetensors package of Python", async (t) => {
  const probe = spawnSync("python3", ["-c", "import numpy, safetensors"], { encoding: "utf8" });
  if (probe.status !== 0) {
    console.log("SKIP (no Python with numpy and safetensors)");
    return t.skip("no Python with numpy and safetensors");
  }
  const layout = layoutOf("2x2x1");
  const uri = `file://${path.join(scratch, "run")}`;
  mkdirSync(path.join(scratch, "slots"));
  await saveAndCommit({
    storage: uri,
    model: AWKWARD,
    layout,
    meta: metaOf(state(2, 8), layout),
    slots: path.join(scratch, "slots"),
  });
  await requireState(await openCheckpoint(uri), AWKWARD, state(2, 8));
  const folder = path.join(scratch, "run", "checkpoint-8");
  const files = readdirSync(folder)
    .filter((name) => name.endsWith(".safetensors"))
    .map((name) => path.join(folder, name));
  assert.equal(files.length, 4);
  const python = spawnSync("python3", ["-c", PYTHON, ...files], { encoding: "utf8" });
  assert.equal(python.status, 0, python.stderr);
  const theirs = JSON.parse(python.stdout) as Record<string, [number[], string, string]>;
  const ours: Record<string, [readonly number[], string, string]> = {};
  for (const file of files) {
    for (const [name, tensor] of (await readSafetensors(file)).tensors) {
      ours[`${file} ${name}`] = [tensor.shape, "float32", digestOf(tensor.data)];
    }
    assert.ok(readFileSync(file).subarray(8, 40).toString().startsWith('{"__metadata__"'));
  }
  assert.deepEqual(theirs, ours);
  assert.ok(
    Object.keys(ours).some((name) => name.endsWith(" model/patch_embed.bias")),
    "whole tensors keep their names",
  );
  assert.ok(
    Object.keys(ours).some((name) => /@\d+$/.test(name)),
    "intervals say where they begin",
  );
});
