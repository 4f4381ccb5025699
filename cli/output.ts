import Table from "cli-table3";

/** What a person or a program reads. With `--json` a command prints one JSON document, or one to a line where it follows a job. */
export interface Output {
  json: boolean;
}

/** Prints `data` as JSON, or the text that `human` makes. */
export function show(output: Output, data: unknown, human: () => string): void {
  process.stdout.write(`${output.json ? JSON.stringify(data, null, 2) : human()}\n`);
}

/** A plain table: columns by heading, no frame. */
export function table(headings: string[], rows: (string | number)[][]): string {
  const plain = {
    top: "",
    "top-mid": "",
    "top-left": "",
    "top-right": "",
    bottom: "",
    "bottom-mid": "",
    "bottom-left": "",
    "bottom-right": "",
    left: "",
    "left-mid": "",
    mid: "",
    "mid-mid": "",
    right: "",
    "right-mid": "",
    middle: "  ",
  };
  const made = new Table({
    head: headings,
    chars: plain,
    style: {
      head: process.stdout.isTTY ? ["bold"] : [],
      border: [],
      "padding-left": 0,
      "padding-right": 0,
      compact: true,
    },
  });
  for (const row of rows) made.push(row.map(String));
  return made
    .toString()
    .split("\n")
    .map((line) => line.trimEnd())
    .join("\n");
}

/** Two columns: names and values; on a terminal long values go on under themselves. */
export function fields(pairs: [string, string | number | null | undefined][]): string {
  const kept = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  const width = Math.max(...kept.map(([name]) => name.length));
  const room = process.stdout.isTTY ? process.stdout.columns - width - 2 : Number.POSITIVE_INFINITY;
  const gap = `\n${" ".repeat(width + 2)}`;
  return kept
    .map(([name, value]) => `${name.padEnd(width)}  ${wrapped(String(value), room).join(gap)}`)
    .join("\n");
}

/** Lines of at most `room` characters, cut at spaces; a longer word has a line of its own. */
export function wrapped(text: string, room: number): string[] {
  if (!(text.length > room && room >= 20) || text.includes("\n")) return [text];
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines.at(-1)!;
    if (line === "") lines[lines.length - 1] = word;
    else if (line.length + 1 + word.length <= room) lines[lines.length - 1] = `${line} ${word}`;
    else lines.push(word);
  }
  return lines;
}

export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "-";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** "1 node", "2 nodes". */
export function counted(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}

export function bytes(count: number | bigint): string {
  let value = Number(count);
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (value < 1024 || unit === "TiB") return `${unit === "B" ? value : value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
  return `${value}`;
}

export function number(value: number | undefined, digits = 4): string {
  return value === undefined ? "-" : value.toPrecision(digits);
}

/** A bar of `width` cells, for progress on a terminal. */
export function bar(fraction: number, width = 24): string {
  const full = Math.round(Math.min(1, Math.max(0, fraction)) * width);
  return `${"█".repeat(full)}${"░".repeat(width - full)}`;
}
