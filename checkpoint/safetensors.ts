import { readFile } from "node:fs/promises";
import { GokuError, toGokuError } from "../job/errors.js";

/** Element types of the safetensors format that we read, with their sizes in bytes. */
export const SAFETENSORS_DTYPES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
} as const;
export type SafetensorsDtype = keyof typeof SAFETENSORS_DTYPES;

export interface SafetensorsSpec {
  name: string;
  dtype: SafetensorsDtype;
  shape: readonly number[];
}

/** Where a tensor's bytes lie: [offset, offset+bytes) from the start of the file. */
export interface SafetensorsEntry extends SafetensorsSpec {
  offset: number;
  bytes: number;
}

export interface SafetensorsHeader {
  tensors: Map<string, SafetensorsEntry>; // in the order of their bytes
  metadata: Map<string, string>;
  /** Length of the header, where the data begins. */
  headerBytes: number;
  /** Length of the whole file. */
  fileBytes: number;
}

export interface SafetensorsTensor extends SafetensorsEntry {
  /** Raw little-endian bytes, aligned for the element type. */
  data: Uint8Array;
}

/** The format's own limit; a larger one is an attack or noise. */
export const HEADER_BYTES_MAX = 100_000_000;
const LENGTH_BYTES = 8;
const ALIGN_BYTES = 64;

/**
 * Parses and checks a header: bounds, sizes, no gap, no overlap. `bytes` begins the file and holds at least the header;
 * `source` names it in errors. CHECKPOINT_CORRUPT when anything is wrong.
 */
export function readSafetensorsHeader(bytes: Uint8Array, source = "safetensors data"): SafetensorsHeader {
  const fail = (what: string): never => {
    throw new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${source}: ${what}`);
  };
  if (bytes.byteLength < LENGTH_BYTES)
    fail(`${bytes.byteLength} bytes, a safetensors file has at least ${LENGTH_BYTES}`);
  const length = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
  if (length > BigInt(HEADER_BYTES_MAX))
    fail(`the header says ${length} bytes, the format allows ${HEADER_BYTES_MAX}`);
  const headerBytes = LENGTH_BYTES + Number(length);
  if (headerBytes > bytes.byteLength)
    fail(`the header says ${length} bytes, only ${bytes.byteLength - LENGTH_BYTES} follow`);
  let parsed: unknown;
  try {
    parsed = JSON.parse(
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(LENGTH_BYTES, headerBytes)),
    );
  } catch (error) {
    throw new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${source}: the header is no JSON`, {
      cause: error,
    });
  }
  if (!isRecord(parsed)) return fail("the header is no JSON object");
  const metadata = new Map<string, string>();
  const entries: SafetensorsEntry[] = [];
  for (const [name, value] of Object.entries(parsed)) {
    if (name === "__metadata__") {
      if (!isRecord(value)) return fail("__metadata__ is no object");
      for (const [key, text] of Object.entries(value)) {
        metadata.set(key, typeof text === "string" ? text : fail(`__metadata__ ${quote(key)} is no string`));
      }
    } else entries.push(readEntry(name, value, headerBytes, fail));
  }
  // A tensor without elements may share its place with its neighbour; it goes first.
  entries.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let end = headerBytes;
  for (const entry of entries) {
    if (entry.offset !== end)
      fail(`tensor ${quote(entry.name)} begins at byte ${entry.offset}, the one before ends at ${end}`);
    end += entry.bytes;
  }
  return {
    tensors: new Map(entries.map((entry) => [entry.name, entry])),
    metadata,
    headerBytes,
    fileBytes: end,
  };
}

function readEntry(
  name: string,
  value: unknown,
  headerBytes: number,
  fail: (what: string) => never,
): SafetensorsEntry {
  const label = `tensor ${quote(name)}`;
  if (!isRecord(value)) return fail(`${label} is no object`);
  const { dtype, shape, data_offsets: span } = value;
  if (typeof dtype !== "string" || !Object.hasOwn(SAFETENSORS_DTYPES, dtype)) {
    return fail(
      `${label} has dtype ${typeof dtype === "string" ? quote(dtype) : typeof dtype}, want one of ${Object.keys(SAFETENSORS_DTYPES).join(", ")}`,
    );
  }
  if (!isIndexList(shape)) return fail(`${label} has no valid shape`);
  if (!isIndexList(span) || span.length !== 2) return fail(`${label} has no valid data_offsets`);
  const [begin, end] = span as [number, number];
  const bytes = shape.reduce((a, b) => a * b, 1) * SAFETENSORS_DTYPES[dtype as SafetensorsDtype];
  if (!Number.isSafeInteger(bytes) || end - begin !== bytes || !Number.isSafeInteger(headerBytes + end)) {
    return fail(
      `${label} spans bytes ${begin} to ${end}, its shape [${shape.slice(0, 8)}${shape.length > 8 ? ",..." : ""}] of ${dtype} wants ${bytes}`,
    );
  }
  return { name, dtype: dtype as SafetensorsDtype, shape, offset: headerBytes + begin, bytes };
}

/** The header for tensors that follow one another in the order given; its length is a multiple of 64. */
export function encodeSafetensorsHeader(
  tensors: readonly SafetensorsSpec[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const entries: [string, unknown][] = [["__metadata__", metadata]];
  const names = new Set(["__metadata__"]);
  let end = 0;
  for (const { name, dtype, shape } of tensors) {
    if (names.has(name))
      throw new TypeError(`Cannot encode a safetensors header: the name ${quote(name)} is taken`);
    names.add(name);
    const begin = end;
    end += shape.reduce((a, b) => a * b, 1) * SAFETENSORS_DTYPES[dtype];
    entries.push([name, { dtype, shape, data_offsets: [begin, end] }]);
  }
  if (!Number.isSafeInteger(end))
    throw new RangeError(`Cannot encode a safetensors header: ${end} bytes of tensors`);
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)), "utf8");
  const bytes = Buffer.alloc(Math.ceil((LENGTH_BYTES + json.byteLength) / ALIGN_BYTES) * ALIGN_BYTES, " ");
  if (bytes.byteLength - LENGTH_BYTES > HEADER_BYTES_MAX) {
    throw new RangeError(
      `Cannot encode a safetensors header: ${json.byteLength} bytes, the format allows ${HEADER_BYTES_MAX}`,
    );
  }
  bytes.writeBigUInt64LE(BigInt(bytes.byteLength - LENGTH_BYTES), 0);
  bytes.set(json, LENGTH_BYTES);
  return bytes;
}

/** Reads a small file whole: NOT_FOUND, CHECKPOINT_CORRUPT. */
export async function readSafetensors(
  path: string,
): Promise<{ tensors: Map<string, SafetensorsTensor>; metadata: Map<string, string> }> {
  let file: Uint8Array;
  try {
    file = await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") {
      throw new GokuError("NOT_FOUND", `Cannot read ${path}: there is no such file, check the path`, {
        cause: error,
      });
    }
    throw toGokuError(error, "STORAGE_FAILED");
  }
  const header = readSafetensorsHeader(file, path);
  if (header.fileBytes !== file.byteLength) {
    throw new GokuError(
      "CHECKPOINT_CORRUPT",
      `Cannot read ${path}: ${file.byteLength} bytes, its header wants ${header.fileBytes}`,
    );
  }
  const tensors = new Map<string, SafetensorsTensor>();
  for (const [name, entry] of header.tensors) {
    tensors.set(name, {
      ...entry,
      data: new Uint8Array(file.subarray(entry.offset, entry.offset + entry.bytes)),
    });
  }
  return { tensors, metadata: header.metadata };
}

/** Elements as float64 numbers; exact for every type but 64-bit integers above 2^53. F8 types are not widened. */
export function safetensorsNumbers(tensor: SafetensorsTensor): Float64Array {
  const count = tensor.bytes / SAFETENSORS_DTYPES[tensor.dtype];
  const view = new DataView(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
  const each = elementReader(tensor.dtype, view);
  const numbers = new Float64Array(count);
  for (let i = 0; i < count; i++) numbers[i] = each(i);
  return numbers;
}

function elementReader(dtype: SafetensorsDtype, view: DataView): (index: number) => number {
  switch (dtype) {
    case "F64":
      return (i) => view.getFloat64(8 * i, true);
    case "F32":
      return (i) => view.getFloat32(4 * i, true);
    case "BF16":
      return bfloat16Reader(view);
    case "F16":
      return (i) => halfToNumber(view.getUint16(2 * i, true));
    case "I64":
      return (i) => Number(view.getBigInt64(8 * i, true));
    case "U64":
      return (i) => Number(view.getBigUint64(8 * i, true));
    case "I32":
      return (i) => view.getInt32(4 * i, true);
    case "U32":
      return (i) => view.getUint32(4 * i, true);
    case "I16":
      return (i) => view.getInt16(2 * i, true);
    case "U16":
      return (i) => view.getUint16(2 * i, true);
    case "I8":
      return (i) => view.getInt8(i);
    case "U8":
    case "BOOL":
      return (i) => view.getUint8(i);
    default:
      throw new GokuError(
        "CHECKPOINT_MISMATCH",
        `Cannot widen a tensor of ${dtype}: want a type of 16 bits or more, or an integer`,
      );
  }
}

/** bf16 is the upper half of the f32 of the same value. */
function bfloat16Reader(view: DataView): (index: number) => number {
  const scratch = new DataView(new ArrayBuffer(4));
  return (i) => {
    scratch.setUint32(0, view.getUint16(2 * i, true) * 0x10000);
    return scratch.getFloat32(0);
  };
}

function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

/** Elements as float32: F32 keeps its bits, BF16 and F16 widen exactly, others round to nearest. */
export function safetensorsFloats(tensor: SafetensorsTensor): Float32Array {
  if (tensor.dtype === "F32") return new Float32Array(new Uint8Array(tensor.data).buffer);
  return Float32Array.from(safetensorsNumbers(tensor));
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isIndexList(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 200));
}
