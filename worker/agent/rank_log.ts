import { createWriteStream, mkdirSync, renameSync, statSync, type WriteStream } from "node:fs";
import path from "node:path";
import { finished } from "node:stream/promises";
import { StringDecoder } from "node:string_decoder";

/** Lines kept with every failure. */
export const LAST_LINES_COUNT = 20;
/** A line beyond this is cut: a progress bar or a binary dump must not fill memory. */
const LINE_LENGTH_MAX = 4_000;
/** A log file is moved aside at this size; one older file is kept. */
const FILE_BYTES_MAX = 16 * 2 ** 20;

/** Cuts a stream of bytes into lines. */
export class LineSplitter {
  private readonly decoder = new StringDecoder("utf8");
  private rest = "";

  /** The lines that these bytes complete. */
  push(bytes: Buffer): string[] {
    const lines = (this.rest + this.decoder.write(bytes)).split(/\r?\n/);
    this.rest = lines.pop()!.slice(0, LINE_LENGTH_MAX);
    return lines.map((line) => line.slice(0, LINE_LENGTH_MAX));
  }

  /** What is left when the stream has ended. */
  end(): string[] {
    const rest = this.rest + this.decoder.end();
    this.rest = "";
    return rest === "" ? [] : [rest];
  }
}

/** The newest lines of one process. */
export class LastLines {
  private lines: string[] = [];

  push(lines: readonly string[]): void {
    this.lines = [...this.lines, ...lines].slice(-LAST_LINES_COUNT);
  }

  get all(): string[] {
    return [...this.lines];
  }
}

/** The file to which all ranks of a node write, each line with its time and rank. */
export class LogFile {
  private readonly path: string;
  private stream: WriteStream;
  private bytes: number;

  constructor(folder: string, name: string) {
    mkdirSync(folder, { recursive: true });
    this.path = path.join(folder, name);
    this.bytes = statSync(this.path, { throwIfNoEntry: false })?.size ?? 0;
    this.stream = this.open();
  }

  write(prefix: string, lines: readonly string[]): void {
    const time = new Date().toISOString();
    const text = lines.map((line) => `${time} ${prefix} ${line}\n`).join("");
    this.bytes += Buffer.byteLength(text);
    this.stream.write(text);
    if (this.bytes > FILE_BYTES_MAX) this.rotate();
  }

  /** Resolves when all lines are written, or cannot be. */
  async close(): Promise<void> {
    this.stream.end();
    await finished(this.stream).catch(() => {});
  }

  private rotate(): void {
    this.stream.end();
    try {
      renameSync(this.path, `${this.path}.old`);
    } catch {
      // Somebody else moved or removed it, or nothing could ever be written: a new file serves as well.
    }
    this.bytes = 0;
    this.stream = this.open();
  }

  private open(): WriteStream {
    const stream = createWriteStream(this.path, { flags: "a" });
    // A full disk must not end the agent: lines are lost, training goes on.
    stream.on("error", () => {});
    return stream;
  }
}
