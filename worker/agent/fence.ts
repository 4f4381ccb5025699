/** What an agent has obeyed last. Zero: nothing yet. */
export interface Fence {
  /** Term of the newest leader obeyed. */
  term: bigint;
  /** Newest command of that term. */
  commandId: bigint;
  /** Newest generation prepared. */
  generation: bigint;
}

export interface FencedCommand {
  term: bigint;
  commandId: bigint;
  /** "prepare" opens a generation; "within" acts in one; "until" acts on it and older ones; "none" names none. */
  scope: "prepare" | "within" | "until" | "none";
  generation: bigint;
}

export type FenceVerdict =
  | { kind: "obey"; fence: Fence }
  /** Older than what was obeyed, or a repeat of it: harmless, nothing happens. */
  | { kind: "ignore"; reason: string };

/**
 * Whether a command of a controller is obeyed, and the fence after it. A lower term is a deposed leader; a command id
 * that was seen is a repeat; a generation older than the one prepared is over. A command within a generation that was
 * never prepared here cannot be carried out: the controller repeats its commands, Prepare first, after every Hello.
 */
export function judgeCommand(fence: Fence, command: FencedCommand): FenceVerdict {
  const { term, commandId, generation, scope } = command;
  if (term < fence.term)
    return { kind: "ignore", reason: `term ${term} is over, term ${fence.term} was obeyed` };
  if (term === fence.term && commandId <= fence.commandId)
    return { kind: "ignore", reason: `command ${commandId} is a repeat, ${fence.commandId} was obeyed` };
  const seen = { ...fence, term, commandId };
  if (scope === "prepare") {
    if (generation < fence.generation) return stale(generation, fence);
    return { kind: "obey", fence: { ...seen, generation } };
  }
  if (scope === "within" && generation !== fence.generation) return stale(generation, fence);
  if (scope === "until" && generation < fence.generation) return stale(generation, fence);
  return { kind: "obey", fence: seen };
}

function stale(generation: bigint, fence: Fence): FenceVerdict {
  return {
    kind: "ignore",
    reason: `generation ${generation} is not the one prepared here, ${fence.generation}`,
  };
}
