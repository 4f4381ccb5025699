import { GokuError } from "../job/errors.js";
import { canonicalJson } from "./canonical_json.js";
import { digestOf } from "./digest.js";
import { Fields } from "./fields.js";
import { mapLimit, READS_AT_ONCE } from "./map_limit.js";
import type { StateName } from "./state.js";
import { compareGenerations, GENERATION } from "./state_json.js";
import { openStorage, type Storage } from "./storage/storage.js";

/**
 * Pictures beside a run's checkpoints: `previews/step-<n>/` holds files named by the generation that drew them and, last,
 * `preview.json`, which lists them. A folder without it holds no preview. One of the same step by a later generation, which
 * came to that step again, takes its place.
 */
const FOLDER = "previews/";
const MANIFEST = "preview.json";
const FORMAT = 1;
const MANIFEST_BYTES_MAX = 256 * 1024;
/** One sheet, picture or clip; they are held in memory whole. */
export const PREVIEW_FILE_BYTES_MAX = 64 * 2 ** 20;
const FILE_NAME = /^g[1-9][0-9]{0,19}-(sheet\.png|picture-[1-9][0-9]{0,2}\.png|clip-[1-9][0-9]{0,2}\.mp4)$/;
const DIGEST = /^[0-9a-f]{64}$/;

/** What was drawn, and how: enough to draw it again from a checkpoint of that step. */
export interface PreviewFacts {
  job: string;
  state: StateName;
  prompts: readonly string[];
  seed: number;
  /** Euler steps, guidance and shift of time. */
  steps: number;
  guidance: number;
  shift: number;
  width: number;
  height: number;
  frames: number;
  /** ISO time, by the clock of the node that drew it. */
  drawnAt: string;
}

export interface PreviewFile {
  name: string;
  bytes: number;
  sha256: string;
}

export interface Preview extends PreviewFacts {
  /** Its folder. */
  uri: string;
  files: PreviewFile[];
}

/** Files of a preview that is to be written: `sheet.png`, `picture-1.png` or `clip-1.mp4`, ... */
export interface PreviewContent {
  name: string;
  bytes: Uint8Array;
}

function folderOf(step: number): string {
  return `${FOLDER}step-${step}/`;
}

function stepOf(folder: string): number | null {
  const step = /^step-(0|[1-9][0-9]{0,15})$/.exec(folder)?.[1];
  return step === undefined || !Number.isSafeInteger(Number(step)) ? null : Number(step);
}

/**
 * Writes a preview: its files, then the manifest that makes it one. What an older generation drew of that step goes after
 * that. Throws CONFLICT where a later generation has drawn it already, STORAGE_FULL, STORAGE_FAILED.
 */
export async function writePreview(
  storage: Storage,
  facts: PreviewFacts,
  contents: readonly PreviewContent[],
): Promise<Preview> {
  const { generation, step } = facts.state;
  const folder = folderOf(step);
  const before = await readPreview(storage, step).catch(() => null); // damaged: replaced
  if (before !== null && compareGenerations(before.state.generation, generation) > 0)
    throw new GokuError(
      "CONFLICT",
      `Cannot write the preview of step ${step} by generation ${generation}: generation ${before.state.generation} has drawn it, which is later`,
    );
  const files: PreviewFile[] = [];
  for (const { name, bytes } of contents) {
    const file = { name: `g${generation}-${name}`, bytes: bytes.byteLength, sha256: digestOf(bytes) };
    if (!FILE_NAME.test(file.name) || file.bytes > PREVIEW_FILE_BYTES_MAX)
      throw new RangeError(`writePreview: ${file.name} of ${file.bytes} bytes`);
    await storage.writeFile(`${folder}${file.name}`, [bytes], file.bytes);
    files.push(file);
  }
  const preview: Preview = { ...facts, uri: `${storage.uri}/${folder.slice(0, -1)}`, files };
  const manifest = Buffer.from(canonicalJson(toManifest(preview)));
  await storage.writeFile(`${folder}${MANIFEST}`, [manifest], manifest.byteLength);
  const own = new Set([MANIFEST, ...files.map(({ name }) => name)].map((name) => folder + name));
  const others = (await storage.list(folder)).map(({ key }) => key).filter((key) => !own.has(key));
  await storage.delete(others);
  return preview;
}

/** Previews under a run's root, in the order of their steps. One that cannot be read goes to `onUnreadable`. */
export async function listPreviews(
  uri: string | Storage,
  onUnreadable: (found: { step: number; error: GokuError }) => void = () => {},
): Promise<Preview[]> {
  const storage = typeof uri === "string" ? openStorage(uri) : uri;
  const found = await mapLimit(await previewSteps(storage), READS_AT_ONCE, async (step) => {
    try {
      return await readPreview(storage, step);
    } catch (error) {
      if (!(error instanceof GokuError) || error.code !== "CHECKPOINT_CORRUPT") throw error;
      onUnreadable({ step, error });
      return null;
    }
  });
  return found.filter((preview) => preview !== null);
}

async function previewSteps(storage: Storage): Promise<number[]> {
  const steps = (await storage.folders(FOLDER)).map(stepOf).filter((step) => step !== null);
  return steps.sort((a, b) => a - b);
}

/** Null: none of that step. Throws CHECKPOINT_CORRUPT, STORAGE_FAILED. */
async function readPreview(storage: Storage, step: number): Promise<Preview | null> {
  const key = `${folderOf(step)}${MANIFEST}`;
  let bytes: Uint8Array;
  try {
    bytes = await storage.readFile(key, MANIFEST_BYTES_MAX);
  } catch (error) {
    if (error instanceof GokuError && error.code === "NOT_FOUND") return null;
    throw error;
  }
  const preview = fromManifest(bytes, { key, uri: `${storage.uri}/${folderOf(step).slice(0, -1)}` });
  if (preview.state.step === step) return preview;
  throw new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${key}: it is of step ${preview.state.step}`);
}

/**
 * One file of a preview, checked against its digest. A name that the preview does not list is never looked for in storage.
 * Throws NOT_FOUND, CHECKPOINT_CORRUPT.
 */
export async function readPreviewFile(
  uri: string | Storage,
  wanted: { step: number; name: string },
): Promise<Uint8Array> {
  const storage = typeof uri === "string" ? openStorage(uri) : uri;
  const { step, name } = wanted;
  const preview = Number.isSafeInteger(step) && step >= 0 ? await readPreview(storage, step) : null;
  const file = preview?.files.find((one) => one.name === name);
  if (file === undefined) {
    const found = preview === null ? "no preview of that step is there" : `it has ${namesOf(preview)}`;
    throw new GokuError("NOT_FOUND", `Cannot find ${JSON.stringify(name)} of step ${step}: ${found}`);
  }
  const key = `${folderOf(step)}${name}`;
  const bytes = await storage.readFile(key, file.bytes);
  if (digestOf(bytes) === file.sha256) return bytes;
  throw new GokuError("CHECKPOINT_CORRUPT", `Cannot use ${key}: its bytes differ from their digest`);
}

function namesOf({ files }: Preview): string {
  return files.map(({ name }) => name).join(", ");
}

/**
 * Removes the oldest previews until `keepLast` are left, by generation, then step: after a step back, what the line that was
 * given up has drawn goes before what is drawn now. Of each the manifest goes first. Returns their steps.
 */
export async function prunePreviews(storage: Storage, keepLast: number): Promise<number[]> {
  const steps = await previewSteps(storage);
  if (steps.length <= keepLast) return [];
  const generations = new Map(
    (await listPreviews(storage)).map(({ state }) => [state.step, state.generation]),
  );
  const generationOf = (step: number) => generations.get(step) ?? "0"; // what was cut off, or is damaged
  const surplus = steps
    .sort((a, b) => compareGenerations(generationOf(a), generationOf(b)) || a - b)
    .slice(0, steps.length - keepLast);
  for (const step of surplus) {
    const folder = folderOf(step);
    await storage.delete([`${folder}${MANIFEST}`]);
    await storage.delete((await storage.list(folder)).map(({ key }) => key));
    await storage.removeUnfinished(folder, () => true);
    await storage.removeFolder(folder);
  }
  return surplus;
}

function toManifest({ uri: _, ...preview }: Preview) {
  const { state, drawnAt, ...facts } = preview;
  return { format: FORMAT, ...facts, ...state, drawn_at: drawnAt };
}

function fromManifest(bytes: Uint8Array, { key, uri }: { key: string; uri: string }): Preview {
  let plain: unknown;
  try {
    plain = JSON.parse(Buffer.from(bytes).toString("utf8"));
  } catch (error) {
    throw new GokuError("CHECKPOINT_CORRUPT", `Cannot read ${key}: it is no JSON`, { cause: error });
  }
  const fields = Fields.of(plain, key);
  fields.integer("format", { min: FORMAT, max: FORMAT });
  const number = (name: string) => {
    const value = fields.any(name);
    return typeof value === "number" && Number.isFinite(value) ? value : fields.fail(name, "a number");
  };
  return {
    job: fields.string("job"),
    state: { generation: fields.string("generation", GENERATION), step: fields.integer("step") },
    prompts: fields.strings("prompts"),
    seed: fields.integer("seed"),
    steps: fields.integer("steps", { min: 1 }),
    guidance: number("guidance"),
    shift: number("shift"),
    width: fields.integer("width", { min: 1 }),
    height: fields.integer("height", { min: 1 }),
    frames: fields.integer("frames", { min: 1 }),
    drawnAt: fields.string("drawn_at"),
    uri,
    files: fields.objects("files").map((file) => ({
      name: file.string("name", FILE_NAME),
      bytes: file.integer("bytes", { max: PREVIEW_FILE_BYTES_MAX }),
      sha256: file.string("sha256", DIGEST),
    })),
  };
}
