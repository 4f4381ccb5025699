import { readFileSync, writeFileSync } from "node:fs";

/**
 * Loaded into a process before its own code (`node --import`): its wall clock shows what the file GOKU_TEST_CLOCK says, in
 * milliseconds beside the true time, from the moment at which that is written; a file beside it then says so. Monotonic clocks go on as they are, as when a
 * machine's time is set.
 */
const file = process.env.GOKU_TEST_CLOCK!;
const LOOK_MS = 20;

let shiftMs = 0;
setInterval(() => {
  try {
    const wantedMs = Number(readFileSync(file, "utf8"));
    if (wantedMs === shiftMs) return;
    shiftMs = wantedMs;
    writeFileSync(`${file}.seen`, String(Date.now() - TrueDate.now()));
  } catch {
    // not written yet
  }
}, LOOK_MS).unref();

const TrueDate = Date;
const nowMs = () => TrueDate.now() + shiftMs;

globalThis.Date = new Proxy(TrueDate, {
  construct: (target, args: [], shifted) =>
    Reflect.construct(target, args.length === 0 ? [nowMs()] : args, shifted),
  apply: () => new TrueDate(nowMs()).toString(),
  get: (target, name, receiver) => (name === "now" ? nowMs : Reflect.get(target, name, receiver)),
});
