import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { listCheckpoints, openCheckpoint } from "../../checkpoint/load.js";
import { readSnapshotHeader, verifySnapshot } from "../../checkpoint/snapshot.js";
import { STATE_KINDS, stateKey } from "../../checkpoint/state.js";
import { verifyCheckpoint } from "../../checkpoint/verify.js";
import { shardPieces } from "../../job/sharding.js";
import {
  AWKWARD,
  elementBits,
  layoutOf,
  metaOf,
  readShard,
  requireState,
  scratchFolder,
  snapshotPage,
  state,
} from "./fixtures.js";
import {
  FIXTURE_LATER_RECORD,
  FIXTURE_MODEL,
  FIXTURE_STATES,
  fixtureMeta,
  writeFormatFixture,
} from "./format_fixture.js";

const FOLDER = "test/checkpoint";
const VERSIONS = readdirSync(FOLDER)
  .map((name) => Number(/^fixtures_v(\d+)$/.exec(name)?.[1]))
  .filter((version) => version > 0)
  .sort((a, b) => a - b);
const fixtureOf = (version: number) => path.join(FOLDER, `fixtures_v${version}`);
const RECORDS = ["manifest.json", FIXTURE_LATER_RECORD];

for (const version of VERSIONS) {
  test(`a checkpoint of format version ${version} verifies and loads bit for bit in any layout: a change of the format adds a fixture and keeps this one readable`, async () => {
    const uri = fixtureOf(version);
    const record = JSON.parse(readFileSync(path.join(uri, "checkpoint-8", "manifest.json"), "utf8"));
    assert.equal(record.version, version);
    const { bad, state: verified, bytes } = await verifyCheckpoint(uri);
    assert.deepEqual([bad, verified, bytes], [[], FIXTURE_STATES[1], 4 * STATE_KINDS.length * 49]);
    assert.deepEqual(
      (await listCheckpoints(uri)).map((entry) => `${stateKey(entry.state)} ${entry.current}`),
      ["5-8 true", "3-8 false"],
    );
    for (const of of FIXTURE_STATES) {
      const checkpoint = await openCheckpoint(uri, of);
      await requireState(checkpoint, FIXTURE_MODEL, of);
      assert.deepEqual(checkpoint.meta, fixtureMeta(of, metaLayout(of), version));
      for (const text of ["1x1x1", "1x2x1", "2x3x2", "1x1x4", "3x7x1"]) await requireShards(uri, of, text);
    }
  });
}

function metaLayout(of: (typeof FIXTURE_STATES)[number]) {
  return layoutOf(of === FIXTURE_STATES[0] ? "1x1x1" : "2x4x1");
}

/** What each rank of a layout reads is what the generator of the fixture gives. */
async function requireShards(uri: string, of: (typeof FIXTURE_STATES)[number], text: string): Promise<void> {
  const layout = layoutOf(text);
  const checkpoint = await openCheckpoint(uri, of);
  for (let rank = 0; rank < layout.worldSize; rank++) {
    for (const kind of STATE_KINDS) {
      for (const unit of FIXTURE_MODEL.units) {
        const shard = await readShard(checkpoint, { unit, layout, rank, kind });
        const bits = new Uint32Array(shard.buffer);
        const pieces = shardPieces([unit], layout, rank);
        assert.equal(
          bits.length,
          pieces.reduce((sum, piece) => sum + piece.length, 0),
        );
        for (const piece of pieces)
          for (let i = 0; i < piece.length; i++)
            assert.equal(
              bits[piece.shardOffset + i],
              elementBits(of, `${kind}/${piece.parameter}`, piece.start + i),
              `${kind}/${piece.parameter} of rank ${rank} of ${text}`,
            );
      }
    }
  }
}

test("what is written today is the newest fixture byte for byte, but for the time of its commit: a change of the format raises its version and adds a fixture by write_format_fixture.ts", async () => {
  const newest = fixtureOf(VERSIONS.at(-1)!);
  const written = path.join(scratchFolder(), "run");
  await writeFormatFixture(written);
  const names = (root: string) => readdirSync(path.join(root, "checkpoint-8")).sort();
  assert.deepEqual(names(written), names(newest));
  for (const name of names(written)) {
    const [ours, theirs] = [written, newest].map((root) =>
      readFileSync(path.join(root, "checkpoint-8", name)),
    );
    if (RECORDS.includes(name)) assert.deepEqual(withoutTime(ours!), withoutTime(theirs!), name);
    else assert.ok(ours!.equals(theirs!), name);
  }
});

/** A commit record as text, without its time and the digest that follows from it. */
function withoutTime(bytes: Buffer): string {
  const { committedAt, sha256, ...rest } = JSON.parse(bytes.toString("utf8"));
  assert.match(`${committedAt} ${sha256}`, /^\d{4}-.*Z [0-9a-f]{64}$/);
  return JSON.stringify(rest);
}

test("every format version up to the present one has its fixture", () => {
  assert.deepEqual(
    VERSIONS,
    Array.from({ length: VERSIONS.length }, (_, i) => i + 1),
  );
  assert.ok(VERSIONS.length > 0);
});

test("a snapshot of any other format version is never taken for whole: memory is not carried over to another version", async () => {
  const layout = layoutOf("1x2x1");
  const file = path.join(scratchFolder(), "slot");
  const sealed = snapshotPage(AWKWARD, layout, 0, metaOf(state(1, 1), layout));
  const view = new DataView(sealed.buffer);
  const present = view.getUint32(8, true);
  const [jsonBytes, checksums] = [view.getUint32(56, true), view.getUint32(52, true)];
  /** The page with that version in its header, and a digest that covers it. */
  const ofVersion = (version: number): Uint8Array => {
    const page = sealed.slice();
    new DataView(page.buffer).setUint32(8, version, true);
    const hash = createHash("sha256").update(page.subarray(0, 12)).update(page.subarray(16, 64));
    hash.update(page.subarray(4096, 4096 + jsonBytes));
    page.set(hash.update(page.subarray(524_288, 524_288 + 4 * checksums)).digest(), 64);
    return page;
  };
  for (const version of [0, 1, present - 1, present + 1, 99, 2 ** 32 - 1]) {
    writeFileSync(file, ofVersion(version));
    assert.equal(readSnapshotHeader(file), null, `version ${version}`);
    assert.match((await verifySnapshot(file)) ?? "nothing", /missing or not whole/);
  }
  writeFileSync(file, ofVersion(present));
  assert.equal(await verifySnapshot(file), null, "it is the version alone that is refused");
});
