import type { CellExpectation, CellFacts } from "./cell.js";
import { misnamed } from "./name_culprit.js";

/** Grows when cells are judged by more: 2 judges whom they name, and nodes in every generation. */
export const RULES = 2;

/** What is wrong with how a cell ended; empty: nothing. Pure. */
export function judgeCell(facts: CellFacts, expected: CellExpectation): string[] {
  const failures: string[] = [];
  if (facts.phase !== "COMPLETED") failures.push(`the job ended ${facts.phase}: ${facts.reason}`);
  failures.push(...wrongLosses(facts, expected));
  failures.push(...lostSteps(facts));
  failures.push(...evicted(facts, expected));
  if (expected.quiet) failures.push(...disturbed(facts));
  const wrong = misnamed(facts.named, expected.culprit, facts.nodesBefore);
  if (wrong !== null) failures.push(wrong);
  const codes = facts.incidents.map(({ code }) => code);
  if (expected.code !== null && !codes.includes(expected.code))
    failures.push(`incidents are ${codes.join(", ") || "none"}, want ${expected.code}`);
  return failures;
}

function wrongLosses(facts: CellFacts, expected: CellExpectation): string[] {
  const wrong = [...facts.losses].filter(
    ([step, loss]) => !(offBy(loss, expected.losses.get(step)) <= expected.tolerance),
  );
  const told = wrong
    .slice(0, 3)
    .map(([step, loss]) => `step ${step}: loss ${loss}, undisturbed ${expected.losses.get(step)}`);
  const untold = facts.stepsTotal - facts.losses.size;
  if (facts.phase === "COMPLETED" && untold > expected.untoldMax)
    told.push(`${untold} of ${facts.stepsTotal} steps were never told`);
  return told;
}

/** Relative; NaN where there is nothing to compare with, so that no limit holds. */
function offBy(loss: number, wanted: number | undefined): number {
  if (wanted === undefined) return Number.NaN;
  return loss === wanted ? 0 : Math.abs(loss / wanted - 1);
}

/** What the fault left must be what training goes on from, and no later generation may go back behind it. */
function lostSteps({ generations, generationStruck, copyLeft }: CellFacts): string[] {
  const { step, where } = copyLeft;
  const behind = generations.find(({ number, first }) => number > generationStruck && first - 1 < step);
  if (behind === undefined) return [];
  return [
    `training went on from step ${behind.first - 1}, the newest copy left is of step ${step} (${where})`,
  ];
}

/** By where ranks were seen, in each generation that trained since. */
function evicted(facts: CellFacts, expected: CellExpectation): string[] {
  const last = facts.generations.at(-1)?.number;
  if (last !== undefined && !facts.seen.some(({ number }) => number === last))
    return [`no pages of generation ${last} were seen: nobody knows which nodes it had`];
  const later = facts.seen.filter(
    ({ number }) =>
      number > facts.generationStruck && facts.generations.some((trained) => trained.number === number),
  );
  const gone = later.flatMap(({ nodes }) => facts.nodesBefore.filter((node) => !nodes.includes(node)));
  const lost = [...new Set([...gone, ...facts.shunned])];
  const innocent = lost.filter((node) => !expected.harmed.includes(node));
  const failures = innocent.map((node) => `${node} lost its ranks, and nothing was wrong with it`);
  if (lost.length - innocent.length > expected.replacedMax)
    failures.push(
      `${lost.join(" and ")} lost their ranks, of which ${expected.replacedMax} would have been enough`,
    );
  return failures;
}

function disturbed({ generations, seen, generationStruck, incidents }: CellFacts): string[] {
  const later = [...generations, ...seen].filter(({ number }) => number > generationStruck);
  const caused = incidents.filter(({ generationBefore }) => Number(generationBefore) >= generationStruck);
  if (later.length === 0 && caused.length === 0) return [];
  const what = caused.map((incident) => incident.what).join("; ");
  return [
    `training was interrupted, though nothing was wrong with it: ${what || `generation ${later[0]?.number}`}`,
  ];
}
