import assert from "node:assert/strict";
import { test } from "node:test";
import { resolveJob } from "../../job/load_job.js";
import { judgePreviewMemory, previewMemory } from "../../job/preview_memory.js";

const MIB = 2 ** 20;
const jobWith = (sample: object, model: object = {}) =>
  resolveJob({
    name: "drawn",
    model,
    data: { media: "/data" },
    train: { steps: 1 },
    checkpoint: { uri: "file:///run" },
    sample: { prompts: ["a"], ...sample },
  });

test("previewMemory() counts the whole model once in fp32, and more for more pictures, larger ones and clips", () => {
  const one = previewMemory(jobWith({}));
  assert.equal(one.total, one.weights + one.activations + one.pictures + one.process);
  const large = previewMemory(jobWith({}, { preset: "goku-8b" }));
  assert.ok(large.weights > 4 * 7e9 && large.weights < 4 * 11e9, `${large.weights}`);
  for (const more of [{ prompts: ["a", "b"] }, { size: [64, 64] }, { frames: 9 }]) {
    const grown = previewMemory(jobWith(more));
    assert.ok(grown.activations > one.activations && grown.pictures > one.pictures, JSON.stringify(more));
  }
});

test("previewMemory() grows with the prompts in pictures alone once as many are drawn as fit together", () => {
  const prompts = (count: number) => Array.from({ length: count }, (_, i) => `picture ${i}`);
  const sizes = { size: [128, 128], frames: 9 };
  const [few, many] = [4, 64].map((count) => previewMemory(jobWith({ ...sizes, prompts: prompts(count) })));
  assert.ok(many!.activations < 2 * few!.activations);
  assert.ok(many!.pictures > 10 * few!.pictures);
});

test("judgePreviewMemory() leaves a twentieth of the node to others, and says the figures", () => {
  const judge = (neededMib: number) =>
    judgePreviewMemory({
      neededBytes: neededMib * MIB,
      availableBytes: 600 * MIB,
      nodeBytes: 2_000 * MIB,
    });
  assert.equal(judge(500).fits, true);
  assert.equal(judge(501).fits, false);
  assert.equal(
    judge(501).reason,
    "drawing takes at most 501 MiB, 600 MiB of the node are free, of which 100 MiB stay so",
  );
});
