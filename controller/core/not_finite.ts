import { avoid } from "./avoid.js";
import { doubt } from "./doubt.js";
import { nameCulprit } from "./incident.js";
import { endJob } from "./jobs.js";
import type { Fault } from "./judge_fault.js";
import { membersInput } from "./members.js";
import { quarantineForWork } from "./quarantine.js";
import type { JobState } from "./state.js";
import { log, type Turn } from "./turn.js";

/**
 * The trainer has given up, since too many steps in a row were not finite. What its steps have shown decides:
 *   hardware   the same packs had other bits the second time, or were finite on other ranks: the job is not at fault. Its
 *              node is given up, and the job goes on without, where it can; where it is not told which, it fails for that;
 *   untold     no other rank could compute the packs: a free node tries, once; then data or weights are at fault;
 *   data       other ranks found the same: the job fails.
 * @returns whether the job may go on
 */
export function onNotFinite(turn: Turn, job: JobState, fault: Fault): boolean {
  const { bad } = job.numbers;
  const causes = new Set(bad.map(({ cause }) => cause));
  if (causes.size === 1 && causes.has("hardware")) return leaveHardware(turn, job, fault);
  if (causes.size === 1 && causes.has("untold")) return tryElsewhere(turn, job, fault);
  endJob(turn, job, { phase: "FAILED", code: fault.code, reason: fault.text });
  return false;
}

function leaveHardware(turn: Turn, job: JobState, fault: Fault): boolean {
  const { bad } = job.numbers;
  const told = bad.findLast(({ nodeId }) => nodeId !== null);
  const count = bad.length === 1 ? "the last step" : `each of the last ${bad.length} steps`;
  if (told === undefined) {
    for (const nodeId of job.generation!.nodeRanks.keys())
      doubt(turn, nodeId, "it is one of several, of which one is wrong");
    const reason = `hardware was wrong in ${count}, it is not told which: ${bad.at(-1)!.text}`;
    endJob(turn, job, { phase: "FAILED", code: "RANK_CORRUPT", reason });
    return false;
  }
  const nodeId = told.nodeId!;
  const who = told.rank === null ? nodeId : `rank ${told.rank} on ${nodeId}`;
  const what = `${who} was wrong in ${count}`;
  const { operation, lastLines } = fault;
  if (job.incident !== null)
    nameCulprit(job.incident, {
      code: "RANK_CORRUPT",
      what,
      rank: told.rank,
      nodeId,
      operation,
      lastLines: [...lastLines],
    });
  quarantineForWork(turn, nodeId, `wrong in ${count}: ${told.text}`);
  return true;
}

function tryElsewhere(turn: Turn, job: JobState, fault: Fault): boolean {
  const { numbers } = job;
  const generation = job.generation!;
  const members = [...generation.nodeRanks.keys()].sort();
  const here = members.join(", ");
  const fail = (why: string) => {
    endJob(turn, job, { phase: "FAILED", code: fault.code, reason: `${fault.text}; ${why}` });
    return false;
  };
  if (numbers.notFiniteOn.length > 0) {
    const places = [...numbers.notFiniteOn, here].map((place) => `on ${place}`).join(" and ");
    return fail(`not finite ${places}: data or weights make it so`);
  }
  const { nodes, avoid: avoided } = membersInput(turn, job);
  const free = nodes.filter(({ nodeId }) => !generation.nodeRanks.has(nodeId) && !avoided.has(nodeId));
  const slots = free.reduce((sum, node) => sum + node.slots, 0);
  for (const nodeId of members)
    doubt(turn, nodeId, "steps were not finite there, and nowhere else were they tried");
  if (slots < generation.layout.worldSize)
    return fail(`or a device of ${here} is always wrong: no other node was free to compute it on`);
  numbers.notFiniteOn.push(here);
  const why = "its steps were not finite, which no other rank could compute";
  for (const nodeId of members) avoid(turn, job, nodeId, why);
  return true;
}

/** A step is finite: where it was computed elsewhere before, that tells what was at fault there. */
export function onFiniteAgain(turn: Turn, job: JobState): void {
  const { numbers, record } = job;
  numbers.bad = [];
  if (numbers.notFiniteOn.length === 0) return;
  const text = `steps are finite that were not on ${numbers.notFiniteOn.join(", ")}: a device there is suspected, it is avoided`;
  numbers.notFiniteOn = [];
  log(turn, { level: "alarm", type: "numbers", jobId: record.jobId, text });
}
