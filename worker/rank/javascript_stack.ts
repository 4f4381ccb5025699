import { renameSync, writeFileSync } from "node:fs";
import { type Debugger, Session } from "node:inspector";

/** The main thread may be in native code, where it runs no JavaScript and cannot be looked at. */
const PATIENCE_MS = 400;
const FRAMES_COUNT_MAX = 32;

/**
 * From a thread beside the main one: stops the main thread where it next runs JavaScript, writes its frames into a file
 * that appears whole, and lets it go on. Writes nothing where no JavaScript runs.
 */
export function writeJavaScriptStack(file: string): void {
  const session = new Session();
  session.connectToMainThread();
  const over = setTimeout(() => session.disconnect(), PATIENCE_MS);
  const scripts = new Map<string, string>();
  session.on("Debugger.scriptParsed", ({ params }) => scripts.set(params.scriptId, params.url));
  session.on("Debugger.paused", ({ params }) => {
    clearTimeout(over);
    writeFileSync(`${file}.new`, `${frameLines(params.callFrames, scripts).join("\n")}\n`);
    renameSync(`${file}.new`, file);
    session.post("Debugger.resume", () => session.disconnect());
  });
  session.post("Debugger.enable");
  session.post("Debugger.pause");
}

function frameLines(frames: readonly Debugger.CallFrame[], scripts: ReadonlyMap<string, string>): string[] {
  return frames.slice(0, FRAMES_COUNT_MAX).map(({ functionName, location }) => {
    const place = `${scripts.get(location.scriptId) ?? "?"}:${location.lineNumber + 1}:${(location.columnNumber ?? 0) + 1}`;
    return `at ${functionName || "(anonymous)"} (${place})`;
  });
}
