import { z } from "zod";

/** Shapes of REST's answers; the OpenAPI document is made from these. */
export const layoutSchema = z
  .object({ dp_replicate: z.number().int(), dp_shard: z.number().int(), sp: z.number().int() })
  .nullable();

export const stepSchema = z
  .object({
    step: z.number().int(),
    loss: z.number().nullable().describe("null: not finite, or a program of its own has not told it"),
    grad_norm: z.number().nullable().describe("null: not finite"),
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
    snapshot_skipped: z.boolean().describe("a snapshot was due and left out for want of a free slot"),
    save_put_off: z.boolean().describe("a durable save that was due is made later"),
    memory_peak_bytes: z.number().int(),
    pack_fill: z.number().describe("tokens over capacity of the step's packs, 0 to 1"),
    unreadable: z.number().int().describe("samples that could not be read; they weigh 0"),
    replicated_step: z.number().int().nullable().describe("newest step in two places for every rank"),
    replay: z
      .object({
        packs: z.array(z.number().int()).describe("of the step, whose loss was not finite the first time"),
        loss_ranks: z.array(z.number().int()).describe("whose part of a loss was another the second time"),
        norm_ranks: z.array(z.number().int()).describe("whose shard's gradient norm was another"),
        home_ranks: z
          .array(z.number().int())
          .describe("on which packs were not finite that are so on others"),
      })
      .nullable()
      .describe("the step's numbers were not finite, and all ranks computed it a second time"),
  })
  .meta({ id: "Step" });

export const avoidedSchema = z
  .object({
    job: z.string(),
    node_id: z.string(),
    reason: z.string(),
    until: z.string().nullable().describe("or until it is released, or passes a diagnosis"),
  })
  .meta({ id: "AvoidedNode" });

export const checkpointPartsSchema = z
  .object({
    whole: z
      .number()
      .int()
      .describe("parts that their writers have read back and found as they were written"),
    of: z.number().int().describe("all parts of the checkpoint: as many whole, and it is verified"),
    at: z.string().nullable().describe("when the last of them was told"),
  })
  .meta({ id: "CheckpointParts" });

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
    layout: layoutSchema,
    rank_nodes: z.array(z.string()).describe("node of every rank, in rank order"),
    checkpoint: z
      .object({ uri: z.string(), step: z.number().int(), read: checkpointPartsSchema.nullable() })
      .nullable(),
    spares: z
      .string()
      .nullable()
      .describe("nodes ready to replace lost ones, and how many this run calls for"),
    protection: z.string().nullable().describe("how far its state in memory survives the loss of nodes"),
    replicated_step: z
      .number()
      .int()
      .nullable()
      .describe(
        "newest step of this generation in two places for every rank; null: none, or nothing is sent",
      ),
    rank_slowness: z
      .array(z.number().nullable())
      .describe(
        "own compute time of every rank for its work over the median of the others; 1: as fast, null: not known yet",
      ),
    stragglers: z
      .array(
        z.object({
          node_id: z.string(),
          rank: z.number().int().nullable().describe("null: all ranks of the node"),
          slowness: z.number(),
          evidence: z.string(),
        }),
      )
      .describe("ranks and nodes that are slower than the others by more than chance"),
    avoided: z.array(avoidedSchema).describe("nodes that this job does without"),
    doubt: z
      .string()
      .nullable()
      .describe("why its newest states are not to be trusted; null: nothing is known"),
    snapshots_skipped: z
      .number()
      .int()
      .describe("snapshots that were due and left out for want of a free slot, since this controller leads"),
    saves_put_off: z.number().int().describe("durable saves that were made later than due, since then"),
    steps_given_up: z
      .number()
      .int()
      .describe("steps that were done and are in no checkpoint, since nothing could save them at its stop"),
    incidents: z.number().int(),
    error: z.object({ code: z.string(), message: z.string() }).nullable(),
    submitted_at: z.string().nullable(),
  })
  .meta({ id: "JobStatus" });

export const judgedCheckSchema = z
  .object({
    name: z.string(),
    device: z
      .object({ index: z.number().int(), name: z.string() })
      .nullable()
      .describe("CUDA device of the node that it is about; null: the node itself"),
    verdict: z.enum(["ok", "slow", "failed"]),
    value: z.number().describe("in `unit`; 0 when it failed"),
    unit: z.string(),
    median: z.number().nullable().describe("of the fleet; null: fewer than 3 hosts, or nothing to compare"),
    detail: z.string(),
    seconds: z.number(),
  })
  .meta({ id: "JudgedCheck" });

export const diagnosisSchema = z
  .object({
    id: z.number().int(),
    started_at: z.string().nullable(),
    done: z.boolean(),
    nodes: z.array(
      z.object({
        node_id: z.string(),
        verdict: z
          .enum(["running", "passed", "failed", "suspect", "skipped"])
          .describe("suspect: its collectives fail, and too few nodes are good to say whose fault that is"),
        reason: z.string().nullable().describe("why it did not pass"),
        checks: z.array(judgedCheckSchema),
      }),
    ),
    bad_links: z.array(z.string()).describe("good nodes between which collectives fail"),
  })
  .meta({ id: "Diagnosis" });

export const rankProgressSchema = z.object({
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
  times: z
    .object({
      steps: z.number().int(),
      multiply_adds: z.number().describe("of the forward passes of its packs"),
      forward_seconds: z.number(),
      backward_seconds: z.number(),
      optimizer_seconds: z.number(),
      data_seconds: z.number().describe("waiting for packs"),
      wait_seconds: z.number().describe("waiting for other ranks"),
    })
    .nullable()
    .describe("sums over the steps of this generation; waiting is in the last two only"),
});

export const signalSchema = z.object({
  kind: z.string().describe("of docs/hardware-signals.md, for example xid.79"),
  class: z.string(),
  action: z.enum(["note", "suspect", "replace", "quarantine"]).describe("what it leads to"),
  meaning: z.string(),
  rank: z.number().int().nullable().describe("null: it is about the node"),
  device: z.string().nullable(),
  text: z.string().describe("as read last"),
  count: z.number().int().describe("how often it was seen"),
  at: z.string().nullable().describe("when it was told last"),
});

export const nodeSchema = z
  .object({
    node_id: z.string(),
    connected: z.boolean(),
    slots: z.number().int(),
    host: z.string(),
    device: z.string().describe("the best that its ranks can compute on: cpu or cuda"),
    devices: z
      .array(z.object({ name: z.string(), memory_bytes: z.number().int() }))
      .describe("its CUDA devices, in the order in which CUDA numbers them"),
    unusable: z.string().nullable().describe("why no job is given this node; null: it is used"),
    quarantined: z.boolean().describe("until a person releases it, or it passes after quarantined_until"),
    drained: z.boolean().describe("it is quarantined because a person drained it, for no fault"),
    quarantined_until: z
      .string()
      .nullable()
      .describe("when it is examined again; null: a person must release it"),
    self_check: z.enum(["due", "running", "passed", "failed"]).nullable(),
    checks: z.array(judgedCheckSchema).describe("newest results of its self-checks"),
    checked_at: z.string().nullable(),
    avoided: z.array(avoidedSchema).describe("jobs that do without it; others may use it"),
    signals: z.array(signalSchema).describe("signs of trouble that its agent told, newest first"),
    unwatched: z.array(z.string()).describe("what of the machine its agent cannot watch, and why"),
    failure_domain: z.string().nullable().describe("what fails together with it; its own id: nothing else"),
    version: z.string(),
    job: z.string().nullable(),
    silent_seconds: z.number(),
    ranks: z.array(rankProgressSchema),
    held_states: z.array(
      z.object({
        generation: z.number().int(),
        step: z.number().int(),
        rank: z.number().int(),
        layout: layoutSchema,
      }),
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
    step_before: z.number().int().describe("last step completed before it"),
    steps_lost: z.number().int().nullable(),
    outcome: z.enum(["UNSPECIFIED", "OPEN", "RECOVERED", "FAILED"]).describe("FAILED: the job ended before"),
    last_lines: z.array(z.string()),
    stacks: z
      .array(z.object({ rank: z.number().int(), node_id: z.string(), lines: z.array(z.string()) }))
      .describe("What ranks that hung were doing, just before they were killed"),
  })
  .meta({ id: "Incident" });

export const checkpointSchema = z
  .object({
    generation: z.number().int(),
    step: z.number().int(),
    uri: z.string(),
    bytes: z.number().int(),
    seconds: z.number(),
    committed_at: z.string().nullable().describe("when the controller heard that it is durable"),
    unusable: z.string().nullable().describe("why it must not be restored from; null: it may"),
    read: checkpointPartsSchema
      .nullable()
      .describe("what of it was read back since; null: nothing, as far as the present leader has heard"),
  })
  .meta({ id: "Checkpoint" });

export const previewSchema = z
  .object({
    generation: z.number().int(),
    step: z.number().int(),
    uri: z.string(),
    prompts: z.array(z.string()).describe("picture i is drawn from (seed, i)"),
    seed: z.number().int(),
    sampling_steps: z.number().int(),
    guidance: z.number(),
    shift: z.number(),
    width: z.number().int(),
    height: z.number().int(),
    frames: z.number().int().describe("1: pictures; more: clips"),
    files: z.array(z.object({ name: z.string(), bytes: z.number().int() })),
    drawn_at: z.string().nullable(),
  })
  .meta({ id: "Preview" });

export const logLineSchema = z
  .object({ time: z.string().nullable(), rank: z.number().int(), text: z.string() })
  .meta({ id: "LogLine" });

export const auditSchema = z
  .object({
    who: z.string().nullable().describe("name of the token or certificate; null: not known"),
    via: z.string().nullable().describe("token, certificate or loopback; null: not known"),
    address: z.string(),
    action: z.string(),
    target: z.string().nullable().describe("job or node; null: refused before that was read"),
    outcome: z.string().describe("DONE, or the code it ended with"),
  })
  .meta({ id: "Audit" });

export const eventSchema = z
  .object({
    id: z.number().int(),
    time: z.string().nullable(),
    job: z.string().nullable(),
    kind: z.string(),
    message: z.string(),
    step: stepSchema.nullable(),
    audit: auditSchema.nullable(),
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
    leader: z.string().optional().describe("NOT_LEADER: URL of the controller that leads, where it is known"),
  })
  .meta({ id: "Problem" });
