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
import type { ParityOptions } from "./parity_rank.js";
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

function readArguments(): { cases: string[]; options: ParityOptions } {
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
  const options: ParityOptions = {
    layout: Layout.parse(values.layout).toString(),
    packs: choice("packs", values.packs, ["one", "each"]),
    bf16: values.bf16,
    recompute: choice("recompute", values.recompute, ["none", "full"]),
    transport: choice("transport", values.transport, ["auto", "tcp"]),
  };
  return { cases: positionals, options };
}

async function main(): Promise<number> {
  const { cases, options } = readArguments();
  let failed = 0;
  for (const path of cases) {
    console.log(
      `${path}: ${options.bf16 ? "bf16" : "fp32"}, layout ${options.layout}, packs ${options.packs}, recompute ${options.recompute}`,
    );
    for (const { quantity, error, limit, ok } of await runParity(path, options)) {
      const judged = limit === null ? "" : `  limit ${limit.toExponential(1)}  ${ok ? "ok" : "ABOVE LIMIT"}`;
      console.log(
        `  ${quantity.padEnd(64)} ${error.toExponential(3)}${ok || limit !== null ? judged : "  NOT A NUMBER"}`,
      );
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
