import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { makeCredentials } from "../../support/credentials.js";
import { MOMENTS, type Moment } from "./cell.js";
import type { FaultRow } from "./fault_row.js";
import { Network } from "./network.js";
import { ROWS } from "./rows.js";
import { type Ground, runCell, runReference } from "./run_cell.js";

/** Some cells of `make faults`, which no other test has; the whole matrix takes half an hour. */
const CELLS: readonly [string, Moment][] = [
  ["segfault", "computing"],
  ["flip-snapshot", "collective"],
  ["clock-controller", "computing"],
  ["controller", "collective"],
];
/** Whom each names, as rank 3's node is not known beforehand. */
const NAMED: Record<string, RegExp> = {
  "clock-controller": /^nobody$/,
  controller: /^the controller$/,
};
const LIMIT = { timeout: 600_000 };

const folder = mkdtempSync(path.join(tmpdir(), "goku-matrix-"));
const { network } = Network.open(["controller", "node-a", "node-b", "node-c"]);
after(() => {
  network?.close();
  rmSync(folder, { recursive: true, force: true });
});

let ground: Promise<Ground> | null = null;
function prepared(): Promise<Ground> {
  ground ??= (async () => {
    const hosts = ["127.0.0.1", ...(network ? [network.host("controller")] : [])];
    const base = { network, credentials: makeCredentials(path.join(folder, "certs"), hosts), folder };
    return { ...base, reference: await runReference(60, base) };
  })();
  return ground;
}

for (const [id, moment] of CELLS)
  test(
    `fault matrix: ${id}, ${moment}: ends as every cell must, and what happened is told`,
    LIMIT,
    async () => {
      const row = ROWS.find((one) => one.id === id)!;
      const cell = await runCell(row, moment, await prepared());
      assert.deepEqual(cell.failures, []);
      assert.equal(cell.losses, "same bits");
      assert.match(cell.localised, NAMED[id] ?? /^rank 3, node-\w$/);
      assert.notEqual(cell.detected.by, "");
      if (row.quiet.includes(moment))
        assert.match(cell.recovered.by, /training went on: \d+ steps meanwhile/);
    },
  );

test("fault matrix: a cell fails that names another than its fault is in", LIMIT, async () => {
  const row = ROWS.find(({ id }) => id === "throw")!;
  const elsewhere: FaultRow = { ...row, culprit: () => ({ kind: "rank", rank: 0, node: "node-a" }) };
  const { failures } = await runCell(elsewhere, "collective", await prepared());
  assert.equal(failures.length, 1);
  assert.match(failures[0]!, /^named rank 3, node-\w, the fault is in rank 0, node-a$/);
});

test("fault matrix: every fault has its own name, a moment to strike at, and says why others have none", () => {
  assert.equal(new Set(ROWS.map(({ id }) => id)).size, ROWS.length);
  for (const { id, strikes, absent } of ROWS) {
    const moments = Object.keys(strikes);
    assert.ok(moments.length > 0, id);
    assert.ok(moments.length === MOMENTS.length || absent !== "", `${id}: ${moments}`);
    for (const strike of Object.values(strikes)) assert.ok(strike.failpoints.includes(strike.at), id);
  }
});
