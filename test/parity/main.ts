/**
 * npm run --silent parity -- CASE.safetensors... [--bf16] [--layout RxSxU] [--packs one|each] [--recompute none|full]
 *                            [--transport auto|tcp]
 *
 * Compares the product with golden values written by the reference: velocity, loss, gradient norms, every gradient,
 * parameters and EMA after three optimizer steps, and Euler samples. One line per quantity, with its relative error
 * ||a-b|| / ||b||. Exit code 1 on a NaN or an error above its limit, 2 on a wrong argument.
 */
import { parseArgs } from "node:util";
import { ERRORS, GokuError, toGokuError } from "../../job/errors.js";
import { Layout } from "../../job/layout.js";
import type { ParityRun, ParityWorld } from "./parity_rank.js";
import { runParity } from "./run_parity.js";

function choice<T extends string>(name: string, value: string, allowed: readonly T[]): T {
  const found = allowed.find((option) => option === value);
  if (!found)
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot use --${name} ${value}: want one of ${allowed.join(", ")}`,
    );
  return found;
}

function readArguments(): { runs: ParityRun[]; world: ParityWorld } {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      bf16: { type: "boolean", default: false },
      layout: { type: "string", default: "1x1x1" },
      packs: { type: "string", default: "one" },
      recompute: { type: "string", default: "none" },
      transport: { type: "string", default: "auto" },
    },
  });
  if (positionals.length === 0) {
    throw new GokuError(
      "ARGUMENT_INVALID",
      "Cannot compare: no case given, name at least one CASE.safetensors",
    );
  }
  const run = {
    packs: choice("packs", values.packs, ["one", "each"]),
    bf16: values.bf16,
    recompute: choice("recompute", values.recompute, ["none", "full"]),
  } as const;
  return {
    runs: positionals.map((path) => ({ path, ...run })),
    world: {
      layout: Layout.parse(values.layout).toString(),
      transport: choice("transport", values.transport, ["auto", "tcp"]),
    },
  };
}

async function main(): Promise<number> {
  const { runs, world } = readArguments();
  const lines = await runParity(runs, world);
  let failed = 0;
  for (const [i, { path, bf16, packs, recompute }] of runs.entries()) {
    console.log(
      `${path}: ${bf16 ? "bf16" : "fp32"}, layout ${world.layout}, packs ${packs}, recompute ${recompute}`,
    );
    for (const { quantity, error, limit, ok } of lines[i]!) {
      const judged = limit === null ? "" : `  limit ${limit.toExponential(1)}`;
      const verdict = ok
        ? limit === null
          ? ""
          : "  ok"
        : Number.isFinite(error)
          ? "  ABOVE LIMIT"
          : "  NOT A NUMBER";
      console.log(`  ${quantity.padEnd(64)} ${error.toExponential(3)}${judged}${verdict}`);
      if (!ok) failed++;
    }
  }
  if (failed > 0) console.log(`${failed} quantities failed`);
  return failed > 0 ? 1 : 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  if (error instanceof TypeError && "code" in error && String(error.code).startsWith("ERR_PARSE_ARGS")) {
    console.error(error.message);
    process.exitCode = ERRORS.ARGUMENT_INVALID.exit;
  } else {
    const known = toGokuError(error);
    console.error(known.message);
    process.exitCode = ERRORS[known.code].exit;
  }
}
