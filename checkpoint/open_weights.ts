import { readdir, realpath, stat } from "node:fs/promises";
import path from "node:path";
import { GokuError, toGokuError } from "../job/errors.js";
import { COMMIT_NAME, folderStep } from "./names.js";
import { readPlain } from "./open_plain.js";
import type { SafetensorsEntry } from "./safetensors.js";
import { SafetensorsFile } from "./safetensors_file.js";
import { decodeWeightsIndex, WEIGHTS_INDEX_BYTES_MAX } from "./weights_index.js";
import { requireWeightDtype, type WeightDtype, widenFloats } from "./widen_floats.js";

/** Larger ones are refused unread. */
const CONFIG_BYTES_MAX = 1 << 20;
const INDEX_SUFFIX = ".safetensors.index.json";
const BYTES_OF: Record<WeightDtype, number> = { F32: 4, F16: 2, BF16: 2 };

interface Place {
  file: SafetensorsFile;
  entry: SafetensorsEntry;
}

/** Named tensors in safetensors files of any origin. */
export class Weights {
  readonly #places: ReadonlyMap<string, Place>;
  readonly #files: readonly SafetensorsFile[];
  /** What the `config.json` beside them says, unchecked; null: there is none. */
  readonly config: Readonly<Record<string, unknown>> | null;

  constructor(
    files: readonly SafetensorsFile[],
    places: ReadonlyMap<string, Place>,
    config: Readonly<Record<string, unknown>> | null,
  ) {
    this.#files = files;
    this.#places = places;
    this.config = config;
  }

  entries(): SafetensorsEntry[] {
    return [...this.#places.values()].map(({ entry }) => entry);
  }

  /** Elements [start, start + length) of a tensor, widened to float32. */
  async read(name: string, { start, length }: { start: number; length: number }): Promise<Float32Array> {
    const { file, entry } = this.#places.get(name)!;
    const dtype = requireWeightDtype(entry.dtype, name);
    const bytes = new Uint8Array(BYTES_OF[dtype] * length);
    await file.read(entry, BYTES_OF[dtype] * start, bytes);
    return widenFloats(bytes, dtype);
  }

  async close(): Promise<void> {
    for (const file of this.#files) await file.close();
  }
}

/**
 * Opens safetensors files, an `*.safetensors.index.json`, a folder of either, or an exported folder, whose `transformer` is
 * taken. Only headers are read. What is found in a folder must be plain files; only a path that is given may be a link.
 * Throws NOT_FOUND, ARGUMENT_INVALID, CHECKPOINT_CORRUPT.
 */
export async function openWeights(paths: readonly string[]): Promise<Weights> {
  const found: FoundFiles[] = [];
  for (const each of paths) found.push(await findFiles(each));
  const files: SafetensorsFile[] = [];
  const places = new Map<string, Place>();
  try {
    for (const { folder, names, index } of found) {
      for (const name of names) {
        const file = await SafetensorsFile.open(path.join(folder, name));
        files.push(file);
        addTensors(places, file, index, name);
      }
      requireIndexed(places, index, folder);
    }
    const configs = await Promise.all(found.map(({ folder }) => readConfig(folder)));
    return new Weights(files, places, configs.find((config) => config !== null) ?? null);
  } catch (error) {
    for (const file of files) await file.close();
    throw error;
  }
}

interface FoundFiles {
  folder: string;
  names: string[];
  /** File of each tensor; null: there is no index, each file says what it holds. */
  index: Map<string, string> | null;
}

async function findFiles(given: string): Promise<FoundFiles> {
  let real: string;
  try {
    real = await realpath(given);
  } catch (error) {
    const message = `Cannot read weights from ${given}: there is no such file or folder, check the path`;
    throw new GokuError("NOT_FOUND", message, { cause: error });
  }
  const [folder, name] = [path.dirname(real), path.basename(real)];
  if ((await stat(real)).isDirectory()) return findInFolder(real);
  if (name.endsWith(INDEX_SUFFIX)) return ofIndex(folder, name);
  return { folder, names: [name], index: null };
}

async function findInFolder(folder: string): Promise<FoundFiles> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: unknown) => {
    throw toGokuError(error, "STORAGE_FAILED");
  });
  const names = entries.map((entry) => entry.name).sort();
  const refuse = (what: string) =>
    new GokuError("ARGUMENT_INVALID", `Cannot read weights from ${folder}: ${what}`);
  if (names.some((name) => name === COMMIT_NAME || folderStep(name) !== null))
    throw refuse("it holds checkpoints, export one of them first (gokuctl ckpt export)");
  const indexes = names.filter((name) => name.endsWith(INDEX_SUFFIX));
  if (indexes.length > 1)
    throw refuse(`it holds ${indexes.length} indexes (${indexes[0]}, ...), name one of them`);
  if (indexes[0] !== undefined) return ofIndex(folder, indexes[0]);
  const files = names.filter((name) => name.endsWith(".safetensors"));
  if (files.length > 0) return { folder, names: files, index: null };
  const inner = entries.find((entry) => entry.name === "transformer");
  if (inner?.isSymbolicLink()) throw refuse("its transformer is a symbolic link, name where that leads");
  if (inner?.isDirectory()) return findInFolder(path.join(folder, inner.name));
  throw new GokuError(
    "NOT_FOUND",
    `Cannot read weights from ${folder}: it holds no .safetensors file and no transformer folder, check the path`,
  );
}

async function ofIndex(folder: string, name: string): Promise<FoundFiles> {
  const source = path.join(folder, name);
  const index = decodeWeightsIndex(await readPlain(source, WEIGHTS_INDEX_BYTES_MAX), source);
  return { folder, names: [...new Set(index.values())].sort(), index };
}

function addTensors(
  places: Map<string, Place>,
  file: SafetensorsFile,
  index: ReadonlyMap<string, string> | null,
  fileName: string,
): void {
  const fail = (what: string) => new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${file.path}: ${what}`);
  for (const entry of file.header.tensors.values()) {
    const label = JSON.stringify(entry.name.slice(0, 200));
    if (index !== null && index.get(entry.name) !== fileName)
      throw fail(`it holds ${label}, which the index does not put there`);
    if (places.has(entry.name))
      throw fail(`it holds ${label}, which ${places.get(entry.name)!.file.path} holds too`);
    places.set(entry.name, { file, entry });
  }
}

function requireIndexed(
  places: ReadonlyMap<string, Place>,
  index: ReadonlyMap<string, string> | null,
  folder: string,
): void {
  for (const [tensor, name] of index ?? []) {
    if (places.has(tensor)) continue;
    const label = JSON.stringify(tensor.slice(0, 200));
    const message = `Cannot read ${path.join(folder, name)}: it lacks ${label}, which the index puts there`;
    throw new GokuError("CHECKPOINT_CORRUPT", message);
  }
}

async function readConfig(folder: string): Promise<Record<string, unknown> | null> {
  const source = path.join(folder, "config.json");
  const bytes = await readPlain(source, CONFIG_BYTES_MAX).catch((error: unknown) => {
    if (error instanceof GokuError && error.code === "NOT_FOUND") return null;
    throw error;
  });
  if (bytes === null) return null;
  try {
    const parsed: unknown = JSON.parse(bytes.toString("utf8"));
    if (typeof parsed === "object" && parsed !== null && !Array.isArray(parsed))
      return parsed as Record<string, unknown>;
  } catch (error) {
    throw new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${source}: it is no JSON`, { cause: error });
  }
  throw new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${source}: it is no JSON object`);
}
