import { spawnSync } from "node:child_process";
import { readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { build } from "esbuild";
import { ENTRY_POINTS, PROGRAMS_FOLDER } from "../job/entry_points.js";
import { REVISION, REVISION_FILE } from "../job/version.js";

/**
 * Bundles what is started as a process or thread into dist/programs, from what tsc has compiled: reading hundreds of modules
 * one by one takes longer than anything else that a program does before its first line (decision 030).
 */
/** Packages that nearly every program begins with; the others are loaded by the few that use them, from node_modules. */
const INSIDE = new Set(["@bufbuild/protobuf", "@grpc/grpc-js", "commander", "yaml", "zod"]);

const { dependencies } = JSON.parse(readFileSync("package.json", "utf8")) as { dependencies: object };
rmSync(PROGRAMS_FOLDER, { recursive: true, force: true });
await build({
  entryPoints: Object.fromEntries(
    Object.entries(ENTRY_POINTS).map(([name, source]) => [name, path.join("dist", `${source}.js`)]),
  ),
  outdir: PROGRAMS_FOLDER,
  chunkNames: "[name]-[hash]",
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "node",
  target: "node20",
  external: Object.keys(dependencies).filter((name) => !INSIDE.has(name)),
  // For packages inside that are CommonJS.
  banner: {
    js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);',
  },
  sourcemap: true,
  logLevel: "warning",
});

const revision = process.env.GOKU_REVISION ?? checkedOut();
if (REVISION.test(revision)) writeFileSync(REVISION_FILE, `${revision}\n`);

/** What lies here of git, if it is its own checkout; empty: it is not. */
function checkedOut(): string {
  const git = (...args: string[]) => spawnSync("git", args, { encoding: "utf8" });
  const top = git("rev-parse", "--show-toplevel");
  if (top.status !== 0 || realpathSync(top.stdout.trim()) !== realpathSync(".")) return "";
  const head = git("rev-parse", "HEAD");
  const changes = git("status", "--porcelain", "--untracked-files=no");
  return head.stdout.trim() + (changes.stdout.trim() === "" ? "" : ".dirty");
}
