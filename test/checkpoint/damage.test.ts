import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { digestOf } from "../../checkpoint/digest.js";
import { inspectCheckpoint } from "../../checkpoint/inspect.js";
import { openCheckpoint } from "../../checkpoint/load.js";
import { encodeSealedJson } from "../../checkpoint/sealed_json.js";
import { STATE_KINDS } from "../../checkpoint/state.js";
import { type VerifyReport, verifyCheckpoint } from "../../checkpoint/verify.js";
import { GokuError } from "../../job/errors.js";
import { Layout } from "../../job/layout.js";
import {
  AWKWARD,
  commitOf,
  memoryStorage,
  metaOf,
  modelOf,
  Random,
  refuses,
  requireState,
  saveAll,
  saveAndCommit,
  scratchFolder,
  state,
  type TestModel,
} from "./fixtures.js";
import type { LoggedDisk } from "./logged_disk.js";

const scratch = scratchFolder();
const MIB = 1 << 20;
const FOLDER = "/run/checkpoint-8/";
const AWKWARD_BYTES = 4 * STATE_KINDS.length * AWKWARD.specs.reduce((sum, spec) => sum + spec.count, 0);

async function savedDisk(model: TestModel, layoutText: string): Promise<LoggedDisk> {
  const { storage, disk } = memoryStorage();
  const layout = Layout.parse(layoutText);
  await saveAndCommit({
    storage,
    model,
    layout,
    meta: metaOf(state(2, 8), layout),
    slots: path.join(scratch, layoutText),
  });
  return disk;
}

function copyOf(disk: LoggedDisk): LoggedDisk {
  return disk.crash("keepAll", new Random(0));
}

async function readAll(disk: LoggedDisk, model: TestModel): Promise<void> {
  await requireState(await openCheckpoint(memoryStorage(disk).storage), model, state(2, 8));
}

test("a byte flipped anywhere in any file is named, and never loaded", async () => {
  const disk = await savedDisk(AWKWARD, "2x2x1");
  const random = new Random(77);
  for (const [file, bytes] of disk.files()) {
    const name = file.slice(FOLDER.length);
    for (let i = 0; i < 24; i++) {
      // The first and last bytes, then anywhere.
      const at = i === 0 ? 0 : i === 1 ? bytes.byteLength - 1 : random.below(bytes.byteLength);
      const flipped = copyOf(disk);
      flipped.damage(file, (content) => content.with(at, content[at]! ^ (1 << random.below(8))));
      const report = await verifyCheckpoint(memoryStorage(flipped).storage);
      assert.deepEqual([...new Set(report.bad.map((bad) => bad.file))], [name], `${file} byte ${at}`);
      await assert.rejects(readAll(flipped, AWKWARD), refuses("CHECKPOINT_CORRUPT", new RegExp(name)));
    }
  }
});

test("a flipped byte of tensor data is named by file, tensor and MiB, and the other chunks still load", async () => {
  const model = modelOf({ "patch_embed.weight": [600, 1000], "blocks.0.norm2.weight": [70] });
  const disk = await savedDisk(model, "1x2x1");
  const { storage } = memoryStorage(disk);
  const checkpoint = await openCheckpoint(storage);
  const random = new Random(4);
  const { intervals } = await inspectCheckpoint(storage);
  for (let i = 0; i < 12; i++) {
    const interval = random.pick(intervals);
    const at = random.below(interval.bytes);
    const chunk = Math.floor(at / MIB);
    const flipped = copyOf(disk);
    flipped.damage(`${FOLDER}${interval.file}`, (content) =>
      content.with(interval.offset + at, content[interval.offset + at]! ^ 1),
    );
    const report: VerifyReport = await verifyCheckpoint(memoryStorage(flipped).storage);
    assert.equal(report.bad.length, 1);
    const { reason, ...place } = report.bad[0]!;
    assert.deepEqual(place, {
      file: interval.file,
      tensor: interval.tensor,
      chunk,
      offset: interval.offset + chunk * MIB,
    });
    assert.match(reason, new RegExp(`${interval.file}: MiB ${chunk} of ${interval.tensor} `));
    const element = interval.start + Math.floor(at / 4);
    const damaged = await openCheckpoint(memoryStorage(flipped).storage);
    await assert.rejects(
      damaged.readInterval({ tensor: interval.tensor, start: element, length: 1 }),
      refuses("CHECKPOINT_CORRUPT", /differs from its digest/),
    );
    const other = intervals.find((each) => each.tensor !== interval.tensor)!;
    const part = { tensor: other.tensor, start: other.start, length: other.length };
    assert.deepEqual(await damaged.readInterval(part), await checkpoint.readInterval(part));
  }
});

test("an intact checkpoint verifies with nothing bad, and progress reaches its end", async () => {
  const disk = await savedDisk(AWKWARD, "1x3x1");
  const seen: number[] = [];
  const report = await verifyCheckpoint(memoryStorage(disk).storage, ({ bytesDone, bytesTotal }) => {
    assert.equal(bytesTotal, AWKWARD_BYTES);
    seen.push(bytesDone);
  });
  assert.deepEqual(report.bad, []);
  assert.equal(report.bytes, AWKWARD_BYTES);
  assert.equal(seen.at(-1), AWKWARD_BYTES);
  assert.deepEqual(report.state, state(2, 8));
});

test("a byte flipped anywhere in a safetensors header is named as the header's, and its tensors are not loaded", async () => {
  const disk = await savedDisk(AWKWARD, "1x2x1");
  const file = `${FOLDER}g2-w0.safetensors`;
  const headerBytes = 8 + Number(Buffer.from(disk.files().get(file)!).readBigUInt64LE());
  const random = new Random(31);
  const places = Array.from({ length: 40 }, (_, i) => (i < 8 ? i : random.below(headerBytes)));
  for (const at of [...places, headerBytes - 1]) {
    const flipped = copyOf(disk);
    flipped.damage(file, (content) => content.with(at, content[at]! ^ (1 << random.below(8))));
    const { bad } = await verifyCheckpoint(memoryStorage(flipped).storage);
    assert.deepEqual(
      bad.map((each) => [each.file, each.tensor]),
      [["g2-w0.safetensors", null]],
      `byte ${at}`,
    );
    assert.match(bad[0]!.reason, /its header differs from its digest/);
    await assert.rejects(readAll(flipped, AWKWARD), refuses("CHECKPOINT_CORRUPT", /its header differs/));
  }
});

test("what was damaged between a save and its commit is refused there, or named by every reader", async () => {
  const layout = Layout.parse("1x2x1");
  const meta = metaOf(state(2, 8), layout);
  const random = new Random(12);
  for (const name of ["g2-w0.json", "g2-w1.safetensors"]) {
    for (const change of ["flip", "cut", "empty", "remove"] as const) {
      const { storage, disk } = memoryStorage();
      const save = { storage, model: AWKWARD, layout, meta, slots: path.join(scratch, "between") };
      await saveAndCommit({ ...save, meta: metaOf(state(2, 4), layout) });
      await saveAll(save);
      const file = `${FOLDER}${name}`;
      const at = random.below(disk.files().get(file)!.byteLength);
      if (change === "remove") disk.apply({ op: "unlink", path: file });
      else
        disk.damage(file, (bytes) => {
          if (change === "flip") return bytes.with(at, bytes[at]! ^ 1);
          return bytes.slice(0, change === "cut" ? at : 0);
        });
      const where = `${change} ${name}`;
      if (change === "flip" && name.endsWith(".safetensors")) {
        // Reading all of it again would double a save's time; the digests tell when it is read.
        await commitOf(save);
        await assert.rejects(readAll(disk, AWKWARD), refuses("CHECKPOINT_CORRUPT", new RegExp(name)));
      } else {
        await assert.rejects(
          commitOf(save),
          (error) =>
            error instanceof GokuError && ["CHECKPOINT_CORRUPT", "STORAGE_FAILED"].includes(error.code),
          where,
        );
        assert.deepEqual(await storage.stat("checkpoint-8/manifest.json"), null, where);
        await requireState(await openCheckpoint(storage), AWKWARD, state(2, 4));
        await saveAndCommit(save);
        await readAll(disk, AWKWARD);
      }
    }
  }
});

test("a file that is missing, empty, cut short or too long is named", async () => {
  const disk = await savedDisk(AWKWARD, "1x2x1");
  for (const file of disk.files().keys()) {
    const name = file.slice(FOLDER.length);
    for (const change of ["remove", "empty", "cut", "extend"]) {
      const harmed = copyOf(disk);
      if (change === "remove") harmed.apply({ op: "unlink", path: file });
      else
        harmed.damage(file, (bytes) => {
          if (change === "extend") return Buffer.concat([bytes, Buffer.from("x")]);
          return bytes.slice(0, change === "cut" ? -1 : 0);
        });
      if (change === "remove" && name === "manifest.json") {
        await assert.rejects(
          verifyCheckpoint(memoryStorage(harmed).storage),
          refuses("NOT_FOUND", /none of checkpoint-8 was committed/),
        );
        continue;
      }
      const { bad } = await verifyCheckpoint(memoryStorage(harmed).storage);
      assert.deepEqual(
        bad.map((each) => [each.file, each.tensor]),
        [[name, null]],
        `${change} ${name}`,
      );
      await assert.rejects(readAll(harmed, AWKWARD), refuses("CHECKPOINT_CORRUPT", new RegExp(name)));
    }
  }
});

/** Rewrites a sealed file as one who knows how to make digests would; the commit record follows suit. */
function forge(disk: LoggedDisk, name: string, change: (value: Record<string, unknown>) => void): void {
  let sealed: Uint8Array = new Uint8Array();
  disk.damage(`${FOLDER}${name}`, (bytes) => {
    const { sha256: _seal, ...value } = JSON.parse(Buffer.from(bytes).toString("utf8")) as Record<
      string,
      unknown
    >;
    change(value);
    sealed = encodeSealedJson(value);
    return sealed;
  });
  if (name === "manifest.json") return;
  forge(disk, "manifest.json", (record) => {
    for (const writer of record.writers as { manifest: string; digest: string; bytes: number }[]) {
      if (writer.manifest !== name) continue;
      writer.digest = digestOf(sealed);
      writer.bytes = sealed.byteLength;
    }
  });
}

const FIRST = "g2-w0.json";
/** What is wrong, in which file, at which field, and its new value (made from the old one where it is a function). */
const HOSTILE: [string, string, string, unknown][] = [
  ["a file name that leaves the folder", FIRST, "file.name", "../../etc/passwd"],
  ["a manifest name that leaves the folder", "manifest.json", "writers.0.manifest", "../g2-w0.json"],
  ["another writer's file", FIRST, "file.name", "g2-w1.safetensors"],
  ["a file of 2^60 bytes", FIRST, "file.bytes", 2 ** 60],
  ["a file longer than it is", FIRST, "file.bytes", (bytes: number) => bytes + 4],
  ["an interval of 2^53 elements", FIRST, "intervals.0.length", 2 ** 53],
  ["an interval of 2^50 elements", FIRST, "intervals.0.length", 2 ** 50],
  ["an interval of a fraction", FIRST, "intervals.0.length", 1.5],
  ["a negative start", FIRST, "intervals.0.start", -1],
  ["an interval twice", FIRST, "intervals", (list: unknown[]) => [...list, list[0]]],
  ["an interval less", FIRST, "intervals", (list: unknown[]) => list.slice(0, -1)],
  ["overlapping bytes", FIRST, "intervals.1.offset", (offset: number) => offset - 4],
  ["an interval of another tensor", FIRST, "intervals.0.tensor", "model/none"],
  ["the place of another interval", FIRST, "intervals.0.start", (start: number) => start + 1],
  ["no digests", FIRST, "intervals.0.digests", []],
  ["intervals that are no list", FIRST, "intervals", { length: 3 }],
  ["a null state", FIRST, "state", null],
  ["another state", FIRST, "state", { generation: "2", step: 9 }],
  ["another format", "manifest.json", "format", "goku-checkpoint-writer"],
  ["a version to come", "manifest.json", "version", 99],
  ["a step that is not the folder's", "manifest.json", "meta.state.step", 9],
  ["a layout of 10^18 ranks", "manifest.json", "layout", { dp_replicate: 1e6, dp_shard: 1e6, sp: 1e6 }],
  ["a shape of 2^60 elements", "manifest.json", "parameters.0.shape", [2 ** 30, 2 ** 30]],
  ["a parameter twice", "manifest.json", "parameters", (list: unknown[]) => [...list, list[0]]],
  ["a parameter named __proto__", "manifest.json", "parameters.0.name", "__proto__"],
  ["a kind that does not exist", "manifest.json", "kinds", ["model", "constructor"]],
  ["a generation of 400 digits", "manifest.json", "generation", "9".repeat(400)],
];

function setField(root: Record<string, unknown>, field: string, value: unknown): void {
  const keys = field.split(".");
  const last = keys.pop()!;
  let holder = root;
  for (const key of keys) holder = holder[key] as Record<string, unknown>;
  holder[last] = typeof value === "function" ? (value as (old: unknown) => unknown)(holder[last]) : value;
}

for (const [what, name, field, value] of HOSTILE) {
  test(`a forged manifest with ${what} is refused with a typed error`, async () => {
    const disk = await savedDisk(AWKWARD, "1x2x1");
    forge(disk, name, (manifest) => setField(manifest, field, value));
    await assert.rejects(readAll(disk, AWKWARD), refuses("CHECKPOINT_CORRUPT", /^Cannot read /));
    const report = await verifyCheckpoint(memoryStorage(disk).storage);
    assert.ok(report.bad.length > 0);
  });
}

test("forging itself changes nothing that is refused", async () => {
  const disk = await savedDisk(AWKWARD, "1x2x1");
  for (const name of [FIRST, "manifest.json"]) forge(disk, name, () => {});
  await readAll(disk, AWKWARD);
});

test("random bytes, cut and doubled manifests give typed errors", async () => {
  const disk = await savedDisk(AWKWARD, "1x2x1");
  const random = new Random(21);
  for (let i = 0; i < 60; i++) {
    const harmed = copyOf(disk);
    const name = random.pick(["manifest.json", "g2-w0.json", "g2-w1.json"]);
    harmed.damage(`${FOLDER}${name}`, (bytes) => {
      const cut = bytes.slice(0, random.below(bytes.byteLength));
      const noise = Uint8Array.from({ length: random.below(300) }, () => random.below(256));
      return random.pick([
        cut,
        noise,
        Buffer.concat([bytes, bytes]),
        Buffer.concat([cut, noise, bytes.subarray(cut.byteLength)]),
      ]);
    });
    const same = Buffer.from(harmed.files().get(`${FOLDER}${name}`)!).equals(
      Buffer.from(disk.files().get(`${FOLDER}${name}`)!),
    );
    if (same) continue;
    await assert.rejects(
      readAll(harmed, AWKWARD),
      (error) => error instanceof GokuError && error.code === "CHECKPOINT_CORRUPT",
    );
  }
});
