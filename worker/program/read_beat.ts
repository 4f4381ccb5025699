/** What a heartbeat tells; null: nothing of that. */
export interface Beat {
  /** Last optimizer step that is done. */
  step: number | null;
  loss: number | null;
}

/**
 * A heartbeat from its text: empty, or JSON such as {"step": 12, "loss": 1.2}, other keys ignored. Null: it is neither,
 * for example half written. Pure.
 */
export function readBeat(text: string): Beat | null {
  if (text.trim() === "") return { step: null, loss: null };
  let found: unknown;
  try {
    found = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof found !== "object" || found === null || Array.isArray(found)) return null;
  const { step = null, loss = null } = found as { step?: unknown; loss?: unknown };
  if (step !== null && !(Number.isSafeInteger(step) && (step as number) >= 0)) return null;
  if (loss !== null && typeof loss !== "number") return null;
  return { step: step as number | null, loss };
}
