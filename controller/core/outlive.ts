import { armSooner, log, RECONSIDER_TIMER, type Turn } from "./turn.js";

/** A process that is to end has so long after its grace, since the platform's clock is another one and its kill takes time. */
const LATE_MS = 10_000;

/**
 * The platform may have told late, and of a process that had been replaced by then. One that goes on past its end was not meant:
 * it serves again. What an agent says of itself stays, as it stops taking work.
 */
export function outliveFates(turn: Turn): void {
  for (const node of turn.state.nodes.values()) {
    if (node.leaving === null || node.leaving.by !== "platform") continue;
    const overMs = node.leaving.untilMs + LATE_MS;
    if (turn.nowMs < overMs) armSooner(turn, RECONSIDER_TIMER, overMs);
    else if (node.session !== null) {
      const text = `${node.nodeId} goes on after the end that was told of it (${node.leaving.reason}): it may be used again`;
      node.leaving = null;
      log(turn, { level: "info", type: "node", nodeId: node.nodeId, text });
    }
  }
}
