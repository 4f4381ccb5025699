import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { PROGRAMS_FOLDER, productFolder } from "./entry_points.js";

/** Beside the programs: what they were built from, where that was known. */
export const REVISION_FILE = path.join(PROGRAMS_FOLDER, "revision");

/** A git revision; `.dirty`: with changes that it does not hold. */
export const REVISION = /^[0-9a-f]{40}(\.dirty)?$/;

/** Version of the product: that of its package.json. */
export function productVersion(): string {
  const text = readFileSync(path.join(productFolder(), "package.json"), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

/** The git revision that the product was built from; null: it was built from no git checkout. */
export function productRevision(folder = productFolder()): string | null {
  const file = path.join(folder, REVISION_FILE);
  const text = existsSync(file) ? readFileSync(file, "utf8").trim() : "";
  return REVISION.test(text) ? text : null;
}

/** What computed a state: "0.1.0+git.<revision>", as semantic versions have it; without a revision "0.1.0". Pure. */
export function codeVersion(version: string, revision: string | null): string {
  return revision === null ? version : `${version}+git.${revision}`;
}
