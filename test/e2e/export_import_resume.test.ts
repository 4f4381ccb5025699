import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { openCheckpoint } from "../../checkpoint/load.js";
import { writeShapes } from "../../worker/data/shapes/write_shapes.js";
import { gokuctl } from "../support/gokuctl.js";

/** Weights that leave one run and begin another: train, export, import, resume in two layouts. Real processes and media. */
const scratch = mkdtempSync(path.join(tmpdir(), "goku-e2e-import-"));
const at = (name: string) => path.join(scratch, name);
const jobFile = at("job.yaml");

before(async () => {
  await writeShapes({ directory: at("media"), singles: 12, pairs: 4, clips: 2 });
  writeFileSync(
    jobFile,
    `name: tuned
model: { preset: goku-nano, depth: 1, width: 32, heads: 2, text_width: 16 }
data: { media: ${at("media")} }
train: { steps: 2, packs_per_step: 2, tokens_per_pack: 128 }
checkpoint: { uri: "file://${at("first")}" }
`,
  );
});
after(() => rmSync(scratch, { recursive: true, force: true }));

async function done(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await gokuctl(args);
  assert.equal(code, 0, `${args.join(" ")}\n${stdout}${stderr}`);
  return stdout;
}

test("a run begins from imported weights, with the bits of one layout in another", async () => {
  await done("train", jobFile, "--local", "1x2");
  await done("ckpt", "export", at("first"), "--out", at("weights"));
  await done(
    "ckpt",
    "import",
    at("weights"),
    "--job",
    jobFile,
    "--set",
    `checkpoint.uri=file://${at("tuned")}`,
  );
  const [first, begun] = [await openCheckpoint(at("first")), await openCheckpoint(at("tuned"))];
  assert.deepEqual(begun.meta.codec, first.meta.codec, "as the ranks of the first run made it");
  assert.equal(begun.meta.dataDigest, first.meta.dataDigest);
  for (const layout of ["1x2x1", "1x1x1"]) {
    const uri = `checkpoint.uri=file://${at(layout)}`;
    const ranks = layout.split("x")[1]!;
    await done("resume", "--ckpt", at("tuned"), "--layout", layout, "--set", uri, "--local", `1x${ranks}`);
  }
  const [two, one] = [await openCheckpoint(at("1x2x1")), await openCheckpoint(at("1x1x1"))];
  assert.deepEqual([two.meta.state.step, two.meta.parent], [2, { generation: "0", step: 0 }]);
  const { name } = two.specs[0]!;
  for (const kind of ["model", "ema", "adam_m", "adam_v"])
    for (const spec of two.specs) {
      const tensor = `${kind}/${spec.name}`;
      assert.deepEqual(await two.readTensor(tensor), await one.readTensor(tensor), tensor);
    }
  assert.notDeepEqual(
    await two.readTensor(`model/${name}`),
    await begun.readTensor(`model/${name}`),
    "it has trained",
  );
});
