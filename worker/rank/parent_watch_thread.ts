/** Entry of the thread of watchParent(). */
import { existsSync, rmSync } from "node:fs";
import { workerData } from "node:worker_threads";
import { killFamily } from "../program/process_family.js";
import { stackFiles } from "../stack_file.js";
import { writeJavaScriptStack } from "./javascript_stack.js";

/** Milliseconds between two looks. */
const PERIOD_MS = 100;
/** Looks at the program's processes that are ended; the successor of the agent ends what is left. */
const LOOKS_MAX = 100;
const LOOK_MS = 10;

interface Watched {
  agentPid: number;
  stackFile: string | null;
  mark: string;
  /** Session of the program; 0: there is none. */
  session: Int32Array;
}

const { agentPid, stackFile, mark, session } = workerData as Watched;
const stacks = stackFile === null ? null : stackFiles(stackFile);
setInterval(() => {
  if (process.ppid !== agentPid) {
    endProgram();
    process.kill(process.pid, "SIGKILL");
  }
  if (stacks === null || !existsSync(stacks.asked)) return;
  rmSync(stacks.asked, { force: true });
  writeJavaScriptStack(stacks.javaScript);
}, PERIOD_MS);

function endProgram(): void {
  const leader = Atomics.load(session, 0);
  if (leader === 0) return;
  const family = { mark, session: leader, except: process.pid };
  const never = new Int32Array(new SharedArrayBuffer(4));
  for (let look = 0; look < LOOKS_MAX && killFamily(family) > 0; look++) Atomics.wait(never, 0, 0, LOOK_MS);
}
