import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { findCommitted } from "../../../controller/shell/find_committed.js";
import {
  layoutOf,
  metaOf,
  SMALL,
  saveAll,
  saveAndCommit,
  scratchFolder,
  state,
} from "../../checkpoint/fixtures.js";

const layout = layoutOf("1x2x1");

test("findCommitted() tells the core what is committed under a run's root, and nothing else", async () => {
  const folder = scratchFolder();
  const uri = `file://${folder}/run`;
  const setup = (step: number) => ({
    storage: uri,
    model: SMALL,
    layout,
    meta: metaOf(state(3, step), layout),
    slots: path.join(folder, `slots-${step}`),
  });
  await saveAndCommit(setup(10));
  const { uri: told, bytes } = await saveAndCommit(setup(20));
  await saveAll(setup(30));
  const damaged = path.join(folder, "run", "checkpoint-40");
  mkdirSync(damaged);
  writeFileSync(path.join(damaged, "manifest.json"), "{");
  const removed = { uri: `${uri}/checkpoint-5`, state: { generation: 3, step: 5 } };
  const recomputed = { uri: told, state: { generation: 2, step: 20 } };
  const known = [removed, { uri: told, state: { generation: 3, step: 20 } }, recomputed];
  const { found, gone } = await findCommitted(uri, [
    ...known,
    { uri: `file://${damaged}`, state: { generation: 3, step: 40 } },
  ]);
  assert.deepEqual(gone, [removed, recomputed], "a damaged record is not a missing one");
  assert.deepEqual(
    found.map((one) => one.state),
    [
      { generation: 3, step: 20 },
      { generation: 3, step: 10 },
    ],
  );
  assert.deepEqual([found[0]!.uri, found[0]!.bytes], [told, bytes], "as its agent tells it");
  assert.ok(found.every(({ committedAtMs }) => Number.isFinite(committedAtMs)));
});

test("findCommitted() calls nothing gone where it finds nothing at all: a mount that is missing looks like that", async () => {
  const uri = `file://${scratchFolder()}/none`;
  const known = [{ uri: `${uri}/checkpoint-5`, state: { generation: 3, step: 5 } }];
  assert.deepEqual(await findCommitted(uri, known), { found: [], gone: [] });
});
