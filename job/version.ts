import { readFileSync } from "node:fs";
import path from "node:path";
import { productFolder } from "./entry_points.js";

/** Version of the product: that of its package.json. */
export function productVersion(): string {
  const text = readFileSync(path.join(productFolder(), "package.json"), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
