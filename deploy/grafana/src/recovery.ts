import { frame } from "./frame.js";
import { bars, lines, number, stacked } from "./panels.js";
import { grown, JOB, NODE, quantile } from "./query.js";

const glance = [
  number({
    title: "Checkpoint age",
    about: "Of the newest checkpoint that can be restored: so much is lost with the memory of all nodes",
    queries: [[`max by (job) (job:goku_checkpoint_age:seconds{${JOB}})`, "{{job}}"]],
    unit: "s",
    limits: [7200, 14400],
  }),
  number({
    title: "Checkpoint step",
    about: "Step of the newest checkpoint that can be restored; 0: there is none",
    queries: [[`max by (job) (goku_checkpoint_last_step{${JOB}})`, "{{job}}"]],
  }),
  number({
    title: "Checkpoint failing",
    about:
      "1: the newest durable save failed and none has succeeded since; or it is whole, and older ones cannot be removed",
    queries: [
      [`max by (job) (goku_checkpoint_failing{${JOB}})`, "{{job}}"],
      [`max by (job) (goku_checkpoint_retention_failing{${JOB}})`, "{{job}}: old ones stay"],
    ],
    limits: [0.5, 1],
  }),
  number({
    title: "Steps not replicated",
    about: "Steps since the newest whose state is in two places: so many are lost with one node",
    queries: [
      [
        `max by (job) (goku_train_step{${JOB}}) - max by (job) (goku_train_replicated_step{${JOB}})`,
        "{{job}}",
      ],
    ],
  }),
  number({
    title: "Effective training time, whole run",
    about: "Time of steps completed for the first time over all time since the first generation formed",
    queries: [[`max by (job) (goku_job_ettr_ratio{${JOB}, window="total"})`, "{{job}}"]],
    unit: "percentunit",
    limits: [0.95, 0.9],
  }),
  number({
    title: "Effective training time, last hour",
    about: "The same, of the last hour",
    queries: [[`max by (job) (goku_job_ettr_ratio{${JOB}, window="hour"})`, "{{job}}"]],
    unit: "percentunit",
    limits: [0.95, 0.9],
  }),
];

const recoveries = [
  bars({
    title: "Recoveries by rung",
    about: "How far each had to go, the cheapest first: communicator, process, node, layout, checkpoint",
    queries: [[grown(`goku_recovery_seconds_count{${JOB}}`, "rung"), "{{rung}}"]],
    noValue: "none",
  }),
  bars({
    title: "Seconds of a recovery, mean by rung",
    about: "From detection of a fault to the next completed step, in the dashboard's range",
    queries: [
      [
        `${grown(`goku_recovery_seconds_sum{${JOB}}`, "rung")} / (${grown(`goku_recovery_seconds_count{${JOB}}`, "rung")} > 0)`,
        "{{rung}}",
      ],
    ],
    unit: "s",
    noValue: "none",
  }),
  lines({
    title: "Seconds of a recovery, p90 of a day by rung",
    about: "Of the recoveries of the last day, the first of a rung among them",
    queries: [[`job_rung:goku_recovery_seconds:p90_1d{${JOB}}`, "{{job}} {{rung}}"]],
    unit: "s",
    noValue: "none",
  }),
  lines({
    title: "Effective training time",
    about: "Of the whole run, and of the last hour as far as this leader has seen it",
    queries: [[`max by (job, window) (goku_job_ettr_ratio{${JOB}})`, "{{job}} {{window}}"]],
    unit: "percentunit",
    max: 1,
  }),
  number({
    title: "Steps lost",
    about: "Steps computed again after a fault, in the dashboard's range",
    queries: [[`round(sum(increase(goku_steps_lost_total{${JOB}}[$__range])))`, "lost"]],
    width: 6,
    height: 8,
  }),
  number({
    title: "Effective time",
    about: "Time of steps completed for the first time, without their snapshots",
    queries: [[`max by (job) (goku_job_effective_seconds_total{${JOB}})`, "{{job}}"]],
    unit: "s",
    width: 6,
    height: 8,
  }),
];

const seconds = (title: string, about: string, histogram: string, selector: string) =>
  lines({
    title,
    about,
    queries: [
      [quantile(0.5, histogram, selector, "cluster"), "p50"],
      [quantile(0.99, histogram, selector, "cluster"), "p99"],
    ],
    unit: "s",
    width: 8,
  });
const times = [
  seconds("Seconds of a snapshot", "Time that a step waited for it on rank 0", "goku_snapshot_seconds", JOB),
  seconds(
    "Seconds of a replica",
    "Time to copy the state of one rank to another node",
    "goku_replica_seconds",
    NODE,
  ),
  seconds(
    "Seconds of a checkpoint",
    "From snapshot to committed checkpoint; training goes on meanwhile",
    "goku_checkpoint_seconds",
    JOB,
  ),
];

const bytes = [
  stacked({
    title: "Snapshots in memory",
    about: "Whole states in the shared memory of the nodes: of their own ranks, and kept for other nodes",
    queries: [[`sum by (kind) (goku_node_snapshot_bytes{${NODE}})`, "{{kind}}"]],
    unit: "bytes",
    width: 8,
  }),
  stacked({
    title: "Replicas sent",
    about: "By node",
    queries: [[`sum by (node) (rate(goku_replica_sent_bytes_total{${NODE}}[$__rate_interval]))`, "{{node}}"]],
    unit: "Bps",
    width: 8,
  }),
  lines({
    title: "Checkpoints written",
    about: "Bytes of committed checkpoints, since the leader began",
    queries: [[`max by (job) (goku_checkpoint_written_bytes_total{${JOB}})`, "{{job}}"]],
    unit: "bytes",
    width: 8,
  }),
];

const ages = [
  lines({
    title: "Age of the newest checkpoint",
    about: "Should not grow past checkpoint.every_steps",
    queries: [[`max by (job) (job:goku_checkpoint_age:seconds{${JOB}})`, "{{job}}"]],
    unit: "s",
    width: 8,
  }),
  lines({
    title: "Age of a node's snapshots",
    about:
      "By node, of the rank whose newest snapshot is oldest: should not grow past checkpoint.snapshot_every_steps",
    queries: [
      [`time() - min by (node) (goku_rank_snapshot_timestamp_seconds{${JOB}, node=~"$node"})`, "{{node}}"],
    ],
    unit: "s",
    width: 8,
  }),
  lines({
    title: "Age of a node's newest replica",
    about: "Since a node last had a state whole on another node",
    queries: [[`time() - max by (node) (goku_replica_last_timestamp_seconds{${NODE}} > 0)`, "{{node}}"]],
    unit: "s",
    width: 8,
  }),
];

const failures = [
  lines({
    title: "Failures",
    about:
      "Since the leader began: checkpoints that failed, states that could not be copied for seconds; since its process began: snapshots that a rank could not make",
    queries: [
      [`max by (job) (goku_checkpoints_failed_total{${JOB}})`, "{{job}}: checkpoints failed"],
      [`max by (job) (goku_replicas_failed_total{${JOB}})`, "{{job}}: replicas failed"],
      [`sum by (job) (goku_rank_snapshots_failed_total{${JOB}})`, "{{job}}: snapshots failed"],
      [`max by (job) (goku_checkpoints_committed_total{${JOB}})`, "{{job}}: checkpoints committed"],
    ],
    decimals: 0,
  }),
  lines({
    title: "Left out for want of a slot",
    about:
      "Since the leader began: snapshots that were due and skipped, durable saves that were made at a later step",
    queries: [
      [`max by (job) (goku_snapshots_skipped_total{${JOB}})`, "{{job}}: snapshots skipped"],
      [`max by (job) (goku_saves_put_off_total{${JOB}})`, "{{job}}: saves put off"],
    ],
    decimals: 0,
  }),
  lines({
    title: "Tried again",
    about: "By the agents, since they began: copies, writes to durable storage, writes of the record",
    queries: [
      [`sum(goku_replica_retries_total{${NODE}})`, "replicas"],
      [`sum(goku_save_retries_total{${NODE}})`, "saves"],
      [`sum(goku_run_record_failures_total{${NODE}})`, "record"],
    ],
    decimals: 0,
  }),
];

export const recovery = frame({
  uid: "goku-recovery",
  title: "Checkpoints and recovery",
  about: "What would be lost, how states are kept, and what faults have cost",
  jobs: "any",
  nodes: true,
  rows: [
    { title: "At a glance", panels: glance },
    { title: "Recoveries", panels: recoveries },
    { title: "Time", panels: times },
    { title: "Bytes", panels: bytes },
    { title: "Age", panels: ages },
    { title: "Failures and retries", panels: failures },
  ],
});
