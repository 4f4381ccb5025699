import { GENERATION } from "./state_json.js";

/** Names inside a run's root. A folder per step; inside it, files named by the generation that saved and the writer. */
export function checkpointFolder(step: number): string {
  return `checkpoint-${step}`;
}

/** Step of a checkpoint's folder name, or null. */
export function folderStep(name: string): number | null {
  const step = /^checkpoint-(0|[1-9][0-9]{0,15})$/.exec(name)?.[1];
  return step === undefined || !Number.isSafeInteger(Number(step)) ? null : Number(step);
}

export function dataName(generation: string, writer: number): string {
  return `g${generation}-w${writer}.safetensors`;
}

export function writerManifestName(generation: string, writer: number): string {
  return `g${generation}-w${writer}.json`;
}

/** The commit record: a folder without it is no checkpoint. */
export const COMMIT_NAME = "manifest.json";

/** Commit record of a state of a step that another generation had committed before. */
export function laterCommitName(generation: string): string {
  return `manifest-g${generation}.json`;
}

export function isCommitName(name: string): boolean {
  return name === COMMIT_NAME || GENERATION.test(/^manifest-g(\d+)\.json$/.exec(name)?.[1] ?? "");
}

/** Generation of a writer's file, also of an unfinished one's target; null for other files. */
export function fileGeneration(name: string): string | null {
  const generation = /^g(\d+)-w\d+\.(?:safetensors|json)$/.exec(name)?.[1];
  return generation !== undefined && GENERATION.test(generation) ? generation : null;
}
