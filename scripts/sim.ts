import { parseArgs } from "node:util";
import { planSeed, planText, runSeed } from "../test/sim/run_seed.js";

const USAGE = `Runs the seeded simulation: the real controller core, simulated agents, network and store, on virtual time.

  npm run sim -- [--seeds N] [--seed S] [--nodes A..B] [--trace]

  --seeds N      how many seeds to run, from --seed on (default 100)
  --seed S       first seed (default 1); with --seeds 1 it replays that seed
  --nodes A..B   smallest and largest cluster (default 4..16)
  --trace        print everything that controllers hear and do`;

/** Exit code 1 when a seed fails, 2 for a wrong argument. */
function main(): number {
  const { values } = parseArgs({
    options: {
      seeds: { type: "string", default: "100" },
      seed: { type: "string", default: "1" },
      nodes: { type: "string", default: "4..16" },
      trace: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  const range = /^(\d+)(?:\.\.(\d+))?$/.exec(values.nodes);
  const first = Number(values.seed);
  const count = Number(values.seeds);
  if (values.help || !range || !Number.isSafeInteger(first) || !Number.isSafeInteger(count) || count < 1) {
    console.log(USAGE);
    return values.help ? 0 : 2;
  }
  const nodes = { min: Number(range[1]), max: Number(range[2] ?? range[1]) };
  const total = { events: 0, virtualMs: 0, generations: 0, incidents: 0, failed: 0 };
  const startedMs = performance.now();
  for (let seed = first; seed < first + count; seed++) {
    const plan = planSeed(seed, nodes);
    if (count === 1) console.log(planText(plan));
    const result = runSeed(plan, values.trace ? (line) => console.log(line) : null);
    total.events += result.events;
    total.virtualMs += result.virtualMs;
    total.generations += result.generations;
    total.incidents += result.incidents;
    if (result.error === null) {
      if (count === 1) console.log(`seed ${seed} passed, trace ${result.hash.toString(16).padStart(8, "0")}`);
      continue;
    }
    total.failed += 1;
    if (count > 1) console.log(planText(plan));
    console.log(
      `seed ${seed} FAILED at ${result.virtualMs / 1000} s: ${result.error.stack ?? result.error.message}`,
    );
    console.log(`replay: npm run sim -- --seeds 1 --seed ${seed} --nodes ${values.nodes} --trace\n`);
  }
  const seconds = (performance.now() - startedMs) / 1000;
  console.log(
    `${count - total.failed} passed, ${total.failed} failed: ${total.events} events, ${(total.virtualMs / 3.6e6).toFixed(1)} h of virtual time, ${total.generations} generations, ${total.incidents} incidents, in ${seconds.toFixed(1)} s`,
  );
  return total.failed === 0 ? 0 : 1;
}

process.exitCode = main();
