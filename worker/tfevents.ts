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
export interface Picture {
  tag: string;
  png: Uint8Array;
}

/** Of a run, beside its checkpoints. */
export const EVENTS_FOLDER = "tensorboard";

/** Event: wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7. */
const EVENT = {
  wallTime: (1 << 3) | 1,
  step: (2 << 3) | 0,
  version: (3 << 3) | 2,
  summary: (5 << 3) | 2,
  session: (7 << 3) | 2,
};
/**
 * Summary: repeated Value value = 1. Value: tag = 1, simple_value = 2, image = 4. Image: height = 1, width = 2, colorspace = 3,
 * encoded_image_string = 4. SessionLog: status = 1, of which START is 1.
 */
const SUMMARY_VALUE = (1 << 3) | 2;
const VALUE = { tag: (1 << 3) | 2, simple: (2 << 3) | 5, image: (4 << 3) | 2 };
const IMAGE = { height: (1 << 3) | 0, width: (2 << 3) | 0, colours: (3 << 3) | 0, encoded: (4 << 3) | 2 };
/** Colour type of a PNG -> Image.colorspace, the number of its channels. */
const COLOURS = new Map([
  [0, 1],
  [4, 2],
  [2, 3],
  [6, 4],
]);
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

/** Pictures of one step, as PNG: what its header says of size and colours is told beside it. */
export function picturesRecord(seconds: number, step: number, pictures: readonly Picture[]): Uint8Array {
  const summary = new BinaryWriter();
  for (const { tag, png } of pictures) {
    // The header chunk stands first: width, height, depth, colour type from byte 16 on.
    const header = Buffer.from(png.buffer, png.byteOffset, png.byteLength);
    const colours = COLOURS.get(header[25] ?? -1);
    if (header.toString("latin1", 1, 4) !== "PNG" || colours === undefined)
      throw new RangeError(`picturesRecord: ${tag} is no PNG in grey or RGB`);
    const image = new BinaryWriter().uint32(IMAGE.height).int32(header.readUInt32BE(20));
    image.uint32(IMAGE.width).int32(header.readUInt32BE(16)).uint32(IMAGE.colours).int32(colours);
    image.uint32(IMAGE.encoded).bytes(png);
    const one = new BinaryWriter().uint32(VALUE.tag).string(tag).uint32(VALUE.image).bytes(image.finish());
    summary.uint32(SUMMARY_VALUE).bytes(one.finish());
  }
  return record(eventAt(seconds, step).uint32(EVENT.summary).bytes(summary.finish()).finish());
}

/**
 * Name of an event file. TensorBoard reads a folder's files in the order of their names, and wants the newest last, whatever
 * the clock of the node that writes it.
 */
export function eventsName(options: {
  seconds: number;
  generation: string;
  node: string;
  /** Of the files that are there. */
  present: readonly string[];
}): string {
  const { seconds, generation, node, present } = options;
  const before = present.map((name) => Number(/tfevents\.(\d{10})\./.exec(name)?.[1] ?? 0));
  const at = Math.max(Math.floor(seconds), ...before.map((each) => each + 1));
  return `events.out.tfevents.${String(at).padStart(10, "0")}.${node}.${generation}`;
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
