import { type ChildProcess, spawn } from "node:child_process";
import { statSync } from "node:fs";
import { endFamily, type Family, killFamily } from "./process_family.js";

export interface ProgramOptions {
  command: readonly string[];
  cwd: string;
  env: Record<string, string>;
  /** See process_family.ts. */
  mark: string;
  /** Session that the program leads, as soon as it runs. */
  onStarted: (session: number) => void;
}

/** How a program ended: by itself, by a signal, or it could not be started at all. */
export type ProgramEnd =
  | { kind: "exited"; code: number }
  | { kind: "signalled"; signal: string }
  | { kind: "unstarted"; why: string };

/** How long processes may take to go once they are killed. */
const GONE_MS = 60_000;

/**
 * A program in a session of its own, so that a terminal's Ctrl-C does not reach it, and with it all that it starts. It
 * writes to the output of this process. When it has ended, whatever it leaves behind is ended, too.
 */
export class ProgramProcess {
  /** Resolves when the program and all that it started have gone. */
  readonly ended: Promise<ProgramEnd>;
  private readonly family: Family;
  private readonly child: ChildProcess;
  private over = false;
  private killAtMs = Number.POSITIVE_INFINITY;
  private timer: NodeJS.Timeout | null = null;

  constructor({ command, cwd, env, mark, onStarted }: ProgramOptions) {
    const [file, ...rest] = command as [string, ...string[]];
    this.child = spawn(file, rest, { cwd, env, detached: true, stdio: ["ignore", "inherit", "inherit"] });
    const session = this.child.pid ?? null;
    this.family = { mark, session, except: process.pid };
    if (session !== null) onStarted(session);
    this.ended = this.follow(cwd);
  }

  /** SIGTERM for the program, and SIGKILL for all of it after the grace; the shorter grace counts when asked again. */
  stop(graceMs: number): void {
    if (this.over) return;
    if (this.killAtMs === Number.POSITIVE_INFINITY) this.child.kill("SIGTERM");
    const killAtMs = performance.now() + graceMs;
    if (killAtMs >= this.killAtMs) return;
    this.killAtMs = killAtMs;
    if (this.timer) clearTimeout(this.timer);
    this.timer = setTimeout(() => killFamily(this.family), graceMs);
  }

  private async follow(cwd: string): Promise<ProgramEnd> {
    const end = await new Promise<ProgramEnd>((resolve) => {
      this.child.on("error", (error) => {
        // Node blames the program also for a folder that is not there.
        const isThere = statSync(cwd, { throwIfNoEntry: false })?.isDirectory() ?? false;
        if (this.child.pid === undefined)
          resolve({ kind: "unstarted", why: isThere ? error.message : `${cwd} is no folder on this node` });
      });
      this.child.once("exit", (code, signal) =>
        resolve(signal === null ? { kind: "exited", code: code ?? -1 } : { kind: "signalled", signal }),
      );
    });
    this.over = true;
    if (this.timer) clearTimeout(this.timer);
    await endFamily(this.family, GONE_MS);
    return end;
  }
}
