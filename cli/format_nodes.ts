import type { NodeStatus } from "../gen/goku/v1/controller.pb.js";
import { duration, table } from "./output.js";

/** Signs shown of each node; --json has all that are kept. */
const SIGNALS_COUNT_MAX = 3;
const NAMES_COUNT_MAX = 8;

export function nodesText(nodes: NodeStatus[]): string {
  const rows = nodes.map((node) => [
    node.nodeId,
    stateText(node),
    node.slots,
    devicesText(node),
    node.failureDomain || "-",
    node.job || "-",
    checkText(node),
    node.ranks.map((rank) => `${rank.rank}:${rank.phase}@${rank.step}`).join(" ") || "-",
    `${duration(node.silentSeconds)} ago`,
    node.heldStates.length === 0
      ? "-"
      : `step ${Math.max(...node.heldStates.map((held) => Number(held.state?.step ?? 0n)))}`,
  ]);
  const text = table(
    ["NODE", "STATE", "SLOTS", "DEVICE", "DOMAIN", "JOB", "CHECKS", "RANKS", "HEARD", "SNAPSHOTS"],
    rows,
  );
  const quarantined = nodes.filter((node) => node.quarantined).map(quarantineText);
  const told = [...nodes.flatMap(signalTexts), ...unwatchedTexts(nodes)];
  return [text, ...quarantined, ...nodes.flatMap(avoidedTexts), ...told].join("\n");
}

/** For example "cuda: 8 x NVIDIA H200". */
function devicesText({ device, devices }: NodeStatus): string {
  const counts = new Map<string, number>();
  for (const { name } of devices) counts.set(name, (counts.get(name) ?? 0) + 1);
  const found = [...counts].map(([name, count]) => `${count} x ${name}`).join(", ");
  return found === "" ? device : `${device}: ${found}`;
}

/** Why a node is quarantined can be long, and has a line of its own. */
function stateText({ connected, unusable, quarantined, drained }: NodeStatus): string {
  const what = drained ? "drained" : quarantined ? "quarantined" : unusable;
  return `${connected ? "connected" : "unreachable"}${what === "" ? "" : `, ${what}`}`;
}

function quarantineText({ nodeId, unusable, quarantinedUntil: until }: NodeStatus): string {
  const otherwise =
    until === undefined ? "" : `, or when it passes its self-checks after ${until.toISOString()}`;
  return `${nodeId} is ${unusable}\n  it is used again after: gokuctl nodes release ${nodeId}${otherwise}`;
}

function avoidedTexts({ avoided }: NodeStatus): string[] {
  return avoided.map(
    ({ job, nodeId, reason, until }) =>
      `${nodeId} is avoided by job ${job}: ${reason}\n  it is used like any other after ${until?.toISOString()}, when it passes: gokuctl diagnose ${nodeId}, or after: gokuctl nodes release ${nodeId}`,
  );
}

/** What ranks wrote is in the evidence of their incidents. */
function signalTexts({ nodeId, signals }: NodeStatus): string[] {
  return signals
    .filter(({ kind }) => !kind.startsWith("log."))
    .slice(0, SIGNALS_COUNT_MAX)
    .map(({ kind, device, text, count, meaning, at }) => {
      const about = device === "" ? "" : ` ${device}`;
      const often = count > 1 ? `, ${count} times` : "";
      return `${nodeId} told at ${at?.toISOString()}${often}: ${kind}${about}: ${meaning}\n  ${text}`;
    });
}

/** Most nodes of a cluster lack the same: once, with their names. */
function unwatchedTexts(nodes: readonly NodeStatus[]): string[] {
  const names = new Map<string, string[]>();
  for (const { nodeId, unwatched } of nodes)
    for (const what of unwatched) names.set(what, [...(names.get(what) ?? []), nodeId]);
  return [...names].map(([what, ids]) => {
    const more = ids.length - NAMES_COUNT_MAX;
    const who = ids.slice(0, NAMES_COUNT_MAX).join(", ") + (more > 0 ? ` and ${more} more` : "");
    return `not watched on ${who}: ${what}`;
  });
}

/** Where its self-checks stand, and which of them are not ok. */
function checkText({ selfCheck, checks }: NodeStatus): string {
  const bad = checks
    .filter(({ verdict }) => verdict !== "ok")
    .map(({ result }) => `${result?.name ?? ""}${result?.device ? ` of device ${result.device.index}` : ""}`);
  if (selfCheck === "") return "-";
  return bad.length === 0 ? selfCheck : `${selfCheck}: ${bad.join(", ")}`;
}
