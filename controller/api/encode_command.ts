import { Connect, Prepare, SessionResponse } from "../../gen/goku/v1/agent.pb.js";
import { Struct } from "../../gen/google/protobuf/struct.pb.js";

/** Tags of the fields that are written apart: number and kind (2: with a length). */
const PREPARE_TAG = (4 << 3) | 2;
const CONNECT_TAG = (5 << 3) | 2;
const JOB_TAG = (3 << 3) | 2;

/** Bytes of what many commands have in common, by the object that holds it; forgotten with it. */
const shared = new WeakMap<object, Uint8Array>();

/**
 * A command as bytes. What every node of a generation is told alike (all endpoints, the job) is encoded once: its size
 * grows with the cluster, and so does the number of nodes that are told. Such objects do not change once they were sent.
 */
export function encodeCommand(response: SessionResponse): Buffer {
  const { message } = response;
  if (message?.$case === "connect") {
    const { value } = message;
    const connect = once(value, () => Connect.encode(value).finish());
    return Buffer.concat([fence(response), lead(CONNECT_TAG, connect.length), connect]);
  }
  if (message?.$case === "prepare" && message.value.job !== undefined) {
    const { job } = message.value;
    const own = Prepare.encode({ ...message.value, job: undefined }).finish();
    const common = once(job, () => jobField(job));
    const length = own.length + common.length;
    return Buffer.concat([fence(response), lead(PREPARE_TAG, length), own, common]);
  }
  const { buffer, byteOffset, byteLength } = SessionResponse.encode(response).finish();
  return Buffer.from(buffer, byteOffset, byteLength);
}

function fence(response: SessionResponse): Uint8Array {
  return SessionResponse.encode({ ...response, message: undefined }).finish();
}

function jobField(job: { [key: string]: unknown }): Uint8Array {
  const bytes = Struct.encode(Struct.wrap(job)).finish();
  return Buffer.concat([lead(JOB_TAG, bytes.length), bytes]);
}

/** What stands before the bytes of a field: its tag and its length, as a varint. @param tag below 128 */
function lead(tag: number, length: number): Uint8Array {
  const bytes = [tag];
  let rest = length;
  for (; rest > 0x7f; rest >>>= 7) bytes.push((rest & 0x7f) | 0x80);
  bytes.push(rest);
  return Uint8Array.from(bytes);
}

function once(key: object, encode: () => Uint8Array): Uint8Array {
  let bytes = shared.get(key);
  if (bytes === undefined) {
    bytes = encode();
    shared.set(key, bytes);
  }
  return bytes;
}
