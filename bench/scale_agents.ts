/** A process of simulated agents, told over IPC what happens to them. Started by scale_processes.ts. */
import { type FleetOptions, SimulatedFleet } from "../test/support/simulated_fleet.js";

export type ToAgents =
  | { kind: "start"; options: FleetOptions }
  /** The world's last applied step; sent once a second by whoever holds the clock. */
  | { kind: "step"; step: number }
  | { kind: "answers"; answers: boolean }
  | { kind: "lose"; nodeId: string }
  | { kind: "restart"; nodeId: string }
  | { kind: "peerDied"; peer: number }
  | { kind: "kill"; rank: number }
  /** Asks for an answer once so many agents are there. */
  | { kind: "until"; what: "welcomed"; count: number }
  | { kind: "until"; what: "prepared" | "running"; after: number; count: number };

export type FromAgents = { kind: "done"; ranks: number[]; generation: number };

let fleet: SimulatedFleet | null = null;

async function obey(order: ToAgents): Promise<FromAgents> {
  if (order.kind === "start") {
    fleet = new SimulatedFleet(order.options);
    await fleet.start();
  }
  const agents = fleet!;
  let ranks: number[] = [];
  switch (order.kind) {
    case "start":
      break;
    case "step":
      agents.step = order.step;
      break;
    case "answers":
      agents.answers = order.answers;
      break;
    case "lose":
      if (agents.agents.has(order.nodeId)) ranks = agents.lose(order.nodeId);
      break;
    case "restart":
      agents.agents.get(order.nodeId)?.start();
      break;
    case "peerDied":
      agents.peerDied(order.peer);
      break;
    case "kill":
      for (const agent of agents.agents.values()) agent.kill(order.rank);
      break;
    case "until":
      await agents.until(() => isReached(agents, order));
      break;
  }
  const generation = Math.max(...[...agents.agents.values()].map((agent) => agent.generation));
  return { kind: "done", ranks, generation };
}

function isReached(agents: SimulatedFleet, order: Extract<ToAgents, { kind: "until" }>): boolean {
  if (order.what === "welcomed") return agents.countWelcomed() >= order.count;
  return agents.countIn(order.what, order.after) >= order.count;
}

process.on("message", (order: ToAgents) => void obey(order).then((answer) => process.send!(answer)));
process.once("disconnect", () => process.exit());
