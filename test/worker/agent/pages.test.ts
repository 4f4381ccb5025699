import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { ERRORS } from "../../../job/errors.js";
import { ControlPage } from "../../../worker/agent/control_page.js";
import { ProgressReader } from "../../../worker/agent/progress_reader.js";
import { COLLECTIVE, CONTROL, PAGE_BYTES, PROGRESS } from "../../../worker/pages.js";
import { Progress } from "../../../worker/progress.js";

function withFolder(body: (folder: string) => void): void {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-pages-"));
  try {
    body(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("ControlPage writes generation, culprit and reason where ranks read them, and never goes back", () => {
  withFolder((folder) => {
    const file = path.join(folder, "control");
    const page = new ControlPage(file);
    page.abort(7n, { peer: 3, code: "RANK_DIED" });
    page.abort(6n, { peer: 1, code: "COMM_ABORTED" });
    page.close();
    const bytes = readFileSync(file);
    assert.equal(bytes.length, PAGE_BYTES);
    assert.equal(bytes.readBigUInt64LE(CONTROL.abortGeneration), 7n);
    assert.equal(bytes.readInt32LE(CONTROL.abortPeer), 3);
    assert.equal(bytes.readUInt32LE(CONTROL.abortReason), ERRORS.RANK_DIED.number);
  });
});

test("ProgressReader shows what Progress and the collectives write, and since when nothing changed", () => {
  withFolder((folder) => {
    const file = path.join(folder, "progress");
    const bytes = new Uint8Array(PAGE_BYTES);
    const view = new DataView(bytes.buffer);
    const flush = () => writeFileSync(file, bytes);
    new Progress(bytes).set({ generation: 4n, step: 11, microStep: 2, phase: "backward", layer: 3 });
    view.setBigUint64(PROGRESS.changedMs, 1_000n, true);
    view.setBigUint64(PROGRESS.collectiveEntered, 9n, true);
    view.setBigUint64(PROGRESS.collectiveCompleted, 8n, true);
    view.setUint32(PROGRESS.collectiveKind, COLLECTIVE.reduceScatter, true);
    bytes.set(Buffer.from("shard.0"), PROGRESS.collectiveGroupName);
    flush();
    const reader = new ProgressReader(file);
    const read = (nowMs: bigint) => reader.read({ rank: 5, pid: 77 }, nowMs);
    assert.deepEqual(read(1_200n), {
      rank: 5,
      pid: 77,
      generation: 4n,
      step: 11n,
      microStep: 2,
      phase: "backward",
      layer: 3,
      collectiveEntered: 9n,
      collectiveCompleted: 8n,
      collective: "reduce_scatter",
      group: "shard.0",
      unchangedMs: 0n,
    });
    assert.equal(read(1_900n).unchangedMs, 700n, "since it was first seen like this");
    view.setBigUint64(PROGRESS.collectiveCompleted, 9n, true);
    flush();
    assert.equal(read(2_500n).unchangedMs, 0n, "a collective ended");
    view.setBigUint64(PROGRESS.changedMs, 2_600n, true);
    flush();
    assert.equal(read(2_700n).unchangedMs, 100n, "the rank stamped a change itself");
    reader.close();
  });
});
