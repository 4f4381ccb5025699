import { GokuError } from "../job/errors.js";
import { isKeySegment } from "./storage/storage.js";

/** Larger ones are refused before they are read; a hundred thousand tensors need a tenth of it. */
export const WEIGHTS_INDEX_BYTES_MAX = 64 << 20;

/**
 * Reads `*.safetensors.index.json`: which file holds which tensor. Names must be those of files beside it: a path could lead
 * anywhere. CHECKPOINT_CORRUPT when anything is wrong.
 */
export function decodeWeightsIndex(bytes: Uint8Array, source: string): Map<string, string> {
  const fail = (what: string, cause?: unknown): never => {
    throw new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${source}: ${what}`, { cause });
  };
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    return fail("it is no JSON", error);
  }
  if (!isRecord(parsed)) return fail("it is no JSON object, want one with weight_map");
  const map = Object.hasOwn(parsed, "weight_map") ? parsed.weight_map : undefined;
  if (!isRecord(map)) return fail("weight_map is no object, want file names by tensor");
  const files = new Map<string, string>();
  for (const [tensor, file] of Object.entries(map)) {
    const named = typeof file === "string" ? quote(file) : `a ${typeof file}`;
    if (typeof file !== "string" || !isKeySegment(file) || !file.endsWith(".safetensors"))
      fail(`weight_map puts ${quote(tensor)} in ${named}, want the name of a .safetensors file beside it`);
    files.set(tensor, file as string);
  }
  return files;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 200));
}
