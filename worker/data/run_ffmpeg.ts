import { spawn } from "node:child_process";
import { GokuError } from "../../job/errors.js";

/** Longest a single media command may take; a file that hangs the decoder is a broken file. */
const TIMEOUT_MS_DEFAULT = 60_000;
const STDERR_BYTES_KEPT = 8192;
/** What ffmpeg says of errors of the storage or the machine. */
const PASSING =
  /Input\/output error|Stale file handle|Cannot allocate memory|Too many open files|Resource temporarily/;
/** Number of the first pipe after standard input, output and error. */
export const PIPE_FIRST = 3;

export interface FfmpegOptions {
  /** Written to standard input, or null. */
  input: Uint8Array | null;
  /** Pipes the arguments write to: `pipe:3`, `pipe:4`, ... */
  outputs: number;
  /** More than this from one pipe ends the command and counts as a failure. */
  outputBytesMax: number;
  timeoutMs?: number;
}

/**
 * Runs ffmpeg with an argument array (no shell, no interaction) and returns what it wrote to each pipe.
 * @throws GokuError NOT_FOUND when ffmpeg is not installed
 * @throws GokuError STORAGE_FAILED when something else ended it, or it could not read for another reason than the file
 * @throws Error with ffmpeg's last words when it fails, hangs or writes too much
 */
export function runFfmpeg(args: readonly string[], options: FfmpegOptions): Promise<Buffer[]> {
  const timeoutMs = options.timeoutMs ?? TIMEOUT_MS_DEFAULT;
  return new Promise((resolve, reject) => {
    const pipes = Array.from({ length: options.outputs }, () => "pipe" as const);
    const child = spawn("ffmpeg", ["-hide_banner", "-nostdin", "-v", "error", ...args], {
      stdio: ["pipe", "ignore", "pipe", ...pipes],
    });
    const outputs: Buffer[][] = pipes.map(() => []);
    let words = "";
    let failure: string | null = null;
    const fail = (reason: string) => {
      failure ??= reason;
      child.kill("SIGKILL");
    };
    const timer = setTimeout(() => fail(`took longer than ${timeoutMs / 1000} s`), timeoutMs);
    for (const [index, chunks] of outputs.entries()) {
      let bytes = 0;
      child.stdio[PIPE_FIRST + index]!.on("data", (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > options.outputBytesMax) fail(`wrote more than ${options.outputBytesMax} bytes`);
        else chunks.push(chunk);
      });
    }
    child.stderr!.on("data", (chunk: Buffer) => {
      words = (words + chunk.toString("utf8")).slice(-STDERR_BYTES_KEPT);
    });
    child.on("error", (error: NodeJS.ErrnoException) => {
      clearTimeout(timer);
      if (error.code === "ENOENT")
        reject(
          new GokuError(
            "NOT_FOUND",
            "Cannot read or write clips: ffmpeg is not on the PATH, install the package ffmpeg",
            { cause: error },
          ),
        );
      else reject(error);
    });
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      if (code === 0 && failure === null) return resolve(outputs.map((chunks) => Buffer.concat(chunks)));
      const reason = failure ?? lastWords(words) ?? `ffmpeg ended with ${signal ?? code}`;
      const passing = failure === null && (signal !== null || PASSING.test(reason));
      reject(passing ? new GokuError("STORAGE_FAILED", `Cannot read a clip: ${reason}`) : new Error(reason));
    });
    // a decoder that stops early closes its input; its exit status says what happened
    child.stdin!.on("error", () => {});
    child.stdin!.end(options.input ?? undefined);
  });
}

/** The last line that ffmpeg wrote, without the addresses it prints. */
function lastWords(words: string): string | null {
  const lines = words
    .split("\n")
    .map((line) => line.replace(/\[[^\]]* @ 0x[0-9a-f]+\]\s*/g, "").trim())
    .filter((line) => line !== "" && !/^Conversion failed|^Last message repeated/.test(line));
  return lines.at(-1) ?? null;
}
