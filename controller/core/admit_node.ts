import type { NodeHello } from "./wire.js";

export type Admission =
  | { kind: "admit"; change: "new" | "returned" | "replaced"; reason: string }
  | { kind: "refuse"; code: "STATE_INVALID"; reason: string };

/**
 * Whether an agent may serve. `replaced`: another process of the same node was known, so what ran there is gone.
 * @param known incarnation last seen on that node; null: never seen by this leader
 */
export function admitNode(options: {
  hello: Pick<NodeHello, "nodeId" | "incarnation" | "version" | "slots">;
  known: string | null;
  controllerVersion: string;
}): Admission {
  const { hello, known, controllerVersion } = options;
  const wanted = majorOf(controllerVersion);
  if (majorOf(hello.version) !== wanted) {
    return {
      kind: "refuse",
      code: "STATE_INVALID",
      reason: `Cannot admit node ${hello.nodeId}: its version is "${hello.version}", this controller is ${controllerVersion}, install the same major version`,
    };
  }
  const slots = `${hello.slots} ${hello.slots === 1 ? "slot" : "slots"}`;
  if (known === null) return { kind: "admit", change: "new", reason: `${hello.nodeId} joined with ${slots}` };
  if (known === hello.incarnation)
    return { kind: "admit", change: "returned", reason: `${hello.nodeId} is back` };
  return {
    kind: "admit",
    change: "replaced",
    reason: `${hello.nodeId} is back as another process (agent restarted) with ${slots}`,
  };
}

function majorOf(version: string): string {
  return /^(\d+)\./.exec(version)?.[1] ?? version;
}
