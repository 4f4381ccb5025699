import { type Family, familyMembers } from "../program/process_family.js";
import { stateText } from "./state_text.js";

/**
 * What the processes of a program do, as the kernel sees them: a program of the user's is asked nothing, since a signal it
 * does not expect would end it. What is gone has no line.
 */
export function inspectProgram(family: Family): string[] {
  return familyMembers(family).map((stat) => `process ${stat.pid} (${stat.name}): ${stateText(stat)}`);
}
