import { BinaryWriter } from "@bufbuild/protobuf/wire";

/**
 * TensorBoard's event files: TFRecords of `tensorflow.Event` messages. A record is
 *
 *   u64 length, u32 masked CRC-32C of those 8 bytes, the bytes, u32 masked CRC-32C of them     (little-endian)
 *   masked(crc) = rotate right(crc, 15) + 0xa282ead8
 *
 * Field numbers are those of tensorflow/core/util/event.proto and framework/summary.proto. Pure.
 */
export interface Scalar {
  tag: string;
  value: number;
}

/** Event: wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7. */
const EVENT = {
  wallTime: (1 << 3) | 1,
  step: (2 << 3) | 0,
  version: (3 << 3) | 2,
  summary: (5 << 3) | 2,
  session: (7 << 3) | 2,
};
/** Summary: repeated Value value = 1. Value: tag = 1, simple_value = 2. SessionLog: status = 1, of which START is 1. */
const SUMMARY_VALUE = (1 << 3) | 2;
const VALUE = { tag: (1 << 3) | 2, simple: (2 << 3) | 5 };
const SESSION_STATUS = (1 << 3) | 0;
const SESSION_START = 1;

/** The first record of a file. */
export function versionRecord(seconds: number): Uint8Array {
  const event = new BinaryWriter().uint32(EVENT.wallTime).double(seconds);
  event.uint32(EVENT.version).string("brain.Event:2");
  return record(event.finish());
}

/** From here on steps count anew from this one: what was said before of it, or of later ones, TensorBoard drops. */
export function startRecord(seconds: number, step: number): Uint8Array {
  const event = eventAt(seconds, step);
  event.uint32(EVENT.session).bytes(new BinaryWriter().uint32(SESSION_STATUS).int32(SESSION_START).finish());
  return record(event.finish());
}

/** The scalars of one step. */
export function scalarsRecord(seconds: number, step: number, scalars: readonly Scalar[]): Uint8Array {
  const summary = new BinaryWriter();
  for (const { tag, value } of scalars) {
    const one = new BinaryWriter().uint32(VALUE.tag).string(tag).uint32(VALUE.simple).float(value);
    summary.uint32(SUMMARY_VALUE).bytes(one.finish());
  }
  return record(eventAt(seconds, step).uint32(EVENT.summary).bytes(summary.finish()).finish());
}

function eventAt(seconds: number, step: number): BinaryWriter {
  return new BinaryWriter().uint32(EVENT.wallTime).double(seconds).uint32(EVENT.step).int64(step);
}

function record(data: Uint8Array): Uint8Array {
  const bytes = Buffer.alloc(12 + data.length + 4);
  bytes.writeBigUInt64LE(BigInt(data.length), 0);
  bytes.writeUInt32LE(maskedCrc(bytes.subarray(0, 8)), 8);
  bytes.set(data, 12);
  bytes.writeUInt32LE(maskedCrc(data), 12 + data.length);
  return bytes;
}

function maskedCrc(data: Uint8Array): number {
  const crc = crc32c(data);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** Of a byte: the reversed Castagnoli polynomial. */
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) crc = TABLE[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return ~crc >>> 0;
}
