import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { productFolder } from "../../job/entry_points.js";
import type { PageFile, PageFiles } from "../api/page_routes.js";

const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};

/** Where scripts/build_page.ts puts them, in the product's folder. */
export const PAGE_FOLDER = path.join(productFolder(), "dist/web");

/** All files of the built page, in memory: a few hundred kilobytes, and no path that a request names reaches the disk. */
export function readPageFiles(folder = PAGE_FOLDER): PageFiles {
  const files = new Map<string, PageFile>();
  if (!existsSync(folder)) return files;
  for (const name of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
    const type = TYPES[path.extname(name)];
    if (type === undefined) continue;
    const body = readFileSync(path.join(folder, name));
    const etag = `"${createHash("sha256").update(body).digest("base64url").slice(0, 22)}"`;
    const url = name === "index.html" ? "/" : `/${name.split(path.sep).join("/")}`;
    files.set(url, { type, body, gzipped: gzipSync(body), etag, isNamedByContent: url !== "/" });
  }
  return files;
}
