import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { openWeights } from "../../checkpoint/open_weights.js";
import { encodeSafetensorsHeader, readSafetensorsHeader } from "../../checkpoint/safetensors.js";
import { SafetensorsFile } from "../../checkpoint/safetensors_file.js";
import { decodeWeightsIndex } from "../../checkpoint/weights_index.js";
import { GokuError } from "../../job/errors.js";
import { Random, refuses, scratchFolder } from "./fixtures.js";

const scratch = scratchFolder();
const folder = () => mkdtempSync(path.join(scratch, "weights-"));
const INDEX = "model.safetensors.index.json";

function write(at: string, name: string, tensors: Record<string, number[]>): string {
  const header = encodeSafetensorsHeader(
    Object.entries(tensors).map(([tensor, values]) => ({
      name: tensor,
      dtype: "F32",
      shape: [values.length],
    })),
    {},
  );
  const data = Object.values(tensors).map((values) => new Uint8Array(new Float32Array(values).buffer));
  const file = path.join(at, name);
  writeFileSync(file, Buffer.concat([header, ...data]));
  return file;
}

const writeIndex = (at: string, map: unknown, name = INDEX) => {
  const text = typeof map === "string" ? map : JSON.stringify({ metadata: {}, weight_map: map });
  writeFileSync(path.join(at, name), text);
  return path.join(at, name);
};

async function namesIn(...paths: string[]): Promise<string[]> {
  const weights = await openWeights(paths);
  await weights.close();
  return weights.entries().map(({ name }) => name);
}

test("openWeights() takes files, a folder of files, an index, a folder with one, and an exported folder", async () => {
  const at = folder();
  const [one, two] = [
    write(at, "1.safetensors", { a: [1, 2] }),
    write(at, "2.safetensors", { b: [3], c: [4] }),
  ];
  assert.deepEqual(await namesIn(one), ["a"]);
  assert.deepEqual(await namesIn(two, one), ["b", "c", "a"]);
  assert.deepEqual(await namesIn(at), ["a", "b", "c"]);
  const index = writeIndex(at, { a: "1.safetensors", b: "2.safetensors", c: "2.safetensors" });
  assert.deepEqual(await namesIn(index), ["a", "b", "c"]);
  assert.deepEqual(await namesIn(at), ["a", "b", "c"]);
  const exported = folder();
  mkdirSync(path.join(exported, "transformer"));
  write(path.join(exported, "transformer"), "m.safetensors", { d: [5, 6, 7] });
  writeFileSync(path.join(exported, "transformer/config.json"), '{"depth":4}');
  const weights = await openWeights([exported]);
  assert.deepEqual(weights.config, { depth: 4 });
  assert.deepEqual([...(await weights.read("d", { start: 1, length: 2 }))], [6, 7]);
  await weights.close();
  // A path that a person gives may be a link; what lies in a folder may not.
  const link = path.join(folder(), "link");
  symlinkSync(one, link);
  assert.deepEqual(await namesIn(link), ["a"]);
});

test("openWeights() refuses what is not there, has nothing in it, or says nothing definite", async () => {
  const at = folder();
  await assert.rejects(openWeights([path.join(at, "none")]), refuses("NOT_FOUND", /no such file or folder/));
  await assert.rejects(openWeights([at]), refuses("NOT_FOUND", /no \.safetensors file/));
  for (const name of ["checkpoint-4", "manifest.json"]) {
    const own = folder();
    mkdirSync(path.join(own, name));
    write(own, "g1-w0.safetensors", { a: [1] });
    await assert.rejects(
      openWeights([own]),
      refuses("ARGUMENT_INVALID", /holds checkpoints, export one of them/),
    );
  }
  writeIndex(at, {});
  writeIndex(at, {}, "other.safetensors.index.json");
  await assert.rejects(openWeights([at]), refuses("ARGUMENT_INVALID", /2 indexes .*name one of them/));
});

test("openWeights() refuses tensors that two files hold, or that index and files do not agree on", async () => {
  const at = folder();
  const one = write(at, "1.safetensors", { a: [1], b: [1] });
  const two = write(at, "2.safetensors", { b: [2] });
  await assert.rejects(
    openWeights([one, two]),
    refuses("CHECKPOINT_CORRUPT", /holds "b", which .*1\.safetensors/),
  );
  const index = (map: unknown) => openWeights([writeIndex(at, map)]);
  const both = { a: "1.safetensors", b: "1.safetensors" };
  await assert.rejects(
    index({ a: "1.safetensors" }),
    refuses("CHECKPOINT_CORRUPT", /"b", which the index does not/),
  );
  await assert.rejects(index({ ...both, c: "1.safetensors" }), refuses("CHECKPOINT_CORRUPT", /lacks "c"/));
  await assert.rejects(index({ ...both, c: "3.safetensors" }), refuses("NOT_FOUND", /3\.safetensors/));
});

test("openWeights() follows no link and opens no pipe that lies in a folder", async () => {
  const secret = write(folder(), "secret.safetensors", { a: [1] });
  const at = folder();
  symlinkSync(secret, path.join(at, "1.safetensors"));
  await assert.rejects(
    openWeights([at]),
    refuses("ARGUMENT_INVALID", /1\.safetensors: it is a symbolic link/),
  );
  const index = writeIndex(at, { a: "1.safetensors" });
  await assert.rejects(openWeights([index]), refuses("ARGUMENT_INVALID", /symbolic link/));
  const [outer, pipes] = [folder(), folder()];
  symlinkSync(path.dirname(secret), path.join(outer, "transformer"));
  await assert.rejects(openWeights([outer]), refuses("ARGUMENT_INVALID", /transformer is a symbolic link/));
  assert.equal(spawnSync("mkfifo", [path.join(pipes, "1.safetensors")]).status, 0);
  await assert.rejects(openWeights([pipes]), refuses("ARGUMENT_INVALID", /no plain file/));
  const folders = folder();
  mkdirSync(path.join(folders, "1.safetensors"));
  await assert.rejects(openWeights([folders]), refuses("ARGUMENT_INVALID", /no plain file/));
});

test("openWeights() lets no name of an index leave its folder", async () => {
  write(scratch, "outside.safetensors", { a: [1] });
  for (const name of [
    "../outside.safetensors",
    path.join(scratch, "outside.safetensors"),
    "sub/x.safetensors",
    "..\\outside.safetensors",
    ".hidden.safetensors",
    "a\0.safetensors",
    "",
    "config.json",
    `${"x".repeat(300)}.safetensors`,
    7,
    null,
    ["1.safetensors"],
    { toString: 1 },
  ]) {
    const at = folder();
    await assert.rejects(
      openWeights([writeIndex(at, { a: name })]),
      refuses(
        "CHECKPOINT_CORRUPT",
        /weight_map puts "a" in .*want the name of a \.safetensors file beside it/,
      ),
    );
  }
  for (const text of [
    "",
    "[]",
    "null",
    "{}",
    '{"weight_map":[]}',
    '{"weight_map":"a"}',
    "{",
    "[".repeat(1e6),
    "\xff",
  ])
    await assert.rejects(
      openWeights([writeIndex(folder(), text)]),
      refuses("CHECKPOINT_CORRUPT", /Cannot read/),
    );
});

test("SafetensorsFile refuses headers of 10 GB, and files of other sizes, without taking memory for them", async () => {
  const at = folder();
  const claims = (bytes: bigint, fileBytes: number) => {
    const file = path.join(at, "huge.safetensors");
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(bytes);
    writeFileSync(file, length);
    truncateSync(file, fileBytes); // sparse: the size is there, the bytes are not
    return SafetensorsFile.open(file);
  };
  const before = process.memoryUsage().arrayBuffers;
  const reason = /the header says \d+ bytes, \d+ follow, the format allows 100000000/;
  await assert.rejects(claims(10_000_000_000n, 20_000_000_000), refuses("CHECKPOINT_CORRUPT", reason));
  await assert.rejects(claims(2n ** 64n - 1n, 20_000_000_000), refuses("CHECKPOINT_CORRUPT", reason));
  await assert.rejects(claims(90_000_000n, 1000), refuses("CHECKPOINT_CORRUPT", reason));
  await assert.rejects(claims(0n, 3), refuses("CHECKPOINT_CORRUPT", /at least 8/));
  assert.ok(process.memoryUsage().arrayBuffers - before < 1 << 20);
  const long = write(at, "long.safetensors", { a: [1] });
  truncateSync(long, 1000);
  await assert.rejects(
    SafetensorsFile.open(long),
    refuses("CHECKPOINT_CORRUPT", /1000 bytes, its header wants/),
  );
});

/** What a hostile writer of JSON would put in the place of a value. */
const HOSTILE: readonly unknown[] = [
  null,
  true,
  -1,
  0.5,
  2 ** 53,
  1e308,
  "",
  "F32",
  "../../etc/passwd",
  [],
  {},
  [[[]]],
  { toString: 1, valueOf: null },
  [-4, 0],
  [0, 2 ** 52],
  [2 ** 40, 2 ** 40],
  Array(50).fill(2 ** 50),
  [0, 4, 8],
  "\n\u2028",
  { constructor: 7, hasOwnProperty: 1 },
];

/** Replaces, removes or adds one value somewhere in a tree. */
function mutate(tree: unknown, random: Random): unknown {
  if (typeof tree !== "object" || tree === null || random.below(6) === 0) return random.pick(HOSTILE);
  const copy = structuredClone(tree) as Record<string, unknown>;
  const keys = Object.keys(copy);
  if (keys.length === 0 || random.below(8) === 0)
    copy[random.pick(["a", "dtype", "__metadata__"])] = random.pick(HOSTILE);
  else {
    const key = random.pick(keys);
    if (random.below(6) === 0) delete copy[key];
    else copy[key] = mutate(copy[key], random);
  }
  return copy;
}

/** Decodes hundreds of wrong inputs; each is taken, or refused in one line with that one code. */
function fuzz(seed: number, good: unknown, decode: (json: string) => void): void {
  const random = new Random(seed);
  let refused = 0;
  for (let i = 0; i < 600; i++) {
    let tree = good;
    for (let k = random.below(3); k >= 0; k--) tree = mutate(tree, random);
    let json = JSON.stringify(tree) ?? "";
    if (i % 5 === 0) json = json.slice(0, random.below(json.length + 1));
    if (i % 7 === 0) json = json.replace(/\d/, String(random.word()));
    if (i % 11 === 0) json = json.replaceAll("null", "[".repeat(5000) + "]".repeat(5000));
    try {
      decode(json);
    } catch (error) {
      assert.ok(error instanceof GokuError, `${json.slice(0, 200)}: ${error}`);
      assert.equal(error.code, "CHECKPOINT_CORRUPT");
      assert.ok(error.message.length < 600 && !error.message.includes("\n"), error.message.slice(0, 700));
      refused++;
    }
  }
  assert.ok(refused > 300, `only ${refused} were refused`);
}

test("readSafetensorsHeader() answers any header with tensors that lie in the file, or one refusal", () => {
  const tensor = (begin: number, end: number, shape: number[]) => ({
    dtype: "F32",
    shape,
    data_offsets: [begin, end],
  });
  const good = {
    __metadata__: { k: "v" },
    a: tensor(0, 4, [1]),
    b: tensor(4, 28, [2, 3]),
    c: tensor(28, 28, [0]),
  };
  fuzz(5, good, (json) => {
    const text = Buffer.from(json);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.byteLength));
    const header = readSafetensorsHeader(Buffer.concat([length, text]), "x.safetensors");
    for (const { offset, bytes } of header.tensors.values())
      assert.ok(offset >= header.headerBytes && bytes >= 0 && offset + bytes <= header.fileBytes);
  });
});

test("decodeWeightsIndex() answers any index with plain file names, or one refusal", () => {
  const good = {
    metadata: { total_size: 28 },
    weight_map: { a: "m-00001-of-00002.safetensors", b: "m-00002-of-00002.safetensors" },
  };
  fuzz(6, good, (json) => {
    for (const name of decodeWeightsIndex(Buffer.from(json), "x.json").values())
      assert.match(name, /^[A-Za-z0-9_][A-Za-z0-9._@+-]*\.safetensors$/);
  });
});
