import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { captionWords, HashTextEncoder } from "../../../worker/data/text_encoder.js";

const encoder = new HashTextEncoder({ width: 64, tokensMax: 16 });

function row(caption: string, token: number): Float32Array {
  return encoder.encode(caption).data.subarray(token * 64, (token + 1) * 64);
}

function likeness(a: Float32Array, b: Float32Array): number {
  let ab = 0;
  let aa = 0;
  let bb = 0;
  for (let i = 0; i < a.length; i++) {
    ab += a[i]! * b[i]!;
    aa += a[i]! ** 2;
    bb += b[i]! ** 2;
  }
  return ab / Math.sqrt(aa * bb);
}

describe("HashTextEncoder", () => {
  it("makes one token of the empty caption, and one more than words of any other", () => {
    assert.equal(encoder.encode("").length, 1);
    assert.equal(encoder.encode(" ... ").length, 1);
    assert.equal(encoder.encode("a red circle").length, 4);
  });

  it("cuts a long caption but keeps the end token", () => {
    const long = encoder.encode(Array<string>(40).fill("word").join(" "));
    assert.equal(long.length, 16);
    assert.equal(long.data.length, 16 * 64);
    const alone = new HashTextEncoder({ width: 8, tokensMax: 1 });
    assert.deepEqual(alone.encode("a red circle"), alone.encode(""));
  });

  it("gives the same vectors in every encoder, and others for every word", () => {
    assert.deepEqual(
      new HashTextEncoder({ width: 64, tokensMax: 16 }).encode("a red circle"),
      encoder.encode("a red circle"),
    );
    assert.ok(likeness(row("red", 0), row("blue", 0)) < 0.75); // they share place and neighbour
    assert.ok(likeness(row("red", 0), row("a blue circle", 2)) < 0.5);
  });

  it("keeps a bounded part of the vocabulary, and encodes alike what it has dropped", () => {
    const wide = new HashTextEncoder({ width: 65_536, tokensMax: 2 }); // vectors of 256 KiB
    const before = wide.encode("word0");
    for (let i = 0; i < 100; i++) wide.encode(`word${i}`);
    const { bytes } = (wide as unknown as { vectors: { bytes: number } }).vectors;
    assert.ok(bytes <= 32 * 2 ** 20, `${bytes} bytes are held`);
    assert.deepEqual(wide.encode("word0"), before);
  });

  it("has tokens of unit variance at any width", () => {
    for (const width of [8, 64, 2048]) {
      const { data, length } = new HashTextEncoder({ width, tokensMax: 16 }).encode(
        "a red circle left of a blue square",
      );
      const variance = data.reduce((sum, value) => sum + value * value, 0) / (length * width);
      // the three parts of a token are independent directions: their products deviate by 1/sqrt(width)
      assert.ok(Math.abs(variance - 1) < 3 / Math.sqrt(width), `${width}: ${variance}`);
    }
  });

  it("is no bag of words: who is left of whom changes the tokens", () => {
    const one = encoder.encode("a red circle left of a blue square");
    const other = encoder.encode("a blue circle left of a red square");
    const key = (data: Float32Array) =>
      Array.from({ length: data.length / 64 }, (_, i) => data.slice(i * 64, (i + 1) * 64).join())
        .sort()
        .join("|");
    assert.notEqual(key(one.data), key(other.data));
  });

  it("tells in a noun which colour stands before it, for any pair", () => {
    // circle after red is nearer to square after red than to square after blue, at the same place
    const red = row("a red circle", 2);
    assert.ok(likeness(red, row("a red square", 2)) > likeness(red, row("a blue square", 2)) + 0.1);
  });

  it("reads captions without regard to case, width of letters or punctuation", () => {
    assert.deepEqual(captionWords("A RED, circle!"), ["a", "red", "circle"]);
    assert.deepEqual(captionWords("Ｒｅｄ don't half-open 3D"), ["red", "don't", "half-open", "3d"]);
    assert.deepEqual(captionWords("ein grüner Kreis, 红色"), ["ein", "grüner", "kreis", "红色"]);
  });
});
