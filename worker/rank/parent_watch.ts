import { Worker } from "node:worker_threads";
import { entryPoint } from "../../job/entry_points.js";

export interface ParentWatch {
  /** Session of the program that this process keeps, which must end with it; null: none any more. */
  watchProgram: (session: number | null) => void;
}

/**
 * Ends this process when its agent has gone, also while its main thread is blocked in native code or in a stuck
 * collective, where the closed IPC channel is not seen. A thread of its own asks for the parent's pid: an orphan is
 * given another one. A program that this process keeps, and all that it has started, is ended first. It also tells what
 * JavaScript the main thread runs, when the agent asks for it in `stackFile`.
 * @param told.mark of the program's family; see program/process_family.ts
 */
export function watchParent(agentPid: number, told: { stackFile: string | null; mark: string }): ParentWatch {
  const session = new Int32Array(new SharedArrayBuffer(4));
  const watcher = new Worker(entryPoint("parent_watch_thread"), {
    workerData: { agentPid, ...told, session },
    resourceLimits: { maxOldGenerationSizeMb: 8, maxYoungGenerationSizeMb: 2 },
  });
  watcher.unref();
  return { watchProgram: (id) => void Atomics.store(session, 0, id ?? 0) };
}
