import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { digestOf } from "../../checkpoint/digest.js";
import { type DigestRequest, DigestThread } from "../../checkpoint/digest_thread.js";
import { Random } from "./fixtures.js";

const MIB = 1 << 20;

function requestOf(random: Random, bytes: number): DigestRequest {
  const buffer = new SharedArrayBuffer(bytes);
  const words = new Uint32Array(buffer);
  for (let i = 0; i < words.length; i++) words[i] = random.word();
  const cut = random.below(bytes);
  return {
    buffer,
    ranges: [
      { start: 0, end: cut },
      { start: cut, end: bytes },
    ],
  };
}

function expected({ buffer, ranges }: DigestRequest): string[] {
  return ranges.map(({ start, end }) => digestOf(new Uint8Array(buffer.slice(start, end))));
}

async function requireAnswers(thread: DigestThread): Promise<void> {
  const random = new Random(5);
  // Small ones are hashed at once, and overtake those that went to the thread.
  const requests = [MIB, 4, MIB, MIB / 2, 64 << 10, MIB].map((bytes) => requestOf(random, bytes));
  const answers = await Promise.all(requests.map((request) => thread.digests(request)));
  assert.deepEqual(answers, requests.map(expected));
}

test("DigestThread answers each of many requests at once with its own digests", async () => {
  const thread = new DigestThread();
  for (let round = 0; round < 3; round++) await requireAnswers(thread);
  assert.deepEqual(await thread.digests({ buffer: new SharedArrayBuffer(0), ranges: [] }), []);
});

for (const [how, source] of [
  ["cannot be loaded", "import 'file:///nowhere/missing.js'"],
  ["throws at the first request", "throw new Error('of the thread')"],
  ["ends without an answer", "process.exit(0)"],
] as const) {
  test(`DigestThread whose thread ${how} answers all the same, again and again`, async () => {
    const onMessage = `import { parentPort } from 'node:worker_threads'; parentPort.on('message', () => { ${source} });`;
    const code = source.startsWith("import") ? source : onMessage;
    const thread = new DigestThread(new URL(`data:text/javascript,${encodeURIComponent(code)}`));
    for (let round = 0; round < 3; round++) await requireAnswers(thread);
  });
}

test("a process ends by itself once its requests are answered, and not before", () => {
  const module = new URL("../../checkpoint/digest_thread.js", import.meta.url).href;
  const code = `
    import { digestThread } from ${JSON.stringify(module)};
    const buffer = new SharedArrayBuffer(${MIB});
    digestThread.digests({ buffer, ranges: [{ start: 0, end: ${MIB} }] }).then(([digest]) => console.log(digest));`;
  const done = spawnSync(process.execPath, ["--input-type=module", "--eval", code], {
    encoding: "utf8",
    timeout: 60_000,
  });
  assert.equal(done.status, 0, done.stderr);
  assert.equal(done.stdout.trim(), digestOf(new Uint8Array(MIB)));
});
