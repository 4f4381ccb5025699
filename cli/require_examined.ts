import type { Diagnosis } from "../gen/goku/v1/controller.pb.js";
import { GokuError } from "../job/errors.js";

/** A diagnosis that examined nothing says nothing good of the nodes. Throws NOT_FOUND. */
export function requireExamined({ nodes }: Diagnosis): void {
  if (nodes.some(({ verdict }) => verdict !== "skipped")) return;
  const found = nodes.length === 0 ? "no node has come" : `skipped ${nodes.length} of ${nodes.length} nodes`;
  throw new GokuError(
    "NOT_FOUND",
    `Cannot diagnose nodes: ${found}, want one that is connected and free, see gokuctl nodes`,
  );
}
