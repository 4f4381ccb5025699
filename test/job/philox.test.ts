import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { fnv1a, PhiloxRandom, philoxInto, philoxKey, philoxNormals, STREAM } from "../../job/philox.js";

describe("philoxInto()", () => {
  const known: [counter: [number, number, number, number], key: [number, number], words: number[]][] = [
    [
      [0, 0, 0, 0],
      [0, 0],
      [1713891541, 3781805453, 3159862348, 2600524760],
    ],
    [
      [1, 2, 3, 4],
      [5, 6],
      [3234347452, 2291959749, 1637377849, 759571408],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [1083123565, 1103641358, 2718681030, 1834242557],
    ],
  ];
  for (const [counter, [low, high], words] of known) {
    it(`gives the reference's words for counter ${counter}`, () => {
      const out = new Uint32Array(4);
      philoxInto(out, { low, high }, ...counter);
      assert.deepEqual([...out], words);
    });
  }
});

describe("philoxNormals()", () => {
  it("gives the reference's normals, also for a seed above 32 bits", () => {
    const one = new Float32Array(10);
    philoxNormals(one, philoxKey(1), { stream: STREAM.NOISE, step: 7, which: 3 });
    closeTo(
      one,
      [
        -0.682013750076294, 0.8655561804771423, 0.714743435382843, 2.3107008934020996, -0.8965763449668884,
        1.328074336051941,
      ],
    );
    const large = new Float32Array(10);
    philoxNormals(large, philoxKey(1099511627781), { stream: STREAM.TIME, step: 2, which: 9 });
    closeTo(
      large,
      [
        0.7189815044403076, -1.5594247579574585, 0.6334958672523499, -0.03730820491909981,
        -0.40240198373794556,
      ],
    );
  });
});

describe("PhiloxRandom", () => {
  it("repeats for a seed and differs between seeds, streams and users", () => {
    const draw = (seed: number, stream: number, which: number) => {
      const random = new PhiloxRandom(seed, stream, which);
      return Array.from({ length: 9 }, () => random.uniform());
    };
    assert.deepEqual(draw(1, 2, 3), draw(1, 2, 3));
    assert.equal(new Set([draw(1, 2, 3), draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4)].map(String)).size, 4);
    assert.ok(draw(1, 2, 3).every((value) => value >= 0 && value < 1));
    assert.throws(() => new PhiloxRandom(1, 2).pick([]), RangeError);
  });
});

describe("fnv1a()", () => {
  it("hashes the UTF-8 bytes", () => {
    assert.equal(fnv1a(""), 0x811c9dc5);
    assert.equal(fnv1a("a"), 0xe40c292c);
    assert.equal(fnv1a("foobar"), 0xbf9cf968);
  });
});

/** Within one unit in the last place of float32. */
function closeTo(found: Float32Array, wanted: number[]): void {
  for (const [i, value] of wanted.entries())
    assert.ok(Math.abs(found[i]! - value) <= Math.abs(value) * 2 ** -23, `${i}: ${found[i]} is not ${value}`);
}
