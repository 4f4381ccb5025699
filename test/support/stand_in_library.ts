import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { REPOSITORY } from "../job/repository.js";

const built = new Map<string, string>();
let scratch: string | null = null;

/** Folder of a library that stands in for one of NVIDIA's, compiled once a process. `source`: in test/support; `flags`: of the compiler. */
export function standInLibrary(library: { source: string; file: string; flags: readonly string[] }): string {
  const { source, file, flags } = library;
  const key = [source, ...flags].join(" ");
  const known = built.get(key);
  if (known !== undefined) return known;
  if (scratch === null) {
    const made = mkdtempSync(path.join(tmpdir(), "goku-stand-in-"));
    process.once("exit", () => rmSync(made, { recursive: true, force: true }));
    scratch = made;
  }
  const folder = path.join(scratch, `library-${built.size}`);
  mkdirSync(folder);
  execFileSync(process.env.CXX ?? "c++", [
    ...["-std=c++20", "-shared", "-fPIC", "-I", REPOSITORY, ...flags],
    ...["-o", path.join(folder, file), path.join(REPOSITORY, "test/support", source)],
  ]);
  built.set(key, folder);
  return folder;
}

/** LD_LIBRARY_PATH of a process that is to find what lies in the folder. */
export function libraryPath(folder: string): string {
  const before = process.env.LD_LIBRARY_PATH;
  return before === undefined ? folder : `${folder}:${before}`;
}

/** Processes that are started from here while `body` runs have these variables. */
export async function withEnvironment<T>(
  variables: Readonly<Record<string, string>>,
  body: () => Promise<T>,
): Promise<T> {
  const before = { ...process.env };
  Object.assign(process.env, variables);
  try {
    return await body();
  } finally {
    for (const name of Object.keys(variables)) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  }
}
