import assert from "node:assert/strict";

/** A second reading of TensorBoard's event files, written from their specification and not from our writer. */
export interface TfEvent {
  seconds: number;
  step: number;
  version: string | null;
  /** SessionLog.START. */
  start: boolean;
  scalars: Map<string, number>;
  pictures: Map<string, TfPicture>;
}
export interface TfPicture {
  height: number;
  width: number;
  /** Channels: 1 grey, 3 RGB, 4 RGBA. */
  colorspace: number;
  encoded: Buffer;
}

type Fields = Map<number, (bigint | Uint8Array)[]>;

/** Checks both checksums of each record. */
export function readTfEvents(file: Buffer): TfEvent[] {
  const events: TfEvent[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(file.readBigUInt64LE(at));
    assert.equal(
      file.readUInt32LE(at + 8),
      masked(file.subarray(at, at + 8)),
      `checksum of the length at ${at}`,
    );
    const data = file.subarray(at + 12, at + 12 + length);
    assert.equal(data.length, length, "the last record is whole");
    assert.equal(file.readUInt32LE(at + 12 + length), masked(data), `checksum of the record at ${at}`);
    events.push(readEvent(data));
    at += 16 + length;
  }
  return events;
}

/** What TensorBoard shows of several files, read in order: a START drops what was said of its step and later ones. */
export function curve(files: readonly TfEvent[][], tag: string): [number, number][] {
  let points: [number, number][] = [];
  for (const event of files.flat()) {
    if (event.start) points = points.filter(([step]) => step < event.step);
    const value = event.scalars.get(tag);
    if (value !== undefined) points.push([event.step, value]);
  }
  return points;
}

function readEvent(data: Uint8Array): TfEvent {
  const fields = readFields(data);
  const first = (number: number) => fields.get(number)?.[0];
  const session = first(7) as Uint8Array | undefined;
  const scalars = new Map<string, number>();
  const pictures = new Map<string, TfPicture>();
  const summary = first(5) as Uint8Array | undefined;
  for (const value of summary === undefined ? [] : (readFields(summary).get(1) ?? [])) {
    const own = readFields(value as Uint8Array);
    const tag = Buffer.from(own.get(1)![0] as Uint8Array).toString();
    assert.ok(!scalars.has(tag) && !pictures.has(tag), `${tag} twice in one event`);
    const picture = own.get(4)?.[0] as Uint8Array | undefined;
    if (picture !== undefined) pictures.set(tag, readPicture(readFields(picture)));
    else scalars.set(tag, Buffer.from(own.get(2)![0] as Uint8Array).readFloatLE());
  }
  const version = first(3) as Uint8Array | undefined;
  return {
    seconds: Buffer.from(first(1) as Uint8Array).readDoubleLE(),
    step: Number((first(2) as bigint | undefined) ?? 0n),
    version: version === undefined ? null : Buffer.from(version).toString(),
    start: session !== undefined && readFields(session).get(1)?.[0] === 1n,
    scalars,
    pictures,
  };
}

function readPicture(fields: Fields): TfPicture {
  const number = (field: number) => Number(fields.get(field)?.[0] as bigint);
  const encoded = Buffer.from(fields.get(4)![0] as Uint8Array);
  return { height: number(1), width: number(2), colorspace: number(3), encoded };
}

function readFields(bytes: Uint8Array): Fields {
  const fields: Fields = new Map();
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++]!;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  const take = (count: number) => {
    at += count;
    return bytes.subarray(at - count, at);
  };
  while (at < bytes.length) {
    const tag = Number(varint());
    const kind = tag & 7;
    const value =
      kind === 0 ? varint() : kind === 1 ? take(8) : kind === 5 ? take(4) : take(Number(varint()));
    const number = tag >> 3;
    fields.set(number, [...(fields.get(number) ?? []), value]);
  }
  return fields;
}

/** CRC-32C bit by bit, masked as TFRecords have it. */
function masked(bytes: Uint8Array): number {
  let crc = 0xffffffffn;
  for (const byte of bytes) {
    crc ^= BigInt(byte);
    for (let bit = 0; bit < 8; bit++) crc = (crc >> 1n) ^ (crc & 1n ? 0x82f63b78n : 0n);
  }
  crc ^= 0xffffffffn;
  return Number((((crc >> 15n) | (crc << 17n)) + 0xa282ead8n) & 0xffffffffn);
}
