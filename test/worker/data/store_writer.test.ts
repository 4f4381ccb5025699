import assert from "node:assert/strict";
import type { FileHandle } from "node:fs/promises";
import { test } from "node:test";
import { StoreWriter } from "../../../worker/data/store_writer.js";

test("StoreWriter puts latents one after another, though each write takes only a part", async () => {
  const disk = new Uint8Array(20);
  const write = async (bytes: Uint8Array, from: number, count: number, position: number) => {
    const bytesWritten = Math.min(count, 3);
    disk.set(bytes.subarray(from, from + bytesWritten), position);
    return { bytesWritten };
  };
  const writer = new StoreWriter({ write } as unknown as FileHandle, 20);
  assert.equal(await writer.write(Float32Array.of(1, 2)), 0);
  assert.equal(await writer.write(Float32Array.of(3, 4, 5)), 2);
  assert.equal(await writer.write(Float32Array.of(6)), -1, "no room");
  assert.deepEqual([...new Float32Array(disk.buffer)], [1, 2, 3, 4, 5]);
});
