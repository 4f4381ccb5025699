import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { GokuError } from "../../../job/errors.js";
import { fileVerdict } from "../../../worker/data/file_verdict.js";
import { runFfmpeg } from "../../../worker/data/run_ffmpeg.js";
import { temporaryFolder } from "./temporary.js";

const systemError = (code: string) => Object.assign(new Error(`${code}: it says, read`), { code });

test("fileVerdict() condemns a file for what lasts, and throws what may pass", () => {
  for (const code of ["ENOENT", "EACCES", "EISDIR"])
    assert.equal(fileVerdict("a.png", systemError(code)), `${code}: it says, read`);
  assert.equal(fileVerdict("a.png", new Error("bad header\nat line 1")), "bad header");
  for (const code of ["EIO", "ESTALE", "EMFILE", "ENOMEM", "EAGAIN"]) {
    assert.throws(() => fileVerdict("a.png", systemError(code)), {
      code: "STORAGE_FAILED",
      message: `Cannot read a.png: ${code}: it says, read`,
    });
  }
  const own = new GokuError("NOT_FOUND", "no ffmpeg");
  assert.throws(() => fileVerdict("a.mp4", own), own);
});

test("runFfmpeg() tells a decoder that somebody killed, or that could not read, from a broken file", async () => {
  const folder = await temporaryFolder();
  const path = process.env.PATH;
  process.env.PATH = `${folder}:${path}`;
  const outcome = async (script: string) => {
    await writeFile(join(folder, "ffmpeg"), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    return runFfmpeg([], { input: null, outputs: 1, outputBytesMax: 1e6 });
  };
  try {
    await assert.rejects(outcome("kill -KILL $$"), { code: "STORAGE_FAILED", message: /SIGKILL/ });
    await assert.rejects(outcome("echo a.mp4: Input/output error >&2; exit 1"), { code: "STORAGE_FAILED" });
    await assert.rejects(outcome("echo moov atom not found >&2; exit 1"), new Error("moov atom not found"));
  } finally {
    process.env.PATH = path;
  }
});
