import { z } from "zod";
import { RANK_HEALTHS } from "../core/view_ranks.js";
import { layoutSchema, rankProgressSchema } from "./schemas.js";

/** Shapes of what is told of many ranks, or many steps, at once: columns, since names of fields would be most of the bytes. */
const number = z.array(z.number().nullable());

export const ranksSchema = z
  .object({
    generation: z.number().int(),
    layout: layoutSchema,
    nodes: z.array(z.string()).describe("in the order of their first rank"),
    node: z
      .array(z.number().int())
      .describe("of every rank: index into `nodes`; the columns' index is the rank"),
    health: z
      .array(z.enum(RANK_HEALTHS))
      .describe(
        "failed: the open incident names it or its node; lost: its node is not heard; slow: it holds the others up; waiting: its generation is not training; training: none of these",
      ),
    step: number.describe("last completed step; null: not told"),
    slowness: number.describe("own compute time over the median of the others; null: not known"),
  })
  .meta({ id: "Ranks" });

export const rankSchema = z
  .object({
    rank: z.number().int(),
    node_id: z.string(),
    host: z.string(),
    device: z.string(),
    failure_domain: z.string(),
    connected: z.boolean(),
    silent_seconds: z.number(),
    health: z.enum(RANK_HEALTHS),
    slowness: z.number().nullable(),
    progress: rankProgressSchema.nullable().describe("null: its process has told nothing in this generation"),
  })
  .meta({ id: "Rank" });

export const meSchema = z
  .object({
    name: z.string(),
    via: z.enum(["token", "certificate", "loopback"]),
    role: z.enum(["read", "operate"]).describe("where nobody is asked, everybody may operate"),
  })
  .meta({ id: "Me" });

export const curvesSchema = z
  .object({
    step: z
      .array(z.number().int())
      .describe("last step of each run of steps; a run is one step until there are 1,000"),
    steps: z.array(z.number().int()).describe("in the run"),
    time: z.array(z.string()).describe("when its last step was told"),
    loss: number.describe("of its last step; null: not told, or not finite"),
    grad_norm: number,
    learning_rate: number,
    tokens: number.describe("this and the seconds below: sums over the run"),
    step_seconds: number,
    compute_seconds: number,
    comm_wait_seconds: number,
    data_wait_seconds: number,
    snapshot_seconds: number,
    pack_fill: number,
    voted_down: z.array(z.number().int()).describe("steps of the run that changed no weight"),
  })
  .meta({ id: "Curves" });
