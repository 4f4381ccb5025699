import type { Command } from "commander";
import { nodeJson } from "../../controller/api/json.js";
import { withController } from "../context.js";
import { nodesText } from "../format_nodes.js";
import { show } from "../output.js";

export function addNodesCommand(program: Command): void {
  const nodes = program
    .command("nodes")
    .description("list nodes: slots, job, ranks and their progress, silence, why one is not used")
    .addHelpText("after", "\nExample:\n  gokuctl nodes --json | jq '.nodes[] | select(.connected | not)'")
    .action(list);
  nodes
    .command("release")
    .description("use a node again that is quarantined, or that jobs avoid, once its cause is gone")
    .argument("<node>", "its name in: gokuctl nodes")
    .addHelpText("after", "\nExample:\n  gokuctl nodes release node-b")
    .action(release);
  nodes
    .command("drain")
    .description(
      "give a node no ranks any more; a job that trains there saves at its next step and goes on elsewhere",
    )
    .argument("<node>", "its name in: gokuctl nodes")
    .addHelpText(
      "after",
      "\nExample:\n  gokuctl nodes drain node-b   # and later: gokuctl nodes release node-b",
    )
    .action(drain);
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

function drain(nodeId: string, _options: object, command: Command): Promise<void> {
  return withController(command, async (client, output) => {
    await client.call("drainNode", { nodeId });
    show(output, { node_id: nodeId, quarantined: true, drained: true }, () => {
      return `${nodeId} gets no ranks any more; use it again with: gokuctl nodes release ${nodeId}`;
    });
  });
}
