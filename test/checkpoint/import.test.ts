import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { digestOf } from "../../checkpoint/digest.js";
import { exportCheckpoint } from "../../checkpoint/export.js";
import { importCheckpoint, weightFaults } from "../../checkpoint/import.js";
import { listCheckpoints, openCheckpoint } from "../../checkpoint/load.js";
import { openWeights } from "../../checkpoint/open_weights.js";
import { encodeSafetensorsHeader, type SafetensorsSpec } from "../../checkpoint/safetensors.js";
import { verifyCheckpoint } from "../../checkpoint/verify.js";
import { widenFloats } from "../../checkpoint/widen_floats.js";
import { modelConfig } from "../../job/job.js";
import {
  elementBits,
  layoutOf,
  memoryStorage,
  metaOf,
  refuses,
  saveAndCommit,
  scratchFolder,
  state,
  tinyJob,
} from "./fixtures.js";

const scratch = scratchFolder();
const { job, model } = tinyJob(scratch);
const config = modelConfig(job);
const WIDTHS = { F32: 4, F16: 2, BF16: 2, F64: 8 } as const;

/** A file whose elements are bits of the fixtures' choosing. */
function weightFile(name: string, specs: readonly SafetensorsSpec[]): string {
  const data = specs.map(({ name: tensor, dtype, shape }) => {
    const bytes = new Uint8Array(shape.reduce((a, b) => a * b, 1) * WIDTHS[dtype as "F32"]);
    for (let i = 0; i < bytes.length; i++) bytes[i] = elementBits(state(0, 0), tensor, i);
    return bytes;
  });
  const file = path.join(scratch, name);
  writeFileSync(file, Buffer.concat([encodeSafetensorsHeader(specs, {}), ...data]));
  return file;
}

const specsOf = (dtype: keyof typeof WIDTHS): SafetensorsSpec[] =>
  model.specs.map(({ name, shape }) => ({ name, dtype, shape }));

const importing = async (file: string, layout = layoutOf("1x1x1"), memory = memoryStorage()) => {
  const weights = await openWeights([file]);
  const meta = metaOf(state(0, 0), layout, { job, exclusions: [] });
  try {
    await importCheckpoint({ weights, model: config, meta, layout, storage: memory.storage });
  } finally {
    await weights.close();
  }
  return memory;
};

for (const dtype of ["F32", "F16", "BF16"] as const) {
  test(`importCheckpoint() makes model and averaged weights of ${dtype}, and zero moments, in any layout`, async () => {
    const file = weightFile(`${dtype}.safetensors`, specsOf(dtype));
    for (const text of ["1x1x1", "2x3x1"]) {
      const { storage } = await importing(file, layoutOf(text));
      const checkpoint = await openCheckpoint(storage);
      assert.deepEqual([checkpoint.meta.state, checkpoint.meta.parent], [state(0, 0), null]);
      assert.deepEqual((await verifyCheckpoint(storage)).bad, []);
      checkpoint.requireModel(model.specs);
      for (const { name, count } of model.specs) {
        const bytes = Uint8Array.from({ length: WIDTHS[dtype] * count }, (_, i) =>
          elementBits(state(0, 0), name, i),
        );
        const want = Buffer.from(new Uint8Array(widenFloats(bytes, dtype).buffer));
        for (const kind of ["model", "ema"])
          assert.deepEqual(Buffer.from((await checkpoint.readTensor(`${kind}/${name}`)).buffer), want, name);
        for (const kind of ["adam_m", "adam_v"])
          assert.ok((await checkpoint.readTensor(`${kind}/${name}`)).every((value) => Object.is(value, 0)));
      }
    }
  });
}

test("importCheckpoint() takes back what exportCheckpoint() wrote, bit for bit", async () => {
  const layout = layoutOf("1x2x1");
  const { storage } = memoryStorage();
  const slots = path.join(scratch, "slots");
  await saveAndCommit({ storage, model, layout, meta: metaOf(state(1, 2), layout, { job }), slots });
  const checkpoint = await openCheckpoint(storage);
  const folder = path.join(scratch, "exported");
  await exportCheckpoint({ checkpoint, folder, weights: "ema", dtype: "f32", shardBytesMax: 30_000 });
  const imported = await openCheckpoint((await importing(folder)).storage);
  for (const { name } of model.specs) {
    const want = await checkpoint.readTensor(`ema/${name}`);
    assert.deepEqual(
      Buffer.from((await imported.readTensor(`model/${name}`)).buffer),
      Buffer.from(want.buffer),
    );
  }
  // Heads and norms leave no trace in shapes; the folder's own config tells.
  const weights = await openWeights([folder]);
  assert.deepEqual(weightFaults(weights, config), []);
  assert.deepEqual(weightFaults(weights, { ...config, heads: 4, patch: [1, 4, 1] }), [
    { name: "model.heads", what: "of another model", found: "2", want: "4" },
    { name: "model.patch", what: "of another model", found: "1,2,2", want: "1,4,1" },
  ]);
  await weights.close();
});

test("weightFaults() names every tensor that is missing, surplus, or of another shape or type", async () => {
  const specs = specsOf("F32").slice(2);
  specs[0] = { ...specs[0]!, shape: [...specs[0]!.shape].reverse() };
  specs[1] = { ...specs[1]!, dtype: "F64" };
  specs.push({ name: "pos_embed", dtype: "F32", shape: [2] }, { name: "\n\u2028", dtype: "F32", shape: [1] });
  const file = weightFile("wrong.safetensors", specs);
  const weights = await openWeights([file]);
  const faults = weightFaults(weights, config);
  await weights.close();
  assert.deepEqual(
    faults.map(({ name, what }) => [name, what]),
    [
      [model.specs[0]!.name, "missing"],
      [model.specs[1]!.name, "missing"],
      [model.specs[2]!.name, "of another shape"],
      [model.specs[3]!.name, "of another type"],
      ["pos_embed", "surplus"],
      ["\n\u2028", "surplus"],
    ],
  );
  const memory = memoryStorage();
  await assert.rejects(
    importing(file, layoutOf("1x1x1"), memory),
    refuses("CHECKPOINT_MISMATCH", /2 missing, 1 of another shape, 1 of another type, 2 surplus/),
  );
  assert.deepEqual([...memory.disk.files().keys()], [], "nothing is written");
});

test("importCheckpoint() refuses a run that holds checkpoints, and takes no remains of another import for its own", async () => {
  const file = weightFile("good.safetensors", specsOf("F32"));
  const memory = await importing(file);
  await assert.rejects(
    importing(file, layoutOf("1x1x1"), memory),
    refuses("CONFLICT", /holds .*checkpoint-0 already/),
  );
  // A first import that ended before its commit record, of other weights under the same name and meta.
  const broken = memoryStorage();
  await importing(weightFile("first.safetensors", specsOf("BF16")), layoutOf("1x2x1"), broken);
  await broken.storage.delete(["checkpoint-0/manifest.json"]);
  await importing(file, layoutOf("1x2x1"), broken);
  const [entry] = await listCheckpoints(broken.storage);
  assert.equal(entry!.step, 0);
  const { name } = model.specs[0]!;
  const want = await (await openCheckpoint(memory.storage)).readTensor(`model/${name}`);
  const found = await (await openCheckpoint(broken.storage)).readTensor(`model/${name}`);
  assert.deepEqual(Buffer.from(found.buffer), Buffer.from(want.buffer));
});

/** Writes what openWeights is to read, of a type for which numpy has no name too, and tells digests of what we wrote. */
const PYTHON = `
import hashlib, json, sys
import numpy, safetensors
from safetensors.numpy import save_file
out, specs, ours = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
generator = numpy.random.default_rng(7)
theirs = {}
for dtype, kind in (("float32", "F32"), ("float16", "F16")):
    tensors = {name: generator.standard_normal(shape).astype(dtype) for name, shape in specs}
    save_file(tensors, f"{out}/{kind}.safetensors", metadata={"format": "np"})
    theirs[kind] = {name: hashlib.sha256(t.astype("float32").tobytes()).hexdigest() for name, t in tensors.items()}
wide = {n: (generator.standard_normal(shape).astype("float32").view("uint32") >> 16).astype("uint16") for n, shape in specs}
def spec(t):
    if not hasattr(safetensors, "TensorSpec"):  # before 0.8
        return {"dtype": "bfloat16", "shape": list(t.shape), "data": t.tobytes()}
    return safetensors.TensorSpec(dtype="bfloat16", shape=t.shape, data_ptr=t.ctypes.data, data_len=t.nbytes)
open(f"{out}/BF16.safetensors", "wb").write(bytes(safetensors.serialize({name: spec(t) for name, t in wide.items()})))
theirs["BF16"] = {n: hashlib.sha256((t.astype("uint32") << 16).tobytes()).hexdigest() for n, t in wide.items()}
read = {}
for path in ours:
    for name, tensor in safetensors.deserialize(open(path, "rb").read()):
        read[name] = [tensor["dtype"], list(tensor["shape"]), hashlib.sha256(bytes(tensor["data"])).hexdigest()]
print(json.dumps([theirs, read]))
`;

test("files of the safetensors package of Python are imported, and exported ones are read by it", async (t) => {
  const probe = spawnSync("python3", ["-c", "import numpy, safetensors"], { encoding: "utf8" });
  if (probe.status !== 0) {
    console.log("SKIP (no Python with numpy and safetensors)");
    return t.skip("no Python with numpy and safetensors");
  }
  const { storage } = await importing(weightFile("base.safetensors", specsOf("F32")));
  const checkpoint = await openCheckpoint(storage);
  const folder = path.join(scratch, "for-python");
  const result = await exportCheckpoint({
    checkpoint,
    folder,
    weights: "ema",
    dtype: "bf16",
    shardBytesMax: 30_000,
  });
  const files = result.files
    .filter((file) => file.endsWith(".safetensors"))
    .map((file) => path.join(folder, file));
  const specs = JSON.stringify(model.specs.map(({ name, shape }) => [name, shape]));
  const python = spawnSync("python3", ["-c", PYTHON, scratch, specs, ...files], { encoding: "utf8" });
  assert.equal(python.status, 0, python.stderr);
  const [theirs, read] = JSON.parse(python.stdout);
  for (const dtype of ["F32", "F16", "BF16"]) {
    const imported = await openCheckpoint(
      (await importing(path.join(scratch, `${dtype}.safetensors`))).storage,
    );
    for (const { name } of model.specs) {
      const values = await imported.readTensor(`model/${name}`);
      assert.equal(digestOf(new Uint8Array(values.buffer)), theirs[dtype][name], `${dtype} ${name}`);
    }
  }
  const weights = await openWeights([folder]);
  for (const { name, shape, offset, bytes, dtype } of weights.entries()) {
    const file = files.find((each) => readFileSync(each).includes(`"${name}"`))!;
    const digest = digestOf(readFileSync(file).subarray(offset, offset + bytes));
    assert.deepEqual([dtype, read[name]], ["BF16", ["BF16", [...shape], digest]], name);
  }
  await weights.close();
});
