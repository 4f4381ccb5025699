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

/** Parses and checks a header: bounds, sizes, no gap, no overlap. `bytes` begins the file and holds at least the header. */
export declare function readSafetensorsHeader(bytes: Uint8Array, source?: string): SafetensorsHeader;
/** The header for tensors that follow one another in the order given; its length is a multiple of 64. */
export declare function encodeSafetensorsHeader(
  tensors: readonly SafetensorsSpec[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array;
/** Reads a small file whole. */
export declare function readSafetensors(
  path: string,
): Promise<{ tensors: Map<string, SafetensorsTensor>; metadata: Map<string, string> }>;
/** Elements as float64 numbers; exact for every type but 64-bit integers above 2^53. */
export declare function safetensorsNumbers(tensor: SafetensorsTensor): Float64Array;
/** Elements as float32: F32 keeps its bits, BF16 and F16 widen exactly, others round. */
export declare function safetensorsFloats(tensor: SafetensorsTensor): Float32Array;
