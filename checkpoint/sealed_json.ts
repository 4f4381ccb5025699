import { GokuError } from "../job/errors.js";
import { digestOf } from "./digest.js";

/**
 * JSON whose last field is the sha256 of every byte before it, so that a flipped byte anywhere in the file is found:
 *
 *   {"format":"goku-checkpoint",...
 *   ,"sha256":"<64 hexadecimal digits>"}
 *
 * Any JSON parser reads it, and `head -c -79 manifest.json | sha256sum` checks it.
 */
const TAIL = /^\n,"sha256":"([0-9a-f]{64})"\}\n$/;
const TAIL_BYTES = 79;

export function encodeSealedJson(value: Readonly<Record<string, unknown>>): Uint8Array {
  const body = JSON.stringify(value).slice(0, -1);
  return Buffer.from(`${body}\n,"sha256":"${digestOf(body)}"}\n`, "utf8");
}

/** The parsed object; CHECKPOINT_CORRUPT when a byte is not as it was written. `source` names the file in errors. */
export function decodeSealedJson(bytes: Uint8Array, source: string): unknown {
  const split = bytes.byteLength - TAIL_BYTES;
  const tail = split > 0 ? TAIL.exec(Buffer.from(bytes.subarray(split)).toString("latin1")) : null;
  if (tail === null)
    throw new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${source}: it does not end with its digest`);
  const digest = digestOf(bytes.subarray(0, split));
  if (digest !== tail[1]) {
    throw new GokuError(
      "CHECKPOINT_CORRUPT",
      `Cannot read ${source}: its digest is ${digest.slice(0, 12)}, want ${tail[1]!.slice(0, 12)}`,
    );
  }
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${source}: it is no JSON`, { cause: error });
  }
}
