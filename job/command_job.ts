import { z } from "zod";
import { type Job, jobSchema } from "./job.js";
import { deviceSchema, layoutSchema, nameSchema, recoveryKeys } from "./shared_sections.js";
import { oneOf, positive, text } from "./wanted.js";

/** What each rank is told by its own value: one that the job sets for all of them would hide it. */
const OURS = /^(RANK|WORLD_SIZE|LOCAL_.*|GROUP_.*|NODE_RANK|ROLE_.*|TORCHELASTIC_.*|GOKU_.*)$/;
const NAME_WANTED =
  "names of letters, digits and _ that the ranks are not told by us (RANK, LOCAL_*, GOKU_*, ...)";
const COMMAND_WANTED = "a list of a program and its arguments, for example [python3, train.py]";

const variable = z.union([z.string(), z.number(), z.boolean()], {
  error: "a text, a number or true or false",
});

const trainerSchema = z.strictObject({
  /** Program and arguments, run once per rank, without a shell. */
  command: z
    .array(z.string({ error: COMMAND_WANTED }), { error: COMMAND_WANTED })
    .min(1, { error: COMMAND_WANTED }),
  /** Variables beside those of torchrun; MASTER_ADDR and MASTER_PORT may be set here as well. */
  env: z
    .record(
      z
        .string()
        .regex(/^[A-Za-z_][A-Za-z0-9_]*$/, { error: NAME_WANTED })
        .refine((name) => !OURS.test(name), { error: NAME_WANTED }),
      variable.transform(String),
      { error: "a map of variables" },
    )
    .default({}),
  /** Folder it runs in. */
  cwd: text("the path of a folder").default("."),
  /** `required`: every rank beats from its start on; `optional`: one that has beaten goes on beating. */
  heartbeat: oneOf("optional", "required").default("optional"),
  /** From SIGTERM to SIGKILL when the job is stopped or its node leaves. */
  stop_grace_seconds: positive.default(30),
});

/** Seconds without a heartbeat before a rank counts as stalled: programs also save, evaluate and compile. */
const STALL_SECONDS = 300;

/**
 * A job whose ranks are a program of the user, told its place as torchrun tells it. What it trains, and where its
 * checkpoints are, is its own business: there are no sections for that.
 */
export const commandJobSchema = z.strictObject({
  name: nameSchema,
  trainer: trainerSchema,
  device: deviceSchema,
  layout: layoutSchema.default("auto"),
  recovery: z.strictObject(recoveryKeys(STALL_SECONDS)).prefault({}),
});
export type CommandJob = z.infer<typeof commandJobSchema>;

/** Any job that a controller takes in. */
export type AnyJob = Job | CommandJob;

/** `trainer` is what tells the two kinds of jobs apart. */
export function jobSchemaOf(values: Record<string, unknown>): typeof jobSchema | typeof commandJobSchema {
  return Object.hasOwn(values, "trainer") ? commandJobSchema : jobSchema;
}

export function isCommandJob(job: AnyJob): job is CommandJob {
  return "trainer" in job;
}

/** What decisions about any job rest on. */
export interface JobTraits {
  /** Optimizer steps of the whole run; null: only its program knows. */
  stepsTotal: number | null;
  /** How its states are kept by us, in memory and durably; null: its program keeps and restores its own. */
  checkpoint: Job["checkpoint"] | null;
}

export function jobTraits(job: AnyJob): JobTraits {
  if (isCommandJob(job)) return { stepsTotal: null, checkpoint: null };
  return { stepsTotal: job.train.steps, checkpoint: job.checkpoint };
}
