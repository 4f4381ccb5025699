import { z } from "zod";

/** Shapes of REST's answers; the OpenAPI document is made from these. */
const layout = z
  .object({ dp_replicate: z.number().int(), dp_shard: z.number().int(), sp: z.number().int() })
  .nullable();

export const stepSchema = z
  .object({
    step: z.number().int(),
    loss: z.number(),
    grad_norm: z.number(),
    learning_rate: z.number(),
    applied: z.boolean().describe("false: voted down, no weight changed"),
    tokens: z.number().int(),
    images: z.number().int(),
    videos: z.number().int(),
    step_seconds: z.number(),
    compute_seconds: z.number(),
    comm_wait_seconds: z.number(),
    data_wait_seconds: z.number(),
    snapshot_seconds: z.number(),
    memory_peak_bytes: z.number().int(),
    pack_fill: z.number().describe("tokens over capacity of the step's packs, 0 to 1"),
    unreadable: z.number().int().describe("samples that could not be read; they weigh 0"),
    replicated_step: z.number().int().nullable().describe("newest step in two places for every rank"),
  })
  .meta({ id: "Step" });

export const jobStatusSchema = z
  .object({
    id: z.string(),
    name: z.string(),
    phase: z.enum([
      "UNSPECIFIED",
      "QUEUED",
      "FORMING",
      "RUNNING",
      "RECOVERING",
      "STOPPING",
      "COMPLETED",
      "STOPPED",
      "FAILED",
    ]),
    reason: z.string().describe("why it is in this phase, as decided"),
    step: z.number().int(),
    steps_total: z.number().int(),
    loss: z.number().nullable(),
    grad_norm: z.number().nullable(),
    step_seconds: z.number().nullable(),
    tokens_per_second: z.number().nullable(),
    tokens_total: z.number().int(),
    eta_seconds: z.number().nullable(),
    generation: z.number().int(),
    layout,
    rank_nodes: z.array(z.string()).describe("node of every rank, in rank order"),
    checkpoint: z.object({ uri: z.string(), step: z.number().int() }).nullable(),
    protection: z.string().nullable().describe("how far its state in memory survives the loss of nodes"),
    replicated_step: z
      .number()
      .int()
      .nullable()
      .describe(
        "newest step of this generation in two places for every rank; null: none, or nothing is sent",
      ),
    incidents: z.number().int(),
    error: z.object({ code: z.string(), message: z.string() }).nullable(),
    submitted_at: z.string().nullable(),
  })
  .meta({ id: "JobStatus" });

export const nodeSchema = z
  .object({
    node_id: z.string(),
    connected: z.boolean(),
    slots: z.number().int(),
    host: z.string(),
    device: z.string(),
    unusable: z.string().nullable().describe("why no job is given this node; null: it is used"),
    quarantined: z.boolean().describe("until a person releases it"),
    failure_domain: z.string().nullable().describe("what fails together with it; its own id: nothing else"),
    version: z.string(),
    job: z.string().nullable(),
    silent_seconds: z.number(),
    ranks: z.array(
      z.object({
        rank: z.number().int(),
        pid: z.number().int(),
        step: z.number().int(),
        micro_step: z.number().int(),
        phase: z.string(),
        layer: z.number().int(),
        collective: z.string().nullable(),
        group: z.string().nullable(),
        in_flight: z.boolean(),
        unchanged_ms: z.number().int(),
      }),
    ),
    held_states: z.array(
      z.object({ generation: z.number().int(), step: z.number().int(), rank: z.number().int(), layout }),
    ),
  })
  .meta({ id: "Node" });

export const incidentSchema = z
  .object({
    id: z.number().int(),
    job: z.string(),
    detected_at: z.string().nullable(),
    what: z.string(),
    code: z.string().describe("code of the error catalogue"),
    rank: z.number().int().nullable(),
    node_id: z.string().nullable(),
    evidence: z.array(z.string()).describe("who saw what"),
    decision: z.string().describe("what was decided and why"),
    generation_before: z.number().int(),
    generation_after: z.number().int().nullable(),
    milestones: z.array(z.object({ name: z.string(), after_ms: z.number().int() })),
    steps_lost: z.number().int().nullable(),
    outcome: z.enum(["UNSPECIFIED", "OPEN", "RECOVERED", "FAILED"]).describe("FAILED: the job ended before"),
    last_lines: z.array(z.string()),
  })
  .meta({ id: "Incident" });

export const checkpointSchema = z
  .object({
    generation: z.number().int(),
    step: z.number().int(),
    uri: z.string(),
    bytes: z.number().int(),
    seconds: z.number(),
  })
  .meta({ id: "Checkpoint" });

export const logLineSchema = z
  .object({ time: z.string().nullable(), rank: z.number().int(), text: z.string() })
  .meta({ id: "LogLine" });

export const eventSchema = z
  .object({
    id: z.number().int(),
    time: z.string().nullable(),
    job: z.string().nullable(),
    kind: z.string(),
    message: z.string(),
    step: stepSchema.nullable(),
  })
  .meta({ id: "Event" });

/** RFC 9457 problem details, with the catalogue's code. */
export const problemSchema = z
  .object({
    type: z.string(),
    title: z.string(),
    status: z.number().int(),
    detail: z.string(),
    code: z.string(),
  })
  .meta({ id: "Problem" });
