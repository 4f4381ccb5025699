import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { styleText } from "node:util";

/**
 * Every measurement, one after another so that none disturbs another; names of some run only those. The exit code is 1
 * where one failed or a figure is above its limit, and 2 for an unknown name.
 */
const BENCHES = [
  ["gemm", "Matrix products, each layout"],
  ["attention", "Packed attention, forward and backward"],
  ["train_step", "One training step, fp32 and bf16, and the engine's own share of it"],
  ["collectives", "Collectives at 64 MB over 4 ranks"],
  ["checkpoint", "Snapshots, durable saves and loads of 1 GiB of state"],
  ["recovery", "From SIGKILL to the next completed step"],
  ["page", "The web page with 12,288 ranks"],
  ["page_kill", "From SIGKILL of a rank until the web page names it"],
  ["previews", "A training step while a preview is drawn beside it"],
  ["controller_scale", "One controller with 12,288 ranks on 1,536 simulated agents"],
] as const;

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !BENCHES.some(([known]) => known === name));
if (unknown.length > 0) {
  console.error(
    `Cannot measure "${unknown.join('", "')}": want any of ${BENCHES.map(([name]) => name).join(", ")}`,
  );
  process.exit(2);
}
for (const [name, title] of BENCHES) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const script = path.join(import.meta.dirname, `${name}.js`);
  if (!existsSync(script)) throw new Error(`bench/main: ${script} is missing`);
  console.log(`\n${styleText("bold", title)} (${name})`);
  const { status } = spawnSync(process.execPath, ["--enable-source-maps", script], { stdio: "inherit" });
  if (status !== 0) process.exitCode = 1;
}
