import { codeVersion } from "../../job/version.js";
import type { CommId, Native } from "../engine/native.js";
import { differentFacts } from "./verify_groups.js";

/**
 * What computes the states of a generation, the same on all ranks, whose states would else be of different runs. Programs
 * may be built anew while a job runs and one of its ranks starts again: "0.1.0+mixed". Every rank of the world calls it.
 */
export function agreeCodeVersion(
  native: Native,
  world: CommId | null,
  own: { version: string; revision: string | null },
): string {
  const fact = { name: "revision", digest: String(own.revision) };
  const isMixed = differentFacts(native, world, [fact]).length > 0;
  return isMixed ? `${own.version}+mixed` : codeVersion(own.version, own.revision);
}
