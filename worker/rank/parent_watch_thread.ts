/** Entry of the thread of watchParent(). */
import { workerData } from "node:worker_threads";

/** Milliseconds between two looks at the parent. */
const PERIOD_MS = 100;

const { agentPid } = workerData as { agentPid: number };
setInterval(() => {
  if (process.ppid !== agentPid) process.kill(process.pid, "SIGKILL");
}, PERIOD_MS);
