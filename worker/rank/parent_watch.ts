import { isMainThread, Worker, workerData } from "node:worker_threads";

/** Milliseconds between two looks at the parent. */
const PERIOD_MS = 100;

/**
 * Ends this process when its agent has gone, also while its main thread is blocked in native code or in a stuck
 * collective, where the closed IPC channel is not seen. A thread of its own asks for the parent's pid: an orphan is
 * given another one.
 */
export function watchParent(agentPid: number): void {
  const watcher = new Worker(new URL(import.meta.url), {
    workerData: { agentPid },
    resourceLimits: { maxOldGenerationSizeMb: 8, maxYoungGenerationSizeMb: 2 },
  });
  watcher.unref();
}

if (!isMainThread) {
  const { agentPid } = workerData as { agentPid: number };
  setInterval(() => {
    if (process.ppid !== agentPid) process.kill(process.pid, "SIGKILL");
  }, PERIOD_MS);
}
