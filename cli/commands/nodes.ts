import type { Command } from "commander";
import { nodeJson } from "../../controller/api/json.js";
import type { NodeStatus } from "../../gen/goku/v1/controller.pb.js";
import { withController } from "../context.js";
import { duration, show, table } from "../output.js";

export function addNodesCommand(program: Command): void {
  const nodes = program
    .command("nodes")
    .description("list nodes: slots, job, ranks and their progress, silence, why one is not used")
    .addHelpText("after", "\nExample:\n  gokuctl nodes --json | jq '.nodes[] | select(.connected | not)'")
    .action(list);
  nodes
    .command("release")
    .description("use a quarantined node again, once what could not be ended there is gone")
    .argument("<node>", "its name in: gokuctl nodes")
    .addHelpText("after", "\nExample:\n  gokuctl nodes release node-b")
    .action(release);
}

function list(_options: object, command: Command): Promise<void> {
  return withController(command, async (client, output) => {
    const { nodes } = await client.call("listNodes", {});
    show(output, { nodes: nodes.map(nodeJson) }, () => nodesText(nodes));
  });
}

function release(nodeId: string, _options: object, command: Command): Promise<void> {
  return withController(command, async (client, output) => {
    await client.call("releaseNode", { nodeId });
    show(output, { node_id: nodeId, quarantined: false }, () => `${nodeId} may be used again`);
  });
}

function nodesText(nodes: NodeStatus[]): string {
  const rows = nodes.map((node) => [
    node.nodeId,
    `${node.connected ? "connected" : "unreachable"}${node.unusable === "" ? "" : `, ${node.unusable}`}`,
    node.slots,
    node.device,
    node.failureDomain || "-",
    node.job || "-",
    node.ranks.map((rank) => `${rank.rank}:${rank.phase}@${rank.step}`).join(" ") || "-",
    `${duration(node.silentSeconds)} ago`,
    node.heldStates.length === 0
      ? "-"
      : `step ${Math.max(...node.heldStates.map((held) => Number(held.state?.step ?? 0n)))}`,
  ]);
  const text = table(
    ["NODE", "STATE", "SLOTS", "DEVICE", "DOMAIN", "JOB", "RANKS", "HEARD", "SNAPSHOTS"],
    rows,
  );
  const bad = nodes.find((node) => node.quarantined);
  if (bad === undefined) return text;
  return `${text}\nA quarantined node is used again after: gokuctl nodes release ${bad.nodeId}`;
}
