import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { JoinedFile } from "../../../worker/agent/joined_file.js";

test("JoinedFile: there from the first welcome on, until the stream is lost for a minute; not from an agent before", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const folder = mkdtempSync(path.join(tmpdir(), "goku-joined-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const file = path.join(folder, "joined");
  writeFileSync(file, "1\n");
  const joined = new JoinedFile(file);
  assert.ok(!existsSync(file), "what was left there says nothing");
  joined.lost();
  t.mock.timers.tick(59_000);
  joined.joined();
  t.mock.timers.tick(59_000);
  assert.ok(existsSync(file), "the time before does not count");
  joined.lost();
  t.mock.timers.tick(30_000);
  joined.lost(); // another try has failed
  t.mock.timers.tick(29_000);
  assert.ok(existsSync(file));
  t.mock.timers.tick(1_000);
  assert.ok(!existsSync(file));
  joined.joined();
  joined.close();
  assert.ok(!existsSync(file));
});
