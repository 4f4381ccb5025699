import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, release, tmpdir, totalmem } from "node:os";
import path from "node:path";
import { parseArgs, styleText } from "node:util";
import { MOMENTS, type Moment } from "../test/faults/matrix/cell.js";
import { canExhaust } from "../test/faults/matrix/cell_run.js";
import type { FaultRow } from "../test/faults/matrix/fault_row.js";
import { formatPage, type KeptCell } from "../test/faults/matrix/format_page.js";
import { RULES } from "../test/faults/matrix/judge_cell.js";
import { Network } from "../test/faults/matrix/network.js";
import { ROWS } from "../test/faults/matrix/rows.js";
import { type Ground, runCell, runReference } from "../test/faults/matrix/run_cell.js";
import { makeCredentials } from "../test/support/credentials.js";
import { ETCD_SKIP } from "../test/support/etcd_servers.js";

const PAGE = "docs/faults.md";
/** What each cell showed last, one a line: of this the page is made. */
const KEPT = "docs/faults.jsonl";

const USAGE = `Makes faults happen to real clusters, one at a time, judges how each ends, and writes docs/faults.md.

  make faults [ARGS="options"]        or: node dist/scripts/faults.js [options]

  --only FAULT[,FAULT]      only these faults
  --moment MOMENT[,MOMENT]  only at these moments: ${MOMENTS.join(", ")}
  --failed                  only what failed last time
  --missing                 only what was never run
  --stale                   only what was last shown by a commit that HEAD does not descend from
  --trial                   record nothing; needed where the tree has changes that are not committed
  --list                    name the faults

Parts that are not run again keep what they showed last time (${KEPT}). Logs of what failed: runs/faults/FAULT-MOMENT.`;

const FOLDER = path.resolve("runs/faults");
const MEMBERS = ["controller", "node-a", "node-b", "node-c", "node-d"];

interface Options {
  only: string[] | null;
  moments: string[] | null;
  failed: boolean;
  missing: boolean;
  stale: boolean;
  trial: boolean;
  list: boolean;
}

/** Null: help was asked for. Throws for a wrong argument. */
function readOptions(): Options | null {
  const { values } = parseArgs({
    options: {
      only: { type: "string" },
      moment: { type: "string" },
      failed: { type: "boolean", default: false },
      missing: { type: "boolean", default: false },
      stale: { type: "boolean", default: false },
      trial: { type: "boolean", default: false },
      list: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return null;
  const [only, moments] = [values.only, values.moment].map((text) => text?.split(",") ?? null);
  const known = [
    [only, ROWS.map(({ id }) => id)],
    [moments, MOMENTS],
  ] as const;
  for (const [given, names] of known)
    for (const name of given ?? [])
      if (!(names as readonly string[]).includes(name))
        throw new Error(`"${name}" is none of ${names.join(", ")}`);
  const { failed, missing, stale, trial, list } = values;
  return { only: only!, moments: moments!, failed, missing, stale, trial, list };
}

interface Wanted {
  row: FaultRow;
  moment: Moment;
}

function choose(options: Options, kept: readonly KeptCell[]): Wanted[] {
  const last = (row: string, moment: Moment) =>
    kept.find((cell) => cell.row === row && cell.moment === moment);
  const shown = new Map(
    [...new Set(kept.map(({ commit }) => commit))].map((commit) => [commit, isOurs(commit)]),
  );
  return ROWS.flatMap((row) =>
    MOMENTS.filter((moment) => row.strikes[moment] !== undefined).map((moment) => ({ row, moment })),
  ).filter(
    ({ row, moment }) =>
      (options.only?.includes(row.id) ?? true) &&
      (options.moments?.includes(moment) ?? true) &&
      (!options.failed || (last(row.id, moment)?.failures.length ?? 0) > 0) &&
      (!options.missing || last(row.id, moment) === undefined) &&
      (!options.stale || shown.get(last(row.id, moment)?.commit ?? "") !== true),
  );
}

/** Why rows cannot be run on this machine, by row. */
function whatLacks(network: Network | null, reason: string): Map<string, string> {
  const exhausts = canExhaust();
  return new Map(
    ROWS.flatMap(({ id, needs }): [string, string][] => {
      if (needs === "network" && network === null)
        return [[id, `not run: no network namespaces (${reason})`]];
      if (needs === "memory limits" && !exhausts) return [[id, "not run: no memory limits can be set"]];
      if (needs === "etcd" && ETCD_SKIP !== false) return [[id, `not run: ${ETCD_SKIP}`]];
      return [];
    }),
  );
}

/** Of records that are older than these fields. */
const NOT_NOTED = { machine: "a machine that was not noted", rules: 1 };

function readKept(): KeptCell[] {
  if (!existsSync(KEPT)) return [];
  const lines = readFileSync(KEPT, "utf8")
    .split("\n")
    .filter((line) => line !== "");
  return lines.map((line) => ({ ...NOT_NOTED, ...(JSON.parse(line) as KeptCell) }));
}

async function main(): Promise<number> {
  const options = readOptions();
  if (options === null) {
    console.log(USAGE);
    return 0;
  }
  if (options.list) {
    for (const { id, title, strikes } of ROWS)
      console.log(`${id.padEnd(22)}${title}: ${Object.keys(strikes).join(", ")}`);
    return 0;
  }
  if (!options.trial) refuseChanges();
  let kept = readKept();
  const wanted = choose(options, kept);
  mkdirSync(FOLDER, { recursive: true });
  const opened = Network.open(MEMBERS);
  const { network } = opened;
  const reason = opened.network === null ? opened.reason : "";
  const skipped = whatLacks(network, reason);
  const certs = mkdtempSync(path.join(tmpdir(), "goku-faults-certs-"));
  process.once("exit", () => rmSync(certs, { recursive: true, force: true }));
  const credentials = makeCredentials(certs, ["127.0.0.1", ...(network ? [network.host("controller")] : [])]);
  const runnable = wanted.filter(({ row }) => !skipped.has(row.id));
  const ground: Ground = { network, credentials, folder: FOLDER, reference: new Map() };
  const stamp = {
    commit: git("rev-parse", "--short", "HEAD"),
    date: new Date().toISOString().slice(0, 10),
    machine: machine(),
    rules: RULES,
  };
  let failed = 0;
  try {
    const steps = Math.max(0, ...runnable.map(({ row }) => row.steps));
    console.log(`${runnable.length} cells; first the undisturbed run of ${steps} steps`);
    if (runnable.length > 0) ground.reference = await runReference(steps, ground);
    for (const [index, { row, moment }] of runnable.entries()) {
      process.stdout.write(`${String(index + 1).padStart(3)}/${runnable.length} ${row.id} ${moment} `);
      const cell = { ...(await runCell(row, moment, ground)), ...stamp };
      console.log(verdict(cell));
      if (cell.failures.length > 0) failed += 1;
      if (options.trial) continue;
      kept = inOrder([...kept.filter((one) => one.row !== row.id || one.moment !== moment), cell]);
      writeFileSync(KEPT, kept.map((one) => `${JSON.stringify(one)}\n`).join(""));
    }
  } finally {
    network?.close();
  }
  const sum = `${runnable.length - failed} passed, ${failed} failed`;
  if (options.trial) {
    console.log(`${sum}; nothing was recorded`);
    return failed === 0 ? 0 : 1;
  }
  const about = network
    ? "each member a network namespace (with etcd or a second controller: on loopback), with TLS"
    : `all on loopback, with TLS: ${reason}`;
  writeFileSync(PAGE, formatPage({ rows: ROWS, cells: kept, skipped, network: about }));
  console.log(`${sum}; ${PAGE} is written`);
  return failed === 0 ? 0 : 1;
}

/** As the page has them, so that a cell that is run again changes one line. */
function inOrder(cells: readonly KeptCell[]): KeptCell[] {
  return MOMENTS.flatMap((moment) =>
    ROWS.flatMap(({ id }) => cells.filter((cell) => cell.moment === moment && cell.row === id)),
  );
}

function verdict({ row, moment, failures, seconds }: KeptCell): string {
  if (failures.length === 0) return styleText("green", `ok, ${seconds.toFixed(0)} s`);
  const lines = failures.map((failure) => `      ${failure}`).join("\n");
  return `${styleText("red", `FAILED, ${seconds.toFixed(0)} s`)}\n${lines}\n      logs: ${path.join(FOLDER, `${row}-${moment}`)}`;
}

function machine(): string {
  const list = cpus();
  const memory = `${Math.round(totalmem() / 2 ** 30)} GiB`;
  const etcd = ETCD_SKIP === false ? [`etcd ${etcdVersion()}`] : [];
  return [
    `${list.length} CPUs (${list[0]?.model.trim() ?? "unknown"})`,
    memory,
    `Linux ${release()}`,
    `Node ${process.versions.node}`,
    ...etcd,
  ].join(", ");
}

function etcdVersion(): string {
  const told = execFileSync("etcd", ["--version"], { encoding: "utf8" });
  return /etcd Version: (\S+)/.exec(told)?.[1] ?? "of unknown version";
}

/** A record names the commit that showed it: with changes beside, it would name one that did not. */
function refuseChanges(): void {
  const changed = git("status", "--porcelain", "--", ".", `:!${PAGE}`, `:!${KEPT}`);
  if (changed !== "")
    throw new Error(
      `${KEPT} names the commit of each cell, and the tree has changes that none has (${changed.split("\n").length} files); commit them, or add --trial`,
    );
}

/** Whether whoever reads the page can have that commit. */
function isOurs(commit: string): boolean {
  try {
    execFileSync("git", ["merge-base", "--is-ancestor", commit, "HEAD"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

function git(...args: string[]): string {
  return execFileSync("git", args, { encoding: "utf8" }).trim();
}

// What it has started ends with it: the network in its own exit handler, members when their parent goes.
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(130));

process.exitCode = await main().catch((error: Error) => {
  console.error(`Cannot run the fault matrix: ${error.message}\n\n${USAGE}`);
  return 2;
});
