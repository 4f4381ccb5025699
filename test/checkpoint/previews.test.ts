import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { listCheckpoints } from "../../checkpoint/load.js";
import {
  listPreviews,
  type PreviewFacts,
  prunePreviews,
  readPreviewFile,
  writePreview,
} from "../../checkpoint/previews.js";
import { openStorage, type Storage } from "../../checkpoint/storage/storage.js";
import { scratchFolder } from "./fixtures.js";

const scratch = scratchFolder();
let runs = 0;
/** A run's root that is empty. */
function emptyRun(): { root: string; storage: Storage } {
  const root = path.join(scratch, `run-${runs++}`);
  return { root, storage: openStorage(`file://${root}`) };
}

function factsOf(generation: string, step: number): PreviewFacts {
  return {
    job: "shapes",
    state: { generation, step },
    prompts: ["a red circle"],
    seed: 1,
    steps: 24,
    guidance: 3,
    shift: 1,
    width: 32,
    height: 32,
    frames: 1,
    drawnAt: "2026-01-02T03:04:05.000Z",
  };
}
const draw = (storage: Storage, generation: string, step: number, bytes = [1, 2, 3]) =>
  writePreview(storage, factsOf(generation, step), [{ name: "sheet.png", bytes: Uint8Array.from(bytes) }]);

test("previews come back as they were written, in the order of their steps, and are no checkpoints", async () => {
  const { root, storage } = emptyRun();
  for (const step of [200, 40]) await draw(storage, "3", step);
  const listed = await listPreviews(`file://${root}`);
  assert.deepEqual(
    listed.map(({ state }) => state.step),
    [40, 200],
  );
  const { uri, files, ...facts } = listed[0]!;
  assert.deepEqual(facts, factsOf("3", 40));
  assert.equal(uri, `file://${root}/previews/step-40`);
  assert.deepEqual([...(await readPreviewFile(storage, { step: 40, name: files[0]!.name }))], [1, 2, 3]);
  assert.deepEqual(await listCheckpoints(`file://${root}`), []);
});

test("a preview without its manifest is none; a later generation takes its place, an earlier one does not", async () => {
  const { root, storage } = emptyRun();
  const folder = path.join(root, "previews/step-40");
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, "g2-sheet.png"), "cut off");
  assert.deepEqual(await listPreviews(storage), []);
  await draw(storage, "10", 40, [10]);
  assert.deepEqual(readdirSync(folder).sort(), ["g10-sheet.png", "preview.json"]);
  await draw(storage, "11", 40, [11]);
  assert.deepEqual(readdirSync(folder).sort(), ["g11-sheet.png", "preview.json"]);
  await assert.rejects(draw(storage, "9", 40), { code: "CONFLICT" });
  assert.equal((await listPreviews(storage))[0]!.state.generation, "11");
});

test("readPreviewFile() gives what the preview lists and nothing else, and finds a turned bit", async () => {
  const { root, storage } = emptyRun();
  await draw(storage, "1", 4);
  writeFileSync(path.join(root, "secret"), "secret");
  for (const name of ["../../secret", "preview.json", "g2-sheet.png", ""])
    await assert.rejects(readPreviewFile(storage, { step: 4, name }), { code: "NOT_FOUND" }, name);
  for (const step of [5, -1, 0.5, Number.NaN])
    await assert.rejects(readPreviewFile(storage, { step, name: "g1-sheet.png" }), { code: "NOT_FOUND" });
  writeFileSync(path.join(root, "previews/step-4/g1-sheet.png"), Uint8Array.of(1, 2, 7));
  await assert.rejects(readPreviewFile(storage, { step: 4, name: "g1-sheet.png" }), {
    code: "CHECKPOINT_CORRUPT",
  });
});

test("a manifest that names a file outside its folder is damaged, told and left out", async () => {
  const { root, storage } = emptyRun();
  await draw(storage, "1", 4);
  await draw(storage, "1", 8);
  const file = path.join(root, "previews/step-4/preview.json");
  writeFileSync(file, readFileSync(file, "utf8").replace("g1-sheet.png", "../../../etc/passwd"));
  const damaged: [number, string][] = [];
  const listed = await listPreviews(storage, ({ step, error }) => damaged.push([step, error.code]));
  assert.deepEqual(
    listed.map(({ state }) => state.step),
    [8],
  );
  assert.deepEqual(damaged, [[4, "CHECKPOINT_CORRUPT"]]);
});

test("prunePreviews() removes the oldest line first, so that what is drawn after a step back stays", async () => {
  const { root, storage } = emptyRun();
  for (const step of [10, 20, 30, 40]) await draw(storage, "1", step);
  await draw(storage, "2", 25);
  assert.deepEqual(await prunePreviews(storage, 5), []);
  assert.deepEqual(await prunePreviews(storage, 2), [10, 20, 30]);
  const steps = async () => (await listPreviews(storage)).map(({ state }) => state.step);
  assert.deepEqual(await steps(), [25, 40]);
  assert.deepEqual(await prunePreviews(storage, 1), [40]);
  assert.ok(!existsSync(path.join(root, "previews/step-40")));
  rmSync(path.join(root, "previews/step-25/preview.json"));
  assert.deepEqual(await steps(), []);
});
