import { hostname } from "node:os";
import type { StateName } from "../../checkpoint/state.js";
import type { Storage } from "../../checkpoint/storage/storage.js";
import {
  EVENTS_FOLDER,
  eventsName,
  type Picture,
  picturesRecord,
  startRecord,
  versionRecord,
} from "../tfevents.js";

/**
 * A run of its own for TensorBoard, which goes from file to file in the order of their names and never back: in the folder of
 * the curves a file for each preview would end the curves.
 */
const FOLDER = `${EVENTS_FOLDER}/previews/`;
/** In TensorBoard a tag is a heading. */
const TAG_CHARACTERS = 80;

/** What is shown for a prompt; numbered, since prompts may be the same. */
export function boardTag(index: number, prompt: string): string {
  return `samples/${index + 1}: ${[...prompt.replace(/\s+/g, " ")].slice(0, TAG_CHARACTERS).join("")}`;
}

/**
 * Shows the pictures of a preview in TensorBoard: a file for each preview, of which the newest `keepLast` stay. Those of its
 * step and later ones, drawn before by a line that was given up, TensorBoard drops. Throws STORAGE_FULL, STORAGE_FAILED.
 * @param seconds Unix time of the drawing
 */
export async function writeBoard(
  storage: Storage,
  { state, seconds }: { state: StateName; seconds: number },
  pictures: readonly Picture[],
  keepLast: number,
): Promise<void> {
  const present = (await storage.list(FOLDER)).map(({ key }) => key);
  const name = eventsName({ seconds, node: hostname(), generation: state.generation, present });
  await storage.writeFile(`${FOLDER}${name}`, [
    versionRecord(seconds),
    startRecord(seconds, state.step),
    picturesRecord(seconds, state.step, pictures),
  ]);
  await storage.delete(present.slice(0, Math.max(0, present.length + 1 - keepLast)));
}
