/**
 * A program for jobs that run one of their own, as a user might write it: all ranks meet at MASTER_ADDR:MASTER_PORT, add
 * up their numbers, and work on. Arguments, each with the number of steps or the rank that it is about:
 *   steps=N    then N steps of 50 ms with a heartbeat each; without, it ends
 *   fail=R     rank R ends with code 3 at its first start
 *   fail=all   every rank ends with code 4 whenever it is started
 *   hang=R     rank R stops itself (SIGSTOP) after its third step, at its first start, while the others go on for ever
 *   child      it leaves a child behind that has a session of its own
 * Each rank writes `<rank>.<restarts>` into the folder $DIR: its pid, and its child's.
 */
import { spawn } from "node:child_process";
import { renameSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import path from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

const { RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, TORCHELASTIC_RESTART_COUNT, GOKU_HEARTBEAT_FILE, DIR } =
  process.env as Record<string, string>;
const rank = Number(RANK);
const isFirst = TORCHELASTIC_RESTART_COUNT === "0";
const options = new Map(process.argv.slice(2).map((text) => text.split("=") as [string, string | undefined]));

async function main(): Promise<void> {
  const child = options.has("child")
    ? spawn("sleep", ["1000"], { detached: true, stdio: "ignore" }).pid
    : undefined;
  process.on("SIGTERM", () => {
    console.log(`rank ${rank} saves and ends`);
    process.exit(0);
  });
  const sum = rank === 0 ? await gather() : await give();
  console.log(`rank ${rank}: the ranks of ${WORLD_SIZE} add up to ${sum}`);
  const file = path.join(DIR!, `${rank}.${TORCHELASTIC_RESTART_COUNT}`);
  writeFileSync(`${file}.new`, `${process.pid} ${child ?? ""}`);
  renameSync(`${file}.new`, file); // whoever sees it finds it whole
  const { fail } = Object.fromEntries(options);
  if (fail === "all" || (fail === RANK && isFirst)) {
    console.error(`rank ${rank} has bad luck`);
    process.exit(fail === "all" ? 4 : 3);
  }
  await work();
  process.exit(0);
}

async function work(): Promise<void> {
  const hangs = options.get("hang");
  const isFrozen = isFirst && hangs === RANK;
  const steps = isFirst && hangs !== undefined ? Number.POSITIVE_INFINITY : Number(options.get("steps") ?? 0);
  for (let step = 1; step <= steps; step++) {
    await sleep(50);
    if (isFrozen && step > 3) process.kill(process.pid, "SIGSTOP");
    writeFileSync(GOKU_HEARTBEAT_FILE!, JSON.stringify({ step, loss: 1 / step }));
  }
}

/** Rank 0: hears every other rank's number, and tells all the sum. */
async function gather(): Promise<number> {
  const others: Socket[] = [];
  let sum = 0;
  await new Promise<void>((resolve) => {
    const server = createServer(async (socket) => {
      const number = Number(await line(socket));
      sum += number;
      others.push(socket);
      if (others.length === Number(WORLD_SIZE) - 1) server.close(() => resolve());
      if (others.length === Number(WORLD_SIZE) - 1) for (const other of others) other.end(`${sum}\n`);
    });
    server.listen(Number(MASTER_PORT), MASTER_ADDR);
  });
  return sum;
}

/** Rank 0 may listen a little later: tries again until it does. */
async function give(): Promise<number> {
  for (;;) {
    const socket = connect(Number(MASTER_PORT), MASTER_ADDR);
    const isThere = await new Promise<boolean>((resolve) => {
      socket.once("connect", () => resolve(true));
      socket.once("error", () => resolve(false));
    });
    if (!isThere) {
      await sleep(20);
      continue;
    }
    socket.write(`${rank}\n`);
    return Number(await line(socket));
  }
}

async function line(socket: Socket): Promise<string> {
  for await (const text of createInterface({ input: socket })) return text;
  throw new Error("the other side has gone");
}

void main();
