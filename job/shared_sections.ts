/** Parts of the job file that a job of our model and one with a program of its own have in common. */
import { z } from "zod";
import { DEVICES } from "./device.js";
import { oneOf, positive, text, wholeFrom } from "./wanted.js";

const count = wholeFrom(1);
const NAME_WANTED = "1 to 63 of a-z, 0-9 and '-', with no '-' at the ends";

export const nameSchema = text(NAME_WANTED).regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, {
  error: NAME_WANTED,
});

export const deviceSchema = oneOf("auto", ...DEVICES).default("auto");

export const layoutSchema = z.union(
  [
    z.literal("auto"),
    z.strictObject({ dp_replicate: count.default(1), dp_shard: count.default(1), sp: count.default(1) }),
  ],
  { error: "auto, or any of dp_replicate, dp_shard and sp" },
);

/**
 * The section `recovery`, or the part of it that all jobs have.
 * @param stallSeconds default: what shows progress at every collective is judged sooner than what beats now and then
 */
export const recoveryKeys = (stallSeconds: number) => ({
  max_attempts: wholeFrom(0).default(5),
  /** A rank that shows no progress for this long is replaced; learnt from the run, never below this floor. */
  stall_seconds: positive.default(stallSeconds),
  /** How long a lost node may come back before the job goes on without it (layout auto) or fails. */
  node_grace_seconds: positive.default(60),
  /** Nodes that layout auto leaves free, ready to replace lost ones. */
  spares: wholeFrom(0).default(0),
});
