import assert from "node:assert/strict";
import { test } from "node:test";
import { loadNative } from "../../../worker/engine/load_native.js";
import { Arena } from "../../../worker/engine/tensor.js";

test("a tensor that cannot be had is named with its shape, and so is what lies beside it, largest first", () => {
  const arena = new Arena(loadNative());
  const huge = [2 ** 25, 2 ** 24] as const;
  const wanted =
    /^Cannot make f32 \[33554432, 16777216\]: Cannot allocate a tensor of 2251799813685248 bytes: /;
  const error = (rest: RegExp) => ({
    code: "NATIVE_OUT_OF_MEMORY",
    message: new RegExp(`${wanted.source}.*${rest.source}`),
  });
  assert.throws(() => arena.alloc("f32", ...huge), error(/; nothing of this step lives$/));
  const two = [arena.alloc("bf16", 1024, 1024), arena.alloc("bf16", 1024, 1024)];
  const one = arena.alloc("f32", 512, 512);
  arena.view(one, 0, 512);
  assert.throws(
    () => arena.alloc("f32", ...huge),
    error(/; here live 2 x bf16 \[1024, 1024\] \(4 MiB\), 1 x f32 \[512, 512\] \(1 MiB\)$/),
  );
  assert.equal(two.length, 2);
  for (let width = 1; width <= 4; width++) arena.alloc("f32", width);
  assert.throws(
    () => arena.alloc("f32", ...huge),
    error(/\(4 MiB\), 1 x f32 \[512, 512\] \(1 MiB\), 1 x f32 \[4\] .*, 1 MiB more in 1 tensors$/),
  );
  arena.freeAll();
});
