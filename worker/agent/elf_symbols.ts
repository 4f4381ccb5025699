import { closeSync, openSync, readSync } from "node:fs";

/** Names of the functions of one binary, by where their code lies in the file. */
export interface FunctionNames {
  /** @param fileOffset of an instruction; @returns its function and how far inside, null: none is known there */
  at(fileOffset: number): { name: string; inside: number } | null;
}

const SECTION_SYMTAB = 2;
const SECTION_DYNSYM = 11;
const SEGMENT_LOAD = 1;
const SYMBOL_BYTES = 24;
const KIND_FUNCTION = 2;
/** Larger tables are no tables of symbols. */
const TABLE_BYTES_MAX = 256 * 2 ** 20;

/**
 * Reads the symbol table of a 64-bit little-endian ELF file: the full one where it was not stripped, else the dynamic one.
 * Null: it is no such file, or has none.
 */
export function readFunctionNames(path: string): FunctionNames | null {
  let file: number;
  try {
    file = openSync(path, "r");
  } catch {
    return null; // replaced or removed since the process mapped it
  }
  try {
    return read(file);
  } catch (error) {
    if (error instanceof RangeError) return null; // cut short, or no sensible table
    throw error;
  } finally {
    closeSync(file);
  }
}

function read(file: number): FunctionNames | null {
  const head = bytesAt(file, 0, 64);
  if (head.readUInt32BE(0) !== 0x7f454c46 || head[4] !== 2 || head[5] !== 1) return null;
  const sections = records(file, head, { offset: 40, size: 58, count: 60 });
  const table =
    sections.find((section) => section.readUInt32LE(4) === SECTION_SYMTAB) ??
    sections.find((section) => section.readUInt32LE(4) === SECTION_DYNSYM);
  const names = table && sections[table.readUInt32LE(40)];
  if (table === undefined || names === undefined) return null;
  const segments = records(file, head, { offset: 32, size: 54, count: 56 }).filter(
    (segment) => segment.readUInt32LE(0) === SEGMENT_LOAD,
  );
  const functions = readFunctions(contentOf(file, table), segments);
  const text = contentOf(file, names);
  return {
    at: (fileOffset) => {
      const found = lastFrom(functions, fileOffset);
      if (found === undefined || fileOffset >= found.begin + found.size) return null;
      const name = text.toString("latin1", found.name, text.indexOf(0, found.name));
      return { name, inside: fileOffset - found.begin };
    },
  };
}

/** The last function that begins there or before. */
function lastFrom<T extends { begin: number }>(functions: readonly T[], fileOffset: number): T | undefined {
  let [low, high] = [0, functions.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (functions[middle]!.begin <= fileOffset) low = middle + 1;
    else high = middle;
  }
  return functions[low - 1];
}

/** Functions in file order; those of other kinds and of no size are left out. */
function readFunctions(
  table: Buffer,
  segments: readonly Buffer[],
): { begin: number; size: number; name: number }[] {
  const functions = [];
  for (let at = 0; at + SYMBOL_BYTES <= table.length; at += SYMBOL_BYTES) {
    const size = Number(table.readBigUInt64LE(at + 16));
    if ((table[at + 4]! & 15) !== KIND_FUNCTION || size === 0) continue;
    const begin = fileOffset(Number(table.readBigUInt64LE(at + 8)), segments);
    if (begin !== null) functions.push({ begin, size, name: table.readUInt32LE(at) });
  }
  return functions.sort((a, b) => a.begin - b.begin);
}

/** Where in the file lies what is loaded at this address. */
function fileOffset(address: number, segments: readonly Buffer[]): number | null {
  for (const segment of segments) {
    const [offset, from, size] = [8, 16, 32].map((at) => Number(segment.readBigUInt64LE(at))) as [
      number,
      number,
      number,
    ];
    if (address >= from && address < from + size) return address - from + offset;
  }
  return null;
}

/** A table of the ELF header, whose place, record size and count stand there. */
function records(
  file: number,
  head: Buffer,
  places: { offset: number; size: number; count: number },
): Buffer[] {
  const size = head.readUInt16LE(places.size);
  const count = head.readUInt16LE(places.count);
  const bytes = bytesAt(file, Number(head.readBigUInt64LE(places.offset)), size * count);
  return Array.from({ length: count }, (_, i) => bytes.subarray(i * size, (i + 1) * size));
}

function contentOf(file: number, section: Buffer): Buffer {
  return bytesAt(file, Number(section.readBigUInt64LE(24)), Number(section.readBigUInt64LE(32)));
}

function bytesAt(file: number, offset: number, count: number): Buffer {
  if (count > TABLE_BYTES_MAX) throw new RangeError(`a table of ${count} bytes`);
  const bytes = Buffer.alloc(count);
  if (readSync(file, bytes, 0, count, offset) !== count) throw new RangeError("cut short");
  return bytes;
}
