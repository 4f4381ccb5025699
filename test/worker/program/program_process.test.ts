import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, describe, it } from "node:test";
import { endFamily, FAMILY_VARIABLE, killFamily } from "../../../worker/program/process_family.js";
import { readStat } from "../../../worker/program/process_stat.js";
import { ProgramProcess } from "../../../worker/program/program_process.js";
import { until } from "../../support/until.js";

const folder = mkdtempSync(path.join(tmpdir(), "goku-program-"));
after(() => rmSync(folder, { recursive: true, force: true }));

/** A shell program that may write pids to the file `$OUT`; ended with the test, whatever becomes of it. */
function start(script: string) {
  const mark = `test/${randomUUID()}`;
  const out = path.join(folder, mark.slice(5));
  let session = 0;
  const program = new ProgramProcess({
    command: ["/bin/sh", "-c", script],
    cwd: folder,
    env: { PATH: process.env.PATH!, OUT: out, [FAMILY_VARIABLE]: mark },
    mark,
    onStarted: (id) => {
      session = id;
    },
  });
  after(() => endFamily({ mark, session, except: 0 }, 1_000));
  const lines = () => (existsSync(out) ? readFileSync(out, "utf8").split("\n").filter(Boolean) : []);
  const line = async (index = 0) => {
    await until(() => lines().length > index);
    return lines()[index]!;
  };
  return { program, mark, line, session: () => session };
}

const gone = (pid: string) => readStat(Number(pid)) === null;

describe("ProgramProcess", () => {
  it("tells how the program ended", async () => {
    assert.deepEqual(await start("exit 0").program.ended, { kind: "exited", code: 0 });
    assert.deepEqual(await start("exit 3").program.ended, { kind: "exited", code: 3 });
    assert.deepEqual(await start("kill -SEGV $$").program.ended, { kind: "signalled", signal: "SIGSEGV" });
  });

  it("tells a program, or a folder, that is not there", async () => {
    const options = { env: {}, mark: "test/none", onStarted: () => assert.fail("it was started") };
    const missing = new ProgramProcess({ ...options, command: ["/no/such/program"], cwd: folder });
    assert.deepEqual(await missing.ended, { kind: "unstarted", why: "spawn /no/such/program ENOENT" });
    const nowhere = new ProgramProcess({ ...options, command: ["/bin/sh"], cwd: "/no/such/folder" });
    assert.deepEqual(await nowhere.ended, {
      kind: "unstarted",
      why: "/no/such/folder is no folder on this node",
    });
  });

  it("ends what the program leaves behind: a child, and one in a session of its own whose parent has gone", async () => {
    const { program, line } = start(
      "sleep 1000 & echo $! >> $OUT; setsid sh -c 'sleep 1000 & echo $! >> $OUT; exit 0'; exit 0",
    );
    const pids = [await line(0), await line(1)];
    assert.deepEqual(await program.ended, { kind: "exited", code: 0 });
    assert.ok(pids.every(gone), "they go before the end is told");
  });

  it("asks with SIGTERM first, and leaves the program its time", async () => {
    const { program, line } = start(
      "trap 'echo asked >> $OUT; exit 7' TERM; echo up >> $OUT; while :; do sleep 0.05; done",
    );
    assert.equal(await line(), "up");
    program.stop(60_000);
    assert.deepEqual(await program.ended, { kind: "exited", code: 7 });
    assert.equal(await line(1), "asked");
  });

  it("kills the program that does not listen, and all of it, after the shorter of two graces", async () => {
    const { program, line } = start(
      "trap '' TERM; sleep 1000 & echo $! >> $OUT; while :; do sleep 0.05; done",
    );
    const child = await line();
    program.stop(600_000);
    program.stop(50);
    program.stop(600_000);
    assert.deepEqual(await program.ended, { kind: "signalled", signal: "SIGKILL" });
    assert.ok(gone(child));
  });

  it("gives the program a session of its own, which a terminal's signals do not reach", async () => {
    const { program, session, line } = start("echo $$ >> $OUT; sleep 1000");
    const pid = Number(await line());
    assert.equal(readStat(pid)?.session, pid);
    assert.equal(session(), pid);
    program.stop(0);
    await program.ended;
  });
});

describe("killFamily()", () => {
  it("finds by its session a program that has cleared its environment, with its orphans", async () => {
    const { program, session, line } = start(
      "echo $$ >> $OUT; exec env -i OUT=$OUT sh -c '(sleep 1000 & echo $! >> $OUT); sleep 1000'",
    );
    await line(0);
    const orphan = await line(1);
    assert.equal(killFamily({ mark: "test/other", session: null, except: 0 }), 0);
    assert.equal(
      await endFamily({ mark: "test/other", session: session(), except: process.pid }, 5_000),
      true,
    );
    assert.ok(gone(orphan));
    assert.deepEqual(await program.ended, { kind: "signalled", signal: "SIGKILL" });
  });

  it("finds by the beginning of a mark the programs of all rank processes of an agent", async () => {
    const prefix = `test-${randomUUID()}/`;
    const children: ChildProcess[] = ["1", "2"].map((name) =>
      spawn("sleep", ["1000"], {
        env: { PATH: process.env.PATH, [FAMILY_VARIABLE]: prefix + name },
        detached: true,
      }),
    );
    await until(() => children.every((child) => !gone(String(child.pid))));
    assert.equal(killFamily({ mark: prefix.slice(0, -1), session: null, except: 0 }), 0, "another mark");
    assert.equal(await endFamily({ mark: prefix, session: null, except: 0 }, 5_000), true);
    assert.ok(children.every((child) => gone(String(child.pid))));
  });
});
