import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import type { Storage } from "../../../checkpoint/storage/storage.js";
import { GokuError } from "../../../job/errors.js";
import { Layout } from "../../../job/layout.js";
import { ReadBack, type ReadBackTools, type ReadParts } from "../../../worker/agent/read_back.js";
import {
  commitOf,
  memoryStorage,
  metaOf,
  modelOf,
  Random,
  saveAll,
  saveAndCommit,
  scratchFolder,
  state,
} from "../../checkpoint/fixtures.js";
import { until } from "../../support/until.js";

const layout = Layout.parse("1x2x1");
/** Some MiB for each of both ranks. */
const MODEL = modelOf({ "patch_embed.weight": [700, 1024], "final_proj.bias": [19] });
const MIB = 2 ** 20;
const scratch = scratchFolder();

function setUp(step: number, storage: Storage) {
  const at = state(1, step);
  return { storage, model: MODEL, layout, meta: metaOf(at, layout), slots: path.join(scratch, `${step}`) };
}

/** A reader, what it said, and time that passes when it pauses; `onPause` sees each pause. */
function reading(storage: Storage, onPause: () => unknown = () => {}) {
  const found: ReadParts[] = [];
  const failed: string[] = [];
  const waits: number[] = [];
  const seen = { busy: false, nowMs: 0 };
  const tools: ReadBackTools = {
    openStorage: () => storage,
    nowMs: () => seen.nowMs,
    pause: async (ms) => {
      await new Promise((turn) => setImmediate(turn));
      seen.nowMs += ms;
      waits.push(ms);
      await onPause();
    },
  };
  const reader = new ReadBack(
    {
      busy: () => seen.busy,
      read: (parts) => found.push(parts),
      failed: (_, error) => failed.push(error.code),
    },
    tools,
  );
  const begin = (step: number, rank: number) =>
    reader.begin({ uri: storage.uri, generation: "1", state: state(1, step), rank });
  return { reader, begin, found, failed, waits, seen };
}

/** Real storage that counts what is read of data files, and may turn a bit of it. */
function watched(storage: Storage, flip: (reads: number) => boolean = () => false) {
  /** `looks`: for the commit record. */
  const seen = { reads: 0, bytes: 0, looks: 0 };
  const read: Storage["read"] = async (key, offset, into) => {
    await storage.read(key, offset, into);
    if (!key.endsWith(".safetensors")) return;
    seen.bytes += into.byteLength;
    if (flip(seen.reads++)) into[0]! ^= 1;
  };
  const stat: Storage["stat"] = (key) => {
    if (key.endsWith("/manifest.json")) seen.looks++;
    return storage.stat(key);
  };
  const get = (real: Storage, name: string | symbol) =>
    name === "read" ? read : name === "stat" ? stat : bound(real, name);
  return { seen, storage: new Proxy(storage, { get }) };
}
function bound(real: Storage, name: string | symbol): unknown {
  const value = Reflect.get(real, name);
  return typeof value === "function" ? value.bind(real) : value;
}

test("ReadBack reads what this node's ranks wrote, each byte once, slowly, some seconds after it was written", async () => {
  const { storage, disk } = memoryStorage();
  await saveAndCommit(setUp(10, storage));
  const file = watched(storage);
  const { begin, found, waits, seen } = reading(file.storage);
  begin(10, 0);
  begin(10, 1);
  await until(() => found.length > 0);
  assert.deepEqual(found, [
    {
      generation: "1",
      state: state(1, 10),
      uri: `${storage.uri}/checkpoint-10`,
      writers: [0, 1],
      writerCount: 2,
      damage: null,
    },
  ]);
  const written = [...disk.files()].filter(([name]) => name.endsWith(".safetensors"));
  const bytes = written.reduce((sum, [, content]) => sum + content.byteLength, 0);
  assert.ok(written.length === 2 && bytes > 10 * MIB);
  assert.equal(file.seen.bytes, bytes);
  assert.equal(waits[0], 5_000);
  // Nothing is owed for the last MiB that went.
  assert.ok(seen.nowMs - 5_000 >= (1_000 * (bytes - 2 * MIB)) / (32 * MIB), `${seen.nowMs} ms`);
});

test("ReadBack names the file and the MiB of a flipped byte, and reads no further", async () => {
  const { storage, disk } = memoryStorage();
  await saveAndCommit(setUp(20, storage));
  const name = [...disk.files()].map(([file]) => file).find((file) => file.endsWith("g1-w1.safetensors"))!;
  disk.damage(name, (content) => {
    const at = content.byteLength - 100;
    return content.with(at, content[at]! ^ 4);
  });
  const { begin, found, failed } = reading(storage);
  begin(20, 1);
  await until(() => found.length > 0);
  assert.deepEqual([found[0]!.writers, failed], [[], []]);
  assert.match(
    found[0]!.damage!,
    /^Cannot read checkpoint-20\/g1-w1\.safetensors: MiB \d+ of \S+ \(bytes \d+ to \d+\) differs from its digest/,
  );
});

test("ReadBack names a manifest, a header or a commit record that is damaged, and a file that is gone", async () => {
  const { storage, disk } = memoryStorage();
  await saveAndCommit(setUp(25, storage));
  const harmed: [string, RegExp][] = [
    ["manifest.json", /^Cannot read checkpoint-25\/manifest\.json: /],
    ["g1-w0.json", /^Cannot read checkpoint-25\/g1-w0\.json: it differs/],
    ["g1-w0.safetensors", /^Cannot read checkpoint-25\/g1-w0\.safetensors: its header differs/],
  ];
  const told = async (damaged: typeof storage) => {
    const { begin, found } = reading(damaged);
    begin(25, 0);
    await until(() => found.length > 0);
    return found[0]!.damage!;
  };
  for (const [name, pattern] of harmed) {
    const copy = disk.crash("keepAll", new Random(0));
    copy.damage(`/run/checkpoint-25/${name}`, (content) => content.with(20, content[20]! ^ 1));
    assert.match(await told(memoryStorage(copy).storage), pattern);
  }
  await storage.delete(["checkpoint-25/g1-w0.safetensors"]);
  assert.match(await told(storage), /g1-w0\.safetensors: the file is missing, though it was committed/);
});

test("ReadBack takes a bit that turned on the way for none at rest", async () => {
  const { storage } = memoryStorage();
  await saveAndCommit(setUp(30, storage));
  const { begin, found } = reading(watched(storage, (reads) => reads === 3).storage);
  begin(30, 0);
  await until(() => found.length > 0);
  assert.deepEqual([found[0]!.writers, found[0]!.damage], [[0], null]);
});

test("ReadBack waits for the commit, which may be another agent's", async () => {
  const { storage } = memoryStorage();
  const setup = setUp(40, storage);
  await saveAll(setup);
  let looks = 0;
  const { begin, found } = reading(storage, () => (++looks === 4 ? commitOf(setup) : null));
  begin(40, 1);
  await until(() => found.length > 0);
  assert.ok(looks >= 4);
  assert.deepEqual(found[0]!.writers, [1]);
});

test("ReadBack reads a part that comes while others are read, or afterwards: that of rank 0 comes after the commit", async () => {
  const { storage } = memoryStorage();
  await saveAndCommit(setUp(45, storage));
  const file = watched(storage);
  let isBegun = false;
  const during = reading(file.storage, () => {
    if (file.seen.reads > 1 && !isBegun) during.begin(45, 0);
    isBegun ||= file.seen.reads > 1;
  });
  during.begin(45, 1);
  await until(() => during.found.length > 0);
  assert.deepEqual(during.found[0]!.writers, [1, 0]);
  const later = reading(storage);
  later.begin(45, 1);
  await until(() => later.found.length > 0);
  await new Promise((turn) => setImmediate(turn));
  later.begin(45, 0);
  await until(() => later.found.length > 1);
  assert.deepEqual(
    later.found.map(({ writers }) => writers),
    [[1], [1, 0]],
  );
});

test("ReadBack gives way to a newer checkpoint, and says nothing of the older one", async () => {
  const { storage } = memoryStorage();
  await saveAndCommit(setUp(50, storage));
  await saveAndCommit(setUp(60, storage));
  const file = watched(storage);
  let isNewer = false;
  const { begin, found } = reading(file.storage, () => {
    if (isNewer || file.seen.reads < 3) return;
    isNewer = true;
    begin(60, 0);
  });
  begin(50, 0);
  await until(() => found.length > 0);
  assert.deepEqual(
    found.map(({ state: at, writers }) => [at.step, writers]),
    [[60, [0]]],
  );
  begin(50, 0); // late
  begin(70, 0); // never committed
  assert.equal(isNewer, true);
});

test("ReadBack reads nothing while the node saves, and stops when it is dropped", async () => {
  const { storage } = memoryStorage();
  await saveAndCommit(setUp(80, storage));
  const file = watched(storage);
  const { reader, begin, found, waits, seen } = reading(file.storage);
  seen.busy = true;
  begin(80, 0);
  await until(() => waits.length > 5);
  const headers = file.seen.reads;
  assert.ok(headers <= 1, "no more than the header");
  await reader.drop();
  seen.busy = false;
  assert.deepEqual([found, file.seen.reads], [[], headers]);
});

test("ReadBack takes a checkpoint that retention removes meanwhile, or storage that fails, for no damage", async () => {
  const { storage } = memoryStorage();
  await saveAndCommit(setUp(90, storage));
  const names = ["checkpoint-90/manifest.json", "checkpoint-90/g1-w1.safetensors"];
  const file = watched(storage);
  let gone: Promise<void> | null = null;
  const first = reading(file.storage, () => {
    if (file.seen.reads >= 2) gone ??= storage.delete(names);
    return gone;
  });
  first.begin(90, 0);
  first.begin(90, 1);
  await until(() => gone !== null && file.seen.looks > 1);
  await saveAndCommit(setUp(100, storage));
  const broken = watched(storage, () => {
    throw new GokuError("STORAGE_FAILED", "Cannot read: a test");
  });
  const second = reading(broken.storage);
  second.begin(100, 0);
  await until(() => second.failed.length > 0);
  assert.deepEqual([first.found, first.failed], [[], []]);
  assert.deepEqual([second.found, second.failed], [[], ["STORAGE_FAILED"]]);
});
