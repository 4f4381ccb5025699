import type { CommEndpoint } from "../engine/native.js";
import type { ToRank } from "../rank_messages.js";
import { FAMILY_VARIABLE } from "./process_family.js";
import { memberVariables, placeVariables } from "./torchrun_environment.js";

export type ProgramPlace = Extract<ToRank, { kind: "prepareProgram" }>;

/** Variables of an agent that are no program's business: where its credentials are, how threads of our ranks share cores. */
function isPassedOn(name: string): boolean {
  if (name.startsWith("GOKU_")) return name === FAMILY_VARIABLE;
  return name !== "OMP_WAIT_POLICY" && name !== "OMP_DYNAMIC";
}

/**
 * The environment of a program: the agent's, what torchrun would set, what we add, and last what the job sets itself.
 * Pure.
 */
export function programEnvironment(options: {
  inherited: Readonly<Record<string, string | undefined>>;
  place: ProgramPlace;
  members: readonly CommEndpoint[];
  heartbeatUrl: string;
}): Record<string, string> {
  const { inherited, place, members, heartbeatUrl } = options;
  const { job, generation, heartbeatFile, stepHighest, threads, nodeId } = place;
  const passed = Object.entries(inherited).filter(
    (entry): entry is [string, string] => entry[1] !== undefined && isPassedOn(entry[0]),
  );
  const group = memberVariables(members, nodeId);
  return {
    PYTHONUNBUFFERED: "1", // so that the last lines before a crash are seen
    ...Object.fromEntries(passed),
    OMP_NUM_THREADS: String(threads),
    ...placeVariables({ ...place, maxRestarts: job.recovery.max_attempts }),
    ...group,
    NODE_RANK: group.GROUP_RANK!,
    // Rank 0 of PyTorch's env:// opens the store at MASTER_PORT itself.
    TORCHELASTIC_USE_AGENT_STORE: "False",
    GOKU_JOB: job.name,
    GOKU_GENERATION: generation,
    GOKU_LAST_STEP: String(stepHighest),
    GOKU_HEARTBEAT_FILE: heartbeatFile,
    GOKU_HEARTBEAT_URL: heartbeatUrl,
    ...job.trainer.env,
  };
}
