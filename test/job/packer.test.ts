import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Packer } from "../../job/packer.js";
import { PhiloxRandom } from "../../job/philox.js";

const TEST_STREAM = 99;

function randomSizes(count: number, choices: readonly number[], seed = 5): number[] {
  const random = new PhiloxRandom(seed, TEST_STREAM);
  return Array.from({ length: count }, () => random.pick(choices));
}

describe("Packer", () => {
  it("has every sample exactly once an epoch, in packs that fit, the same number every epoch", () => {
    const sizes = randomSizes(997, [16, 16, 16, 24, 48, 80, 100, 333, 512]);
    const packer = new Packer({ sizes, tokensPerPack: 512, seed: 3 });
    for (const epoch of [0, 1, 7]) {
      const seen: number[] = [];
      for (let i = 0; i < packer.packsPerEpoch; i++) {
        const pack = packer.pack(epoch * packer.packsPerEpoch + i);
        assert.equal(pack.epoch, epoch);
        assert.equal(
          pack.tokens,
          pack.samples.reduce((sum, sample) => sum + sizes[sample]!, 0),
        );
        assert.ok(pack.tokens <= 512 && pack.samples.length > 0);
        seen.push(...pack.samples);
      }
      assert.deepEqual(
        seen.sort((a, b) => a - b),
        sizes.map((_, i) => i),
      );
    }
  });

  it("finds a pack without those before it, whatever was asked first", () => {
    const options = { sizes: randomSizes(500, [16, 40, 80, 200]), tokensPerPack: 256, seed: 11 };
    const forward = new Packer(options);
    const numbers = Array.from({ length: 3 * forward.packsPerEpoch }, (_, i) => i);
    const expected = numbers.map((i) => forward.pack(i));
    for (const i of [...numbers].reverse()) assert.deepEqual(new Packer(options).pack(i), expected[i]);
    const backward = new Packer(options);
    for (const i of [...numbers].reverse()) assert.deepEqual(backward.pack(i), expected[i]);
  });

  it("orders packs and samples anew each epoch and for each seed", () => {
    const sizes = randomSizes(300, [16, 80]);
    const packer = new Packer({ sizes, tokensPerPack: 160, seed: 1 });
    const epochOf = (one: Packer, epoch: number) =>
      Array.from(
        { length: one.packsPerEpoch },
        (_, i) => one.pack(epoch * one.packsPerEpoch + i).samples,
      ).join("|");
    const other = new Packer({ sizes, tokensPerPack: 160, seed: 2 });
    assert.equal(new Set([epochOf(packer, 0), epochOf(packer, 1), epochOf(other, 0)]).size, 3);
  });

  it("leaves out samples longer than a pack and reports them", () => {
    const packer = new Packer({ sizes: [600, 16, 512, 513], tokensPerPack: 512, seed: 1 });
    assert.deepEqual(packer.report.leftOut, [
      { sample: 0, tokens: 600, reason: "600 tokens do not fit a pack of 512" },
      { sample: 3, tokens: 513, reason: "513 tokens do not fit a pack of 512" },
    ]);
    assert.deepEqual(
      [packer.report.samples, packer.report.samplesPacked, packer.report.packsPerEpoch],
      [4, 2, 2],
    );
    assert.equal(packer.report.fill, (512 + 16) / 1024);
    assert.deepEqual([packer.report.packSamplesMin, packer.report.packSamplesMax], [1, 1]);
  });

  it("says what to do when no sample fits", () => {
    const packer = new Packer({ sizes: [600, 700], tokensPerPack: 512, seed: 1 });
    assert.equal(packer.packsPerEpoch, 0);
    assert.throws(() => packer.pack(0), {
      code: "DATA_EMPTY",
      message: "Cannot form packs: 0 of 2 samples fit 512 tokens, raise train.tokens_per_pack",
    });
  });

  it("fills packs well: pictures take the room that clips leave", () => {
    // 6 clips of 80 leave 32, which two pictures fill; only the last pack may have room
    const sizes = [...Array<number>(144).fill(80), ...Array<number>(1920).fill(16)];
    const { report } = new Packer({ sizes, tokensPerPack: 512, seed: 1 });
    assert.equal(report.packsPerEpoch, Math.ceil((144 * 80 + 1920 * 16) / 512));
    assert.deepEqual([report.packSamplesMin, report.packSamplesMax], [6 + 2, 512 / 16]);
    const mixed = new Packer({
      sizes: randomSizes(5000, [3, 17, 64, 90, 129, 200]),
      tokensPerPack: 512,
      seed: 1,
    });
    assert.ok(mixed.report.fill > 0.97, String(mixed.report.fill));
  });

  it("packs a million samples of 400 sizes without listing them", () => {
    const sizes = new Uint32Array(1_000_000);
    const random = new PhiloxRandom(1, TEST_STREAM);
    for (let i = 0; i < sizes.length; i++) sizes[i] = 16 + Math.floor(random.uniform() ** 3 * 400);
    const packer = new Packer({ sizes, tokensPerPack: 4096, seed: 1 });
    assert.ok(packer.report.fill > 0.999, String(packer.report.fill));
    const far = packer.pack(1000 * packer.packsPerEpoch + 123);
    assert.equal(far.epoch, 1000);
    assert.equal(
      far.tokens,
      far.samples.reduce((sum, sample) => sum + sizes[sample]!, 0),
    );
  });

  it("refuses sizes that are no counts", () => {
    assert.throws(() => new Packer({ sizes: [0], tokensPerPack: 8, seed: 1 }), RangeError);
    assert.throws(() => new Packer({ sizes: [1.5], tokensPerPack: 8, seed: 1 }), RangeError);
  });
});
