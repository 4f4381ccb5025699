import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import {
  FAILPOINT_ACTIONS,
  FAILPOINT_NAMES,
  matchFailpoint,
  parseFailpoints,
} from "../../worker/failpoints.js";

const MODULE = pathToFileURL(path.join(import.meta.dirname, "../../worker/failpoints.js")).href;

/** Passes failpoints in a process of its own; returns how it ended and what it printed. */
function pass(spec: string, code: string, folder: string) {
  const script = `import { failpoint, setFailpointScope } from ${JSON.stringify(MODULE)};\n${code}`;
  return spawnSync(process.execPath, ["--input-type=module", "--eval", script], {
    encoding: "utf8",
    env: { ...process.env, GOKU_FAILPOINTS: spec, GOKU_FAILPOINT_DIR: folder },
  });
}

function withFolder(body: (folder: string) => void): void {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-failpoints-"));
  try {
    body(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("parseFailpoints() reads name, step, rank and action, each of the two numbers optional", () => {
  const text = "collective.entered@12/1:kill, vote.before:stop,save.write/0:enospc";
  assert.deepEqual(
    parseFailpoints(text).map(({ name, step, rank, action }) => [name, step, rank, action]),
    [
      ["collective.entered", 12, 1, "kill"],
      ["vote.before", null, null, "stop"],
      ["save.write", null, 0, "enospc"],
    ],
  );
  assert.deepEqual(parseFailpoints(""), []);
});

test("parseFailpoints() refuses an unknown name, an unknown action and a missing action", () => {
  for (const text of ["vote.after@1:kill", "vote.before@1:explode", "vote.before@1", "data.before:nan"]) {
    assert.throws(() => parseFailpoints(text), { code: "ARGUMENT_INVALID" }, text);
  }
});

test("matchFailpoint() compares step and rank only where they are given", () => {
  const points = parseFailpoints("vote.before@3/1:kill,data.before/2:stop");
  assert.equal(matchFailpoint(points, "vote.before", { step: 3, rank: 0 }), null);
  assert.equal(matchFailpoint(points, "vote.before", { step: 4, rank: 1 }), null);
  assert.equal(matchFailpoint(points, "vote.before", { step: 3, rank: 1 })?.action, "kill");
  assert.equal(matchFailpoint(points, "data.before", { step: 99, rank: 2 })?.action, "stop");
});

test("failpoint() kills its process at the step and rank it names, and not again after a restart", () => {
  withFolder((folder) => {
    const code = `setFailpointScope({ rank: 1 });
      for (let step = 1; step <= 3; step++) { setFailpointScope({ step }); console.log(step); failpoint("vote.before"); }`;
    const first = pass("vote.before@2/1:kill", code, folder);
    assert.equal(first.signal, "SIGKILL");
    assert.equal(first.stdout, "1\n2\n");
    assert.deepEqual(readdirSync(folder), ["vote.before@2-rank-1-kill"]);
    const second = pass("vote.before@2/1:kill", code, folder);
    assert.equal(second.status, 0);
    assert.equal(second.stdout, "1\n2\n3\n");
  });
});

test("failpoint() throws a full disk for enospc, an error for throw, and returns nan for nan", () => {
  withFolder((folder) => {
    const code = `const seen = [];
      for (const name of ["save.write", "data.before", "vote.before", "vote.before"]) {
        try { seen.push(failpoint(name, { step: 1, rank: 0 })); } catch (error) { seen.push(error.code); }
      }
      console.log(JSON.stringify(seen));`;
    const done = pass("save.write:enospc,data.before:throw,vote.before:nan", code, folder);
    assert.equal(done.stdout, '["ENOSPC","INTERNAL","nan",null]\n');
  });
});

test("docs/failpoints.md lists exactly the names and actions there are", () => {
  const text = readFileSync(path.join(repositoryRoot(), "docs/failpoints.md"), "utf8");
  const documented = [...text.matchAll(/^\| `([a-z.]+)` \|/gm)].map((match) => match[1]!);
  assert.deepEqual(documented.sort(), [...FAILPOINT_NAMES, ...FAILPOINT_ACTIONS].sort());
});

function repositoryRoot(): string {
  for (let folder = import.meta.dirname; ; folder = path.dirname(folder)) {
    if (existsSync(path.join(folder, "package.json"))) return folder;
  }
}
