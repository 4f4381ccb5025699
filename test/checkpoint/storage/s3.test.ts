import assert from "node:assert/strict";
import { after, test } from "node:test";
import { S3Storage } from "../../../checkpoint/storage/s3.js";
import type { S3Settings } from "../../../checkpoint/storage/s3_client.js";
import { partBytesFor } from "../../../checkpoint/storage/s3_upload.js";
import { openStorage } from "../../../checkpoint/storage/storage.js";
import { gokuctl } from "../../support/gokuctl.js";
import { MemoryS3, type S3Failure, type S3Operation } from "../../support/memory_s3.js";
import { testSettings } from "../../support/s3_settings.js";
import { Random, refuses } from "../fixtures.js";

/** What S3 storage makes of a server that fails, before or after it did what was asked. */

const MIB = 1 << 20;
const PART = 5 * MIB;
const bytes = (text: string) => new TextEncoder().encode(text);
const servers: MemoryS3[] = [];
after(() => Promise.all(servers.map((server) => server.stop())));

async function fresh(
  more: Partial<S3Settings> = {},
): Promise<{ server: MemoryS3; storage: S3Storage; second: S3Storage }> {
  const server = await MemoryS3.start();
  servers.push(server);
  const open = () =>
    new S3Storage(
      { bucket: server.bucket, prefix: "run" },
      { settings: testSettings(server.endpoint, more), partBytes: PART },
    );
  return { server, storage: open(), second: open() };
}

/** A folder that can be committed in, and the probe's key in place. */
async function freshFolder(more: Partial<S3Settings> = {}) {
  const made = await fresh(more);
  await made.storage.writeFile("c-1/data", [bytes("d")]);
  await made.storage.createExclusive("c-1/other", bytes("o"));
  return made;
}

function* large(seed: number, mebibytes: number): Generator<Uint8Array> {
  const random = new Random(seed);
  const block = new Uint32Array(MIB / 4);
  for (let i = 0; i < mebibytes; i++) yield new Uint8Array(block.fill(random.word()).buffer);
}

async function requireLarge(storage: S3Storage, seed: number, mebibytes: number): Promise<void> {
  const found = Buffer.from(await storage.readFile("c-1/x", mebibytes * MIB));
  assert.equal(found.byteLength, mebibytes * MIB);
  let at = 0;
  for (const block of large(seed, mebibytes)) {
    assert.ok(found.subarray(at, at + MIB).equals(block), `MiB ${at / MIB}`);
    at += MIB;
  }
}

const PASSING: [string, S3Failure][] = [
  ["500", { kind: "answer", status: 500, code: "InternalError" }],
  ["503", { kind: "answer", status: 503, code: "SlowDown" }],
  ["a connection closed before anything happened", { kind: "drop" }],
  ["a lost answer", { kind: "dropAfter" }],
  ["500 for what was done", { kind: "answerAfter", status: 500, code: "InternalError" }],
];

for (const [what, failure] of PASSING) {
  test(`an upload survives ${what} at any of its requests`, async () => {
    for (const operation of ["begin", "part", "complete"] as const) {
      const { server, storage } = await fresh();
      server.fail(operation, failure);
      await storage.writeFile("c-1/x", large(3, 12));
      await requireLarge(storage, 3, 12);
      const leftBehind = operation === "begin" && /After|dropAfter/.test(failure.kind) ? 1 : 0;
      assert.equal(server.uploads.size, leftBehind, `${operation}: what a lost "begin" made has no name`);
    }
  });

  test(`reading, listing and deleting survive ${what}`, async () => {
    const { server, storage } = await fresh();
    await storage.writeFile("c-1/x", [bytes("12345")]);
    for (const operation of ["get", "list", "head", "put", "deleteMany"] as const)
      server.fail(operation, failure);
    assert.equal(Buffer.from(await storage.readFile("c-1/x", 9)).toString(), "12345");
    assert.equal((await storage.list("")).length, 1);
    assert.equal((await storage.stat("c-1/x"))?.bytes, 5);
    await storage.writeFile("c-1/y", [bytes("6")]);
    await storage.delete(["c-1/x", "c-1/y"]);
    assert.deepEqual(await storage.list(""), []);
  });

  test(`createExclusive() knows its own key again after ${what}`, async () => {
    const { server, storage, second } = await freshFolder();
    server.fail("put", failure, { key: "run/c-1/m" });
    assert.equal(await storage.createExclusive("c-1/m", bytes("mine")), true);
    server.fail("put", failure, { key: "run/c-1/m" });
    assert.equal(await second.createExclusive("c-1/m", bytes("theirs")), false);
    assert.equal(Buffer.from(await storage.readFile("c-1/m", 9)).toString(), "mine");
  });
}

test("createExclusive() finds its key when every answer was lost, and says so when none was made", async () => {
  const { server, storage } = await freshFolder({ attemptsMax: 1 });
  server.fail("put", { kind: "dropAfter" }, { key: "run/c-1/m" });
  assert.equal(await storage.createExclusive("c-1/m", bytes("mine")), true);
  server.fail("put", { kind: "drop" }, { key: "run/c-1/n", times: 3 });
  await assert.rejects(
    storage.createExclusive("c-1/n", bytes("mine")),
    refuses(
      "STORAGE_FAILED",
      /Cannot create c-1\/n under s3:\/\/runs\/run: the connection to http:.* failed/,
    ),
  );
  assert.equal(await storage.stat("c-1/n"), null);
});

test("createExclusive() repeats after a conflict of two creations under way", async () => {
  const { server, storage } = await freshFolder();
  server.fail(
    "put",
    { kind: "answer", status: 409, code: "ConditionalRequestConflict" },
    { key: "run/c-1/m" },
  );
  assert.equal(await storage.createExclusive("c-1/m", bytes("mine")), true);
});

for (const mode of ["ignored", "refused"] as const) {
  test(`nothing is committed where conditional writes are ${mode}`, async () => {
    const { server, storage } = await fresh();
    await storage.writeFile("c-1/data", [bytes("d")]);
    server.conditionalWrites = mode;
    for (let i = 0; i < 2; i++)
      await assert.rejects(
        storage.createExclusive("c-1/m", bytes("mine")),
        refuses("STORAGE_FAILED", /does not honour If-None-Match.*put checkpoint.uri on a server with/),
      );
    assert.equal(await storage.stat("c-1/m"), null);
  });
}

test("whether conditional writes are honoured is asked once per storage, with one request once its key is there", async () => {
  const { server, storage, second } = await freshFolder();
  const before = server.count("put");
  await storage.createExclusive("c-1/m", bytes("1"));
  assert.equal(server.count("put") - before, 1);
  await second.createExclusive("c-1/n", bytes("1"));
  assert.equal(server.count("put") - before, 3);
  assert.deepEqual(
    (await storage.list("")).map((entry) => entry.key),
    ["c-1/data", "c-1/m", "c-1/n", "c-1/other"],
    "the probe's key is none of storage's",
  );
});

test("a body that breaks off is asked for again", async () => {
  const { server, storage } = await fresh();
  await storage.writeFile("x", [new Uint8Array(300_000).fill(7)]);
  server.fail("get", { kind: "cut" });
  assert.ok((await storage.readFile("x", 300_000)).every((byte) => byte === 7));
  server.fail("get", { kind: "cut" });
  const into = new Uint8Array(200_000);
  await storage.read("x", 50_000, into);
  assert.ok(into.every((byte) => byte === 7));
});

test("a server that falls silent fails every operation in a bounded number of attempts", async () => {
  const silent = refuses("STORAGE_FAILED", /http:\/\/127.* was silent for 1000 ms .*check the server/);
  const runs: [S3Operation, (storage: S3Storage) => Promise<unknown>][] = [
    ["put", (storage) => storage.writeFile("c-1/y", [bytes("1")])],
    ["part", (storage) => storage.writeFile("c-1/x", large(1, 11))],
    ["complete", (storage) => storage.writeFile("c-1/x", large(1, 6))],
    ["get", (storage) => storage.readFile("c-1/data", 9)],
    ["list", (storage) => storage.list("")],
    ["head", (storage) => storage.stat("c-1/data")],
    ["deleteMany", (storage) => storage.delete(["c-1/data"])],
  ];
  await Promise.all(
    runs.map(async ([operation, run]) => {
      const { server, storage } = await fresh({ idleMs: 1_000, attemptsMax: 2 });
      server.objects.set("run/c-1/data", { bytes: Buffer.from("d"), metadata: {} });
      server.fail(operation, { kind: "silent" }, { times: 100 });
      await assert.rejects(run(storage), silent, operation);
      const left = operation === "complete" ? 1 : 0;
      assert.equal(server.uploads.size, left, "aborted, unless the server may still make the key");
    }),
  );
});

test("an upload that stays listed though its key was made goes with the key, and takes none of its bytes before", async () => {
  const { server, storage } = await fresh();
  server.uploadsOutlive = true;
  for (const told of [true, false]) {
    server.fail("complete", { kind: "answerAfter", status: 500, code: "InternalError" }, { times: 4 });
    if (!told) server.fail("head", { kind: "drop" }, { times: 4 });
    const writing = storage.writeFile("c-1/x", large(1, 12));
    if (told) await writing;
    else await assert.rejects(writing, refuses("STORAGE_FAILED", /answered InternalError, HTTP 500 4 times/));
    assert.equal(server.uploads.size, 1);
    assert.equal(await storage.removeUnfinished("c-1/", () => true), 0);
    await requireLarge(storage, 1, 12);
    await storage.delete(["c-1/x"]);
    assert.equal(await storage.removeUnfinished("c-1/", () => true), 1);
    assert.equal(server.uploads.size, 0);
  }
});

test("an upload that cannot be finished is aborted, and the old content stays", async () => {
  const { server, storage } = await fresh();
  await storage.writeFile("c-1/x", [bytes("old")]);
  for (const operation of ["part", "complete"] as const) {
    server.fail(operation, { kind: "answer", status: 403, code: "AccessDenied" });
    await assert.rejects(
      storage.writeFile("c-1/x", large(1, 22)),
      refuses("STORAGE_FAILED", /does not allow it in bucket runs \(AccessDenied, HTTP 403\)/),
    );
    assert.equal(server.uploads.size, 0);
  }
  assert.equal(Buffer.from(await storage.readFile("c-1/x", 9)).toString(), "old");
});

const TOLD: [number, string, Parameters<typeof refuses>][] = [
  [403, "QuotaExceeded", ["STORAGE_FULL", /no space left in bucket runs \(QuotaExceeded\), free some/]],
  [507, "XMinioStorageFull", ["STORAGE_FULL", /no space left/]],
  [403, "SignatureDoesNotMatch", ["STORAGE_FAILED", /check the credentials and their policy/]],
  [400, "ExpiredToken", ["STORAGE_FAILED", /renew the credentials/]],
  [404, "NoSuchBucket", ["STORAGE_FAILED", /there is no bucket runs at http:.*create it/]],
  [
    301,
    "PermanentRedirect",
    ["STORAGE_FAILED", /another region \(PermanentRedirect, HTTP 301\), set AWS_REGION/],
  ],
  [503, "SlowDown", ["STORAGE_FAILED", /answered SlowDown, HTTP 503 4 times/]],
];

test("each fault is told with its cause and what to do, and without the server's own text", async () => {
  const { server, storage } = await fresh();
  for (const [status, code, [error, pattern]] of TOLD) {
    server.fail("put", { kind: "answer", status, code }, { times: 4 });
    await assert.rejects(
      storage.writeFile("c-1/x", [bytes("1")]),
      (thrown: Error) => {
        const shown = `${thrown.message} ${JSON.stringify(thrown.cause)} ${String(thrown.cause)}`;
        assert.doesNotMatch(shown, /secret|test-key-id/);
        return refuses(error, pattern)(thrown);
      },
      code,
    );
    server.forgetFailures();
  }
  await server.stop();
  await assert.rejects(
    storage.writeFile("c-1/x", [bytes("1")]),
    refuses(
      "STORAGE_FAILED",
      /connection to http:\/\/127.*failed \(ECONNREFUSED\), check AWS_ENDPOINT_URL_S3/,
    ),
  );
});

test("a bucket that is not there is told by listing it", async () => {
  const { server } = await fresh();
  const storage = new S3Storage(
    { bucket: "elsewhere", prefix: "" },
    { settings: testSettings(server.endpoint), partBytes: null },
  );
  await assert.rejects(
    storage.folders(""),
    refuses("STORAGE_FAILED", /there is no bucket elsewhere at http/),
  );
});

test("delete() sends a thousand keys at a time, and listings go on over pages", async () => {
  const { server, storage } = await fresh();
  await storage.delete(Array.from({ length: 2001 }, (_, i) => `c-1/${i}`));
  assert.equal(server.count("deleteMany"), 3);
  server.pageKeys = 2;
  const keys = ["a/1", "a/2", "b/1", "c/1", "d/1", "top"];
  for (const key of keys) await storage.writeFile(key, [bytes(key)]);
  assert.deepEqual(
    (await storage.list("")).map((entry) => entry.key),
    keys,
  );
  assert.deepEqual(await storage.folders(""), ["a", "b", "c", "d"]);
});

test("a key that cannot be deleted is named, and the others are gone", async () => {
  const { server, storage } = await fresh();
  for (const key of ["c-1/a", "c-1/b", "c-1/c"]) await storage.writeFile(key, [bytes("1")]);
  server.locked.add("run/c-1/b");
  await assert.rejects(
    storage.delete(["c-1/a", "c-1/b", "c-1/c"]),
    refuses("STORAGE_FAILED", /Cannot delete c-1\/b .*does not allow it in bucket runs \(AccessDenied\)/),
  );
  assert.deepEqual(
    (await storage.list("")).map((entry) => entry.key),
    ["c-1/b"],
  );
});

test("what is not set is named: credentials, region, an endpoint that is a URL", async () => {
  const { server } = await fresh();
  const nothing = { AWS_CONFIG_FILE: "/nowhere", AWS_SHARED_CREDENTIALS_FILE: "/nowhere" };
  const noKeys = { AWS_ACCESS_KEY_ID: "", AWS_SECRET_ACCESS_KEY: "", AWS_EC2_METADATA_DISABLED: "true" };
  const cases: [Record<string, string>, RegExp][] = [
    [
      { ...nothing, ...noKeys, AWS_ENDPOINT_URL_S3: server.endpoint },
      /no credentials, set AWS_ACCESS_KEY_ID/,
    ],
    [{ ...nothing, AWS_REGION: "" }, /found no region, set AWS_REGION/],
    [{ AWS_ENDPOINT_URL_S3: "user:word@nowhere" }, /an endpoint that is no URL, set AWS_ENDPOINT_URL_S3/],
  ];
  for (const [env, pattern] of cases) {
    const { code, stderr } = await gokuctl(["ckpt", "ls", "s3://runs/run"], { env });
    assert.equal(code, 20, stderr);
    assert.match(stderr, pattern);
    assert.doesNotMatch(stderr, /word|test-secret/);
  }
  assert.equal(server.log.length, 0);
});

test("those who may only read, and servers that cannot list uploads, still see folders", async () => {
  const { server, storage } = await fresh();
  await storage.writeFile("c-1/x", [bytes("1")]);
  server.fail("uploads", { kind: "answer", status: 403, code: "AccessDenied" });
  assert.deepEqual(await storage.folders(""), ["c-1"]);
  server.fail("uploads", { kind: "answer", status: 501, code: "NotImplemented" }, { times: 8 });
  assert.equal(await storage.removeUnfinished("c-1/", () => true), 0);
});

test("partBytesFor() stays within S3's 10,000 parts, and all parts are of one size", () => {
  const GIB = 2 ** 30;
  for (const size of [0, 1, 100 * GIB, 150 * GIB, 1024 * GIB, 5 * 1024 * GIB]) {
    const part = partBytesFor(size);
    assert.ok(Math.ceil(size / part) <= 9_000 && part >= 16 * MIB && part <= 5 * GIB && part % MIB === 0);
  }
});

test("openStorage() takes s3:// URIs of a bucket and a prefix of plain names", () => {
  for (const [uri, want] of [
    ["s3://runs/team/a", "s3://runs/team/a"],
    ["s3://runs/team/a//", "s3://runs/team/a"],
    ["s3://runs", "s3://runs"],
    ["s3://runs/", "s3://runs"],
  ] as const)
    assert.equal(openStorage(uri).uri, want);
  for (const uri of [
    "s3://",
    "s3:///x",
    "s3://B/x",
    "s3://runs/../x",
    "s3://runs/a//b",
    "s3://runs/.a",
    "s3://u:p@runs/x",
  ])
    assert.throws(
      () => openStorage(uri),
      refuses("ARGUMENT_INVALID", /names no bucket.*want file:\/\/PATH or s3:\/\/BUCKET\/PREFIX/),
      uri,
    );
});
