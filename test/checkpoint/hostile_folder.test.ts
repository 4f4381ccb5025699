import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, readFileSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { before, test } from "node:test";
import { digestOf } from "../../checkpoint/digest.js";
import { openCheckpoint } from "../../checkpoint/load.js";
import { encodeSealedJson } from "../../checkpoint/sealed_json.js";
import { verifyCheckpoint } from "../../checkpoint/verify.js";
import { type ErrorCode, GokuError } from "../../job/errors.js";
import {
  layoutOf,
  metaOf,
  modelOf,
  refuses,
  requireState,
  saveAndCommit,
  scratchFolder,
  state,
} from "./fixtures.js";

/** A checkpoint's folder on a real file system, in the hands of one who knows the format and can make digests. */

const scratch = scratchFolder();
const SMALL = modelOf({ "patch_embed.weight": [5, 3], "blocks.0.norm2.weight": [33] });
const [MANIFEST, DATA, RECORD] = ["g1-w0.json", "g1-w0.safetensors", "manifest.json"] as const;
let copies = 0;

before(async () => {
  const layout = layoutOf("1x1x1");
  await saveAndCommit({
    storage: path.join(scratch, "good"),
    model: SMALL,
    layout,
    meta: metaOf(state(1, 8), layout),
    slots: path.join(scratch, "slots"),
  });
});

/** A copy of the run, and the place of its files. */
function copy(): { run: string; file: (name: string) => string } {
  const run = path.join(scratch, `copy-${copies++}`);
  cpSync(path.join(scratch, "good"), run, { recursive: true });
  return { run, file: (name) => path.join(run, "checkpoint-8", name) };
}

async function readAll(run: string): Promise<void> {
  const checkpoint = await openCheckpoint(run);
  for (const { name } of checkpoint.specs)
    for (const kind of checkpoint.kinds) await checkpoint.readTensor(`${kind}/${name}`);
}

const parse = (file: string) => {
  const { sha256: _seal, ...value } = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  return value;
};

/** Puts new content into a writer's manifest, and its digest into the record. */
function forgeManifest(file: (name: string) => string, content: Record<string, unknown>): void {
  const bytes = encodeSealedJson(content);
  writeFileSync(file(MANIFEST), bytes);
  const record = parse(file(RECORD));
  record.writers = [{ manifest: MANIFEST, digest: digestOf(bytes), bytes: bytes.byteLength }];
  writeFileSync(file(RECORD), encodeSealedJson(record));
}

test("pipes, folders and links to nowhere in the place of files are missing files, and nobody waits for them", async () => {
  const places: [string, (at: string) => void][] = [
    ["a pipe", (at) => assert.equal(spawnSync("mkfifo", [at]).status, 0)],
    ["a folder", (at) => cpSync(path.join(scratch, "slots"), at, { recursive: true })],
    ["a link to nowhere", (at) => symlinkSync("nowhere", at)],
    ["a link to itself", (at) => symlinkSync(path.basename(at), at)],
    ["a link to a device without end", (at) => symlinkSync("/dev/zero", at)],
  ];
  for (const [what, put] of places) {
    for (const name of [MANIFEST, DATA, RECORD]) {
      const { run, file } = copy();
      rmSync(file(name));
      put(file(name));
      const codes: ErrorCode[] = ["CHECKPOINT_CORRUPT", "NOT_FOUND", "STORAGE_FAILED"];
      const typed = (error: unknown) => error instanceof GokuError && codes.includes(error.code);
      await assert.rejects(readAll(run), typed, `${what} as ${name}`);
    }
  }
});

test("a link to another file of the user is read only when that has the very bytes; nothing is written through it", async () => {
  const { run, file } = copy();
  const secret = path.join(scratch, "secret");
  writeFileSync(secret, "secret");
  rmSync(file(DATA));
  symlinkSync(secret, file(DATA));
  await assert.rejects(readAll(run), refuses("CHECKPOINT_CORRUPT", /the file has 6 bytes/));
  rmSync(file(RECORD));
  const layout = layoutOf("1x1x1");
  const meta = metaOf(state(1, 8), layout);
  await saveAndCommit({ storage: run, model: SMALL, layout, meta, slots: path.join(scratch, "slots") });
  assert.equal(readFileSync(secret, "utf8"), "secret");
  renameSync(file(DATA), file("moved"));
  symlinkSync("moved", file(DATA));
  await requireState(await openCheckpoint(run), SMALL, state(1, 8));
});

test("a data file and manifest that agree on a header of 10 GB are refused without taking memory for it", async () => {
  const { run, file } = copy();
  const header = 10_000_000_000;
  const manifest = parse(file(MANIFEST)) as {
    file: { bytes: number; headerBytes: number };
    intervals: { offset: number }[];
  };
  const shift = header - manifest.file.headerBytes;
  manifest.file.headerBytes = header;
  manifest.file.bytes += shift;
  for (const interval of manifest.intervals) interval.offset += shift;
  forgeManifest(file, manifest);
  truncateSync(file(DATA), manifest.file.bytes); // sparse: the size is there, the bytes are not
  const before = process.memoryUsage().arrayBuffers;
  await assert.rejects(readAll(run), refuses("CHECKPOINT_CORRUPT", /headerBytes is 10000000000, want/));
  assert.ok((await verifyCheckpoint(run)).bad.length > 0);
  assert.ok(process.memoryUsage().arrayBuffers - before < 1 << 20);
});

const WRONG: readonly unknown[] = [
  null,
  true,
  -1,
  0.5,
  2 ** 53,
  1e308,
  "",
  "../../etc/passwd",
  [],
  {},
  [[]],
  [null],
  { toString: 1, valueOf: null },
  "9".repeat(400),
];

/** Every way to put a wrong value, or none, in the place of one of a tree. */
function* wrongTrees(tree: unknown): Generator<Record<string, unknown>> {
  if (typeof tree !== "object" || tree === null) return;
  for (const key of Object.keys(tree)) {
    const put = (value: unknown) => {
      const changed = structuredClone(tree) as Record<string, unknown>;
      if (value === undefined && !Array.isArray(changed)) delete changed[key];
      else changed[key] = value;
      return changed;
    };
    for (const value of [...WRONG, undefined]) yield put(value);
    for (const below of wrongTrees((tree as Record<string, unknown>)[key])) yield put(below);
  }
}

for (const name of [MANIFEST, RECORD]) {
  test(`every field of a forged ${name} in every wrong JSON type is refused with a typed error, or changes no element`, async () => {
    const { run, file } = copy();
    const good = parse(file(name));
    const forge = (tree: Record<string, unknown>) => {
      if (name === MANIFEST) forgeManifest(file, tree);
      else writeFileSync(file(RECORD), encodeSealedJson(tree));
    };
    forge(good);
    await readAll(run); // Forging itself is not what is refused.
    let refused = 0;
    let count = 0;
    for (const tree of wrongTrees(good)) {
      count++;
      forge(tree);
      try {
        await readAll(run);
      } catch (error) {
        const typed = error instanceof GokuError;
        assert.ok(typed, `${JSON.stringify(tree).slice(0, 1000)}: ${(error as Error).stack}`);
        assert.ok(
          ["CHECKPOINT_CORRUPT", "CHECKPOINT_MISMATCH"].includes(error.code),
          `${error.code}: ${error.message}`,
        );
        assert.ok(!error.message.includes("\n") && error.message.length < 700, error.message);
        refused++;
      }
    }
    assert.ok(count > 300 && refused > count / 2, `${refused} of ${count} were refused`);
  });
}
