import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import {
  FAILPOINT_ACTIONS,
  FAILPOINT_NAMES,
  matchFailpoint,
  parseFailpoints,
} from "../../worker/failpoints.js";
import { until } from "../support/until.js";

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
  const spec = "collective.entered@12/1:kill, vote.before:stop,save.write/0:enospc";
  assert.deepEqual(
    parseFailpoints(spec).map(({ name, step, rank, action }) => [name, step, rank, action]),
    [
      ["collective.entered", 12, 1, "kill"],
      ["vote.before", null, null, "stop"],
      ["save.write", null, 0, "enospc"],
    ],
  );
  assert.deepEqual(parseFailpoints(""), []);
});

test("parseFailpoints() refuses an unknown name or action, a missing one, and one that its place cannot do", () => {
  for (const part of [
    "vote.after@1:kill",
    "vote.before@1:explode",
    "vote.before@1",
    "data.before:nan",
    "save.write:flip",
    "data.before:slow",
    "data.before:kill=3",
  ]) {
    assert.throws(() => parseFailpoints(part), { code: "ARGUMENT_INVALID" }, part);
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

test("failpoint() throws a full disk for enospc, an error for throw, and returns what to multiply a loss by for nan and surge", () => {
  withFolder((folder) => {
    const code = `const seen = [];
      for (const name of ["save.write", "data.before", "vote.before", "forward.block", "vote.before"]) {
        try { seen.push(failpoint(name, { step: 1, rank: 0 })); } catch (error) { seen.push(error.code); }
      }
      console.log(seen.join(" "), seen[4]);`;
    const spec = "save.write:enospc,data.before:throw,vote.before:nan,forward.block:surge";
    assert.equal(pass(spec, code, folder).stdout, "ENOSPC INTERNAL NaN 1000  null\n");
  });
});

test("failpoint() ends its process with SIGSEGV for segfault, throws a dead disk for eio", () => {
  withFolder((folder) => {
    const code = `const pass = failpoint;
      try { pass("save.write", { step: 1, rank: 0 }); } catch (error) { console.log(error.code, error.message); }
      pass("vote.before", { step: 1, rank: 0 }); console.log("not reached");`;
    const done = pass("save.write:eio,vote.before:segfault", code, folder);
    assert.equal(done.signal, "SIGSEGV");
    assert.equal(done.stdout, "EIO EIO: i/o error (failpoint save.write:eio)\n");
  });
});

test("failpoint() fires parts of the same place one after another, also where another process had the first", () => {
  withFolder((folder) => {
    const spec = "restore.before/1:mark,restore.before/1:kill";
    const code = `setFailpointScope({ step: 0, rank: 1 }); failpoint("restore.before"); console.log("passed");`;
    const first = pass(spec, code, folder);
    assert.deepEqual([first.status, first.stdout], [0, "passed\n"]);
    const second = pass(spec, code, folder);
    assert.deepEqual([second.signal, second.stdout], ["SIGKILL", ""]);
    assert.equal(pass(spec, code, folder).stdout, "passed\n");
  });
});

test("failpoint() holds its process until its marker is released", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-failpoints-"));
  const script = `import { failpoint } from ${JSON.stringify(MODULE)};
    failpoint("vote.before", { step: 1, rank: 0 }); console.log("passed");`;
  const held = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    stdio: ["ignore", "pipe", "ignore"],
    env: { ...process.env, GOKU_FAILPOINTS: "vote.before:hold", GOKU_FAILPOINT_DIR: folder },
  });
  try {
    const said = text(held.stdout);
    const marker = path.join(folder, "vote.before-hold");
    await until(() => existsSync(marker));
    assert.equal(held.exitCode, null);
    writeFileSync(`${marker}.released`, "");
    assert.equal(await said, "passed\n");
  } finally {
    held.kill("SIGKILL");
    rmSync(folder, { recursive: true });
  }
});

test("docs/failpoints.md lists exactly the names and actions there are", () => {
  const page = readFileSync(path.join(repositoryRoot(), "docs/failpoints.md"), "utf8");
  const documented = [...page.matchAll(/^\| `([a-z.]+)` \|/gm)].map((match) => match[1]!);
  assert.deepEqual(documented.sort(), [...FAILPOINT_NAMES, ...FAILPOINT_ACTIONS].sort());
});

function repositoryRoot(): string {
  for (let folder = import.meta.dirname; ; folder = path.dirname(folder)) {
    if (existsSync(path.join(folder, "package.json"))) return folder;
  }
}

test("slow keeps its rank busy at every pass from its step on, also after a restart", () => {
  withFolder((folder) => {
    // A clock of its own: how busy the machine is changes nothing.
    const code = `let nowMs = 0;
      performance.now = () => nowMs++;
      setFailpointScope({ rank: 2 });
      for (let step = 1; step <= 4; step++) {
        setFailpointScope({ step });
        const begun = nowMs;
        failpoint("forward.block");
        console.log(nowMs - begun >= 20 ? "busy" : nowMs - begun);
      }`;
    for (let start = 0; start < 2; start++) {
      const { stdout, stderr } = pass("forward.block@3/2:slow=20", code, folder);
      assert.equal(stdout, "0\n0\nbusy\nbusy\n");
      assert.equal(stderr.match(/fires/g)?.length, 1, "told once");
    }
    assert.deepEqual(readdirSync(folder), ["forward.block@3-rank-2-slow=20"]);
  });
});
