import { BinaryReader } from "@bufbuild/protobuf/wire";
import { SessionResponse } from "../../gen/goku/v1/agent.pb.js";

/** Field of SessionResponse that holds a Connect. */
const CONNECT = 5;
const LENGTH_DELIMITED = 2;

/** Reads a command as generated code does, but for the members of a Connect, which are left out. */
export function readCommand(bytes: Buffer): SessionResponse {
  const reader = new BinaryReader(bytes);
  let [term, commandId] = [0n, 0n];
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    const field = tag >>> 3;
    if (field === 1) term = BigInt(reader.uint64());
    else if (field === 2) commandId = BigInt(reader.uint64());
    else if (field === CONNECT && (tag & 7) === LENGTH_DELIMITED) {
      const end = reader.uint32() + reader.pos;
      const generation = generationOf(reader, end);
      return {
        term,
        commandId,
        message: { $case: "connect", value: { generation, nodes: [], proveStorage: false } },
      };
    } else return SessionResponse.decode(bytes);
  }
  return { term, commandId, message: undefined };
}

/** The first field of a Connect. */
function generationOf(reader: BinaryReader, end: number): bigint {
  if (reader.pos < end && reader.uint32() >>> 3 === 1) return BigInt(reader.uint64());
  return 0n;
}
