import type { Incident } from "../../../gen/goku/v1/controller.pb.js";
import type { CellExpectation, CellFacts, CellResult, Named } from "./cell.js";
import { type ControlFacts, tellControl } from "./control_story.js";
import type { LogLine } from "./member_logs.js";
import { nameCulprit, namedText } from "./name_culprit.js";
import { type TrainingSeen, trainingText } from "./page_watch.js";

/** What was told and seen around a fault. */
export interface Told {
  events: readonly { kind: string; message: string; timeMs: number }[];
  steps: readonly { generation: number; wallMs: number }[];
  struckAtMs: number;
  /** From the fault to the end of it, as the pages show it. */
  training: TrainingSeen;
  /** Null: the fault is in training or its nodes. */
  control: ControlFacts | null;
}

/** Clocks of one machine, read by different processes. */
const SAME_TIME_MS = 5;

/** The columns of a cell, from the product's own records and from what was seen. Pure. */
export function describeCell(
  facts: CellFacts,
  expected: CellExpectation,
  told: Told,
): Pick<CellResult, "detected" | "localised" | "recovered" | "stepsLost" | "losses"> {
  const found = detected(facts, told);
  const decided = expected.quiet
    ? { by: trainingText(told.training), seconds: null }
    : recovered(facts, told);
  const control = told.control === null ? null : tellControl(told.control);
  return {
    detected: control === null ? found : inTurn(control.detected, found),
    localised: namedText(facts.named) || (expected.culprit.kind === "nothing" ? "nobody" : ""),
    recovered:
      control === null ? decided : expected.quiet ? control.recovered : inTurn(decided, control.recovered),
    stepsLost: lostSteps(facts),
    losses: lossText(facts, expected),
  };
}

/** One after the other; the time is the first one's. */
function inTurn(one: CellResult["detected"], other: CellResult["detected"]): CellResult["detected"] {
  const by = [one.by, other.by].filter((text) => text !== "").join("; ");
  return { by, seconds: one.seconds ?? other.seconds };
}

/** Whom the records name for what struck then. Pure. */
export function namedIn(
  { incidents }: Pick<CellFacts, "incidents">,
  told: Pick<Told, "events" | "struckAtMs">,
  lines: readonly LogLine[],
): Named {
  const opened = openedSince(incidents, told.struckAtMs);
  const formed = decisions(incidents.at(-1)).findLast((text) => text.startsWith("form generation"));
  const news = opened.length > 0 ? "" : (firstNews(told)?.message ?? "");
  return nameCulprit({ incidents: opened, news, formed: formed ?? "", lines });
}

function openedSince(incidents: readonly Incident[], struckAtMs: number): Incident[] {
  return incidents.filter(({ detectedAt }) => (detectedAt?.getTime() ?? 0) >= struckAtMs - SAME_TIME_MS);
}

/** Another fault's incident may be open already; then what was told after the strike is what counts. */
function detected({ incidents }: CellFacts, told: Told): CellResult["detected"] {
  const since = (ms: number) => (ms - told.struckAtMs) / 1000;
  const [incident] = openedSince(incidents, told.struckAtMs);
  if (incident !== undefined)
    return { by: `${incident.code}: ${incident.what}`, seconds: since(incident.detectedAt!.getTime()) };
  const first = firstNews(told);
  return first === undefined
    ? { by: "", seconds: null }
    : { by: first.message, seconds: since(first.timeMs) };
}

function firstNews({ events, struckAtMs }: Pick<Told, "events" | "struckAtMs">) {
  return events.find(
    ({ kind, message, timeMs }) => !ROUTINE_KINDS.has(kind) && timeMs >= struckAtMs && !isRoutine(message),
  );
}

const ROUTINE_KINDS = new Set(["step", "audit", "replica"]);

/** Events of a run that nothing disturbs, and the end of an earlier fault. */
function isRoutine(message: string): boolean {
  return /^(?:generation \d+ (trains|restores)|forming generation|step \d+ of generation \d+ is durable|completed|all steps are done|gradient norm|loss of step|recovered in|node-\w (joined|passed|is free again)|[-0-9a-f]{36} leads)/i.test(
    message,
  );
}

function decisions(incident: Incident | undefined): string[] {
  return (incident?.decision ?? "").split("; ");
}

function recovered({ incidents, generationStruck }: CellFacts, told: Told): CellResult["recovered"] {
  const incident =
    incidents.findLast(({ generationBefore }) => Number(generationBefore) >= generationStruck) ??
    incidents.at(-1);
  const first = told.steps.find(({ generation }) => generation > generationStruck);
  const seconds = first === undefined ? null : (first.wallMs - told.struckAtMs) / 1000;
  // Of several attempts the last; a state is named with its reason, which may hold the separator itself.
  const last = (beginning: string) => decisions(incident).findLast((text) => text.startsWith(beginning));
  const by = [last("form generation"), last("restore ")].filter((text) => text !== undefined);
  return { by: by.join("; "), seconds };
}

/** Steps that every rank had completed, as told or as seen on their pages, and that a later generation computed again. */
function lostSteps({ generations, seen }: CellFacts): number {
  const done = (until: number) =>
    Math.max(
      0,
      ...generations.filter(({ number }) => number < until).map(({ last }) => last),
      ...seen.filter(({ number }) => number < until).map(({ step }) => step),
    );
  return generations
    .slice(1)
    .reduce((sum, { number, first }) => sum + Math.max(0, done(number) - (first - 1)), 0);
}

function lossText({ losses }: CellFacts, expected: CellExpectation): string {
  const off = [...losses].map(([step, loss]) => {
    const wanted = expected.losses.get(step);
    return loss === wanted ? 0 : Math.abs(loss / (wanted ?? Number.NaN) - 1);
  });
  if (off.every((one) => one === 0)) return "same bits";
  const most = Math.max(...off);
  return most <= expected.tolerance ? `within ${expected.tolerance}` : "differ";
}
