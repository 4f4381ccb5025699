import { parseArgs } from "node:util";
import { planSeed, planText } from "../test/sim/plan_seed.js";
import { runSeed, type SeedResult } from "../test/sim/run_seed.js";

const USAGE = `Runs the seeded simulation: the real controller core, simulated agents, network and store, on virtual time.

  make sim [SEEDS=N] [SEED=S] [NODES=A..B]        or: node dist/scripts/sim.js [options]

  --seeds N      how many seeds to run, from --seed on (default 100)
  --seed S       first seed (default 1); alone it replays that seed
  --nodes A..B   smallest and largest cluster (default 4..16)
  --first        stop at the first seed that fails
  --trace        print everything that controllers hear and do`;

interface Options {
  first: number;
  count: number;
  nodes: { min: number; max: number };
  stopAtFirst: boolean;
  trace: boolean;
}

/** Null: the arguments are wrong, or help was asked for. */
function readOptions(): Options | null {
  const { values } = parseArgs({
    options: {
      seeds: { type: "string" },
      seed: { type: "string" },
      nodes: { type: "string", default: "4..16" },
      first: { type: "boolean", default: false },
      trace: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  const range = /^(\d+)(?:\.\.(\d+))?$/.exec(values.nodes);
  const first = Number(values.seed ?? 1);
  const count = Number(values.seeds ?? (values.seed === undefined ? 100 : 1));
  const min = Number(range?.[1]);
  const max = Number(range?.[2] ?? range?.[1]);
  const sane =
    Number.isSafeInteger(first) && Number.isSafeInteger(count) && count >= 1 && min >= 1 && max >= min;
  if (values.help || !sane) return null;
  return { first, count, nodes: { min, max }, stopAtFirst: values.first, trace: values.trace };
}

function report(result: SeedResult, options: Options): void {
  const { plan, error, hash, virtualMs } = result;
  if (error === null) {
    if (options.count === 1)
      console.log(`seed ${plan.seed} passed, trace ${hash.toString(16).padStart(8, "0")}`);
    return;
  }
  if (options.count > 1) console.log(planText(plan));
  const { min, max } = options.nodes;
  console.log(`seed ${plan.seed} FAILED at ${virtualMs / 1000} s: ${error.stack ?? error.message}`);
  console.log(`replay: node dist/scripts/sim.js --seed ${plan.seed} --nodes ${min}..${max} --trace\n`);
}

/** Exit code 1 when a seed fails, 2 for a wrong argument. */
async function main(): Promise<number> {
  let options: Options | null;
  try {
    options = readOptions();
  } catch (error) {
    console.error(`Cannot simulate: ${(error as Error).message}\n`);
    options = null;
  }
  if (options === null) {
    console.log(USAGE);
    return process.argv.includes("--help") ? 0 : 2;
  }
  const total = { events: 0, virtualMs: 0, generations: 0, incidents: 0, passed: 0, failed: 0 };
  const startedMs = performance.now();
  for (let seed = options.first; seed < options.first + options.count; seed++) {
    const plan = planSeed(seed, options.nodes);
    if (options.count === 1) console.log(planText(plan));
    const result = await runSeed(plan, options.trace ? (line) => console.log(line) : null);
    total.events += result.events;
    total.virtualMs += result.virtualMs;
    total.generations += result.generations;
    total.incidents += result.incidents;
    total[result.error === null ? "passed" : "failed"] += 1;
    report(result, options);
    if (result.error !== null && options.stopAtFirst) break;
  }
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  const hours = (total.virtualMs / 3.6e6).toFixed(1);
  const { passed, failed, events, generations, incidents } = total;
  console.log(
    `${passed} passed, ${failed} failed: ${events} events, ${hours} h of virtual time, ${generations} generations, ${incidents} incidents, in ${seconds} s`,
  );
  return failed === 0 ? 0 : 1;
}

process.exitCode = await main();
