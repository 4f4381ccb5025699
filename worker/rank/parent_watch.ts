import { Worker } from "node:worker_threads";

/**
 * Ends this process when its agent has gone, also while its main thread is blocked in native code or in a stuck
 * collective, where the closed IPC channel is not seen. A thread of its own asks for the parent's pid: an orphan is
 * given another one.
 */
export function watchParent(agentPid: number): void {
  const watcher = new Worker(new URL("./parent_watch_thread.js", import.meta.url), {
    workerData: { agentPid },
    resourceLimits: { maxOldGenerationSizeMb: 8, maxYoungGenerationSizeMb: 2 },
  });
  watcher.unref();
}
