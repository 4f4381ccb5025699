import path from "node:path";
import { type FunctionNames, readFunctionNames } from "./elf_symbols.js";

/** One thread of a native dump (native/stack_dump.h), innermost frame first. */
export interface ThreadStack {
  tid: number;
  name: string;
  addresses: bigint[];
}

interface Mapping {
  begin: bigint;
  end: bigint;
  fileOffset: bigint;
  file: string;
}

/** Reads a dump; what is no part of one is left out. */
export function parseDump(text: string): ThreadStack[] {
  const threads: ThreadStack[] = [];
  for (const line of text.split("\n")) {
    const head = /^thread (\d+) (.*)$/.exec(line);
    if (head !== null) threads.push({ tid: Number(head[1]), name: head[2]!, addresses: [] });
    else if (/^[0-9a-f]{1,16}$/.test(line)) threads.at(-1)?.addresses.push(BigInt(`0x${line}`));
  }
  return threads;
}

/** Reads /proc/PID/maps: what is mapped from files. */
export function parseMaps(text: string): Mapping[] {
  return text.split("\n").flatMap((line) => {
    const found = /^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ \d+\s+(\/.*)$/.exec(line);
    if (found === null) return [];
    const [begin, end, fileOffset] = found.slice(1, 4).map((hex) => BigInt(`0x${hex}`));
    return [{ begin: begin!, end: end!, fileOffset: fileOffset!, file: found[4]! }];
  });
}

/** "goku::Group::wait +0x2c (goku_cpu.node)" for each frame; JavaScript's own code has no file. */
export class FrameText {
  private readonly mappings: readonly Mapping[];
  private readonly names = new Map<string, FunctionNames | null>();

  constructor(mappings: readonly Mapping[]) {
    this.mappings = mappings;
  }

  of(address: bigint): string {
    const mapping = this.mappings.find(({ begin, end }) => address >= begin && address < end);
    if (mapping === undefined) return `0x${address.toString(16)} (JavaScript)`;
    const { file } = mapping;
    const offset = Number(address - mapping.begin + mapping.fileOffset);
    if (!this.names.has(file)) this.names.set(file, readFunctionNames(file));
    const found = this.names.get(file)?.at(offset) ?? null;
    const where = path.basename(file);
    if (found === null) return `0x${offset.toString(16)} (${where})`;
    return `${plainName(found.name)} +0x${found.inside.toString(16)} (${where})`;
  }

  /** Whether the frame is in this file. */
  isIn(address: bigint, file: string): boolean {
    const mapping = this.mappings.find(({ begin, end }) => address >= begin && address < end);
    return mapping !== undefined && path.basename(mapping.file) === file;
  }
}

/** The scopes and name of a mangled C++ function, without its arguments: enough to find it by. */
export function plainName(symbol: string): string {
  let rest = /^_ZZ?N[KVrRO]*(.*)$/.exec(symbol)?.[1] ?? /^_Z(?=\d)(.*)$/.exec(symbol)?.[1];
  if (rest === undefined) return symbol;
  const parts: string[] = [];
  for (;;) {
    const length = /^\d+/.exec(rest)?.[0];
    if (length === undefined) break;
    const end = length.length + Number(length);
    parts.push(rest.slice(length.length, end).replace(/^_GLOBAL__N_.*$/, "(anonymous)"));
    rest = rest.slice(end);
    if (!/^_ZZ?N/.test(symbol)) break;
  }
  return parts.length === 0 ? symbol : parts.join("::");
}
