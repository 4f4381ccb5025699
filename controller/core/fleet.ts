import { type FleetMedians, type FleetNode, fleetMedians } from "./judge_checks.js";
import type { CoreState } from "./state.js";

/** What nodes are compared with: the newest readings of all, those that cannot be reached now included. */
export function medians(state: CoreState): FleetMedians {
  return fleetMedians([...state.nodes.keys()].flatMap((nodeId) => fleetNode(state, nodeId) ?? []));
}

/** So many readings in each of which one is new move no median far. */
const STALE_PER_NEW = 100;

/**
 * What one more node that was examined is compared with. Of a fleet of more than a hundred the medians are not worked
 * out anew for each: thousands of nodes may join at the same time.
 */
export function mediansFor(state: CoreState): FleetMedians {
  const { fleet } = state;
  if (fleet !== null && (fleet.uses + 1) * STALE_PER_NEW <= state.nodes.size) {
    fleet.uses += 1;
    return fleet.medians;
  }
  state.fleet = { medians: medians(state), uses: 0 };
  return state.fleet.medians;
}

/** A node with its newest readings; null: it has not come since this leader was elected. */
export function fleetNode({ nodes, health }: CoreState, nodeId: string): FleetNode | null {
  const node = nodes.get(nodeId);
  const found = health.get(nodeId);
  if (node === undefined || found === undefined) return null;
  return { nodeId, machine: node.machine, device: node.device, readings: found.readings };
}
