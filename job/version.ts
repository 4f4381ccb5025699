import { existsSync, readFileSync } from "node:fs";
import path from "node:path";

/** Version of the product: that of the package.json above this module. */
export function productVersion(): string {
  for (let folder = import.meta.dirname; ; folder = path.dirname(folder)) {
    const file = path.join(folder, "package.json");
    if (existsSync(file)) return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
    if (folder === path.dirname(folder)) return "0.0.0";
  }
}
