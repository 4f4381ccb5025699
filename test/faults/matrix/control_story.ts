import type { CellResult } from "./cell.js";
import type { LogLine } from "./member_logs.js";
import { isController, isOfStore, isTakeover, LEADS, missController } from "./name_culprit.js";
import { type TrainingSeen, trainingText } from "./page_watch.js";

/** A fault beside training, as it was seen from outside. */
export interface ControlFacts {
  what: "controller" | "leader" | "etcd" | "clock";
  struckAtMs: number;
  /** When what was taken was given back; null: it was not. */
  returnedAtMs: number | null;
  agentCount: number;
  /** Of all members, from the fault on. */
  lines: readonly LogLine[];
  /** When nobody answered who asked for the job, each until somebody did. */
  gaps: readonly { fromMs: number; toMs: number }[];
  /** When a member of etcd led that had not before; null: not waited for. */
  electedAtMs: number | null;
  /** From the fault to the end of it. */
  training: TrainingSeen;
  /** Whether it went on all the while. */
  quiet: boolean;
}

/** Who noticed, who took over, and when somebody answered again. Pure. */
export function tellControl(facts: ControlFacts): Pick<CellResult, "detected" | "recovered"> {
  switch (facts.what) {
    case "controller":
      return {
        detected: agentsMiss(facts),
        recovered: recovered(facts, [restart(facts), agentsBack(facts)]),
      };
    case "leader":
      return {
        detected: standbyLeads(facts),
        recovered: recovered(facts, [agentsBack(facts), deposed(facts)]),
      };
    case "etcd":
      return {
        detected: storeMissed(facts),
        recovered: recovered(facts, [election(facts), leadership(facts)]),
      };
    case "clock":
      return {
        detected: { by: "nobody, as it must be: nothing is decided by the time of day", seconds: null },
        recovered: recovered(facts, []),
      };
  }
}

const after = (fromMs: number, atMs: number) => Math.max(0, atMs - fromMs) / 1000;
const secondsText = (seconds: number) => `${seconds.toFixed(1)} s`;

function agentsMiss({ lines, struckAtMs, agentCount }: ControlFacts): CellResult["detected"] {
  const missing = missController(lines);
  const [first] = missing;
  if (first === undefined) return { by: "", seconds: null };
  const last = secondsText(after(struckAtMs, missing.at(-1)!.timeMs));
  const by = `agents, by their stream: ${missing.length} of ${agentCount} lost it, the last after ${last} (${first.reason})`;
  return { by, seconds: after(struckAtMs, first.timeMs) };
}

function standbyLeads(facts: ControlFacts): CellResult["detected"] {
  const gained = facts.lines.find(isTakeover);
  if (gained === undefined) return { by: "", seconds: null };
  const by = `the standby, by the lease that ran out: ${gained.member} leads ${LEADS.exec(gained.text)![1]}`;
  return { by, seconds: after(facts.struckAtMs, gained.timeMs) };
}

function storeMissed({ lines, struckAtMs, electedAtMs }: ControlFacts): CellResult["detected"] {
  const missed = lines.find(isOfStore) ?? lines.find(gaveUp);
  if (missed !== undefined)
    return { by: `the controller: ${missed.text}`, seconds: after(struckAtMs, missed.timeMs) };
  if (electedAtMs === null) return { by: "", seconds: null };
  return {
    by: "the other members of etcd, which elect another leader",
    seconds: after(struckAtMs, electedAtMs),
  };
}

function gaveUp({ member, text }: LogLine): boolean {
  return isController(member) && text.startsWith("leadership lost");
}

function gained({ lines }: ControlFacts): LogLine | undefined {
  return lines.findLast(({ member, text }) => isController(member) && LEADS.test(text));
}

function restart(facts: ControlFacts): string {
  const { returnedAtMs, struckAtMs } = facts;
  const line = gained(facts);
  if (returnedAtMs === null || line === undefined) return "";
  const term = LEADS.exec(line.text)![1];
  return `started again after ${secondsText(after(struckAtMs, returnedAtMs))}, leads ${term} ${secondsText(after(returnedAtMs, line.timeMs))} later`;
}

function agentsBack({ lines, struckAtMs, agentCount }: ControlFacts): string {
  const found = lines.filter(({ member, text }) => !isController(member) && text === "controller found");
  const last = found.at(-1);
  if (last === undefined) return "";
  const count = new Set(found.map(({ member }) => member)).size;
  return `${count} of ${agentCount} agents are with it after ${secondsText(after(struckAtMs, last.timeMs))}`;
}

function deposed({ lines, returnedAtMs }: ControlFacts): string {
  const line = lines.findLast((one) => one.member === "controller" && gaveUp(one));
  if (line === undefined || returnedAtMs === null) return "";
  return `the deposed one gives up ${secondsText(after(returnedAtMs, line.timeMs))} after it goes on`;
}

function election({ electedAtMs, returnedAtMs, struckAtMs }: ControlFacts): string {
  if (electedAtMs === null) return "";
  const from = returnedAtMs !== null && electedAtMs >= returnedAtMs ? returnedAtMs : struckAtMs;
  const since =
    from === struckAtMs ? "" : `, ${secondsText(after(from, electedAtMs))} after the members are back`;
  return `a member of etcd leads after ${secondsText(after(struckAtMs, electedAtMs))}${since}`;
}

function leadership(facts: ControlFacts): string {
  const lost = facts.lines.find(gaveUp);
  if (lost === undefined) return "the controller kept its lease";
  const line = gained(facts);
  const again =
    line === undefined
      ? ""
      : `, leads again (${LEADS.exec(line.text)![1]}) after ${secondsText(after(facts.struckAtMs, line.timeMs))}`;
  return `the controller gave up leading after ${secondsText(after(facts.struckAtMs, lost.timeMs))}${again}`;
}

/** Training that stopped is told of by its incident. */
function recovered(facts: ControlFacts, parts: readonly string[]): CellResult["recovered"] {
  const { gaps, struckAtMs, quiet, training } = facts;
  const last = gaps.at(-1);
  const silent = gaps.reduce((sum, { fromMs, toMs }) => sum + (toMs - fromMs), 0) / 1000;
  const answers =
    last === undefined ? "it answered all the while" : `nobody answered for ${secondsText(silent)}`;
  const by = [...parts, answers, ...(quiet ? [trainingText(training)] : [])]
    .filter((part) => part !== "")
    .join("; ");
  return { by, seconds: last === undefined ? null : after(struckAtMs, last.toMs) };
}
