import { frame } from "./frame.js";
import { gpuLoad } from "./gpu.js";
import { lines, number, stacked } from "./panels.js";
import { JOB } from "./query.js";

const glance = [
  number({
    title: "Phase",
    about: "Where the job stands",
    queries: [[`max by (phase) (goku_job_phase{${JOB}}) == 1`, "{{phase}}"]],
    text: "name",
  }),
  number({
    title: "Step",
    about: "Last completed step",
    queries: [[`max(goku_train_step{${JOB}})`, "step"]],
  }),
  number({
    title: "Steps planned",
    about: "Steps that the job is to do; nothing where its program decides",
    queries: [[`max(goku_train_steps_planned{${JOB}}) > 0`, "planned"]],
    noValue: "its program says",
  }),
  number({
    title: "Time left",
    about: "Steps that are left, at the pace of the last five minutes",
    queries: [
      [
        `(max by (cluster, job) (goku_train_steps_planned{${JOB}} > 0) - max by (cluster, job) (goku_train_step{${JOB}})) / job:goku_train_steps:rate5m{${JOB}}`,
        "left",
      ],
    ],
    unit: "s",
  }),
  number({
    title: "Generation",
    about: "Newest generation: one more for each recovery",
    queries: [[`max(goku_job_generation{${JOB}})`, "generation"]],
  }),
  number({
    title: "Ranks",
    about: "Ranks of the newest generation",
    queries: [[`max(goku_job_ranks{${JOB}})`, "ranks"]],
  }),
  number({
    title: "Tokens per second now",
    about: "Tokens of completed steps, over five minutes",
    queries: [[`sum(job:goku_train_tokens:rate5m{${JOB}})`, "tokens/s"]],
    unit: "short",
  }),
  number({
    title: "Model FLOPs utilisation now",
    about: "Work of the steps over what all devices could do; needs the agents' --peak-tflops",
    queries: [[`max(job:goku_train_mfu:ratio5m{${JOB}})`, "MFU"]],
    unit: "percentunit",
    noValue: "no --peak-tflops",
  }),
  number({
    title: "Effective training time, whole run",
    about: "Time of steps completed for the first time over all time since the first generation formed",
    queries: [[`max(goku_job_ettr_ratio{${JOB}, window="total"})`, "ETTR"]],
    unit: "percentunit",
    limits: [0.95, 0.9],
  }),
  number({
    title: "Effective training time, last hour",
    about: "The same, of the last hour",
    queries: [[`max(goku_job_ettr_ratio{${JOB}, window="hour"})`, "ETTR"]],
    unit: "percentunit",
    limits: [0.95, 0.9],
  }),
  number({
    title: "Open incidents",
    about: "Faults that the job has not recovered from yet: gokuctl why",
    queries: [[`sum(goku_incidents_open{${JOB}})`, "open"]],
    limits: [1, 2],
  }),
  number({
    title: "Last step was",
    about: "Since the last completed step was told of",
    queries: [[`max(job:goku_train_step_age:seconds{${JOB}})`, "ago"]],
    unit: "s",
    limits: [300, 1800],
  }),
];

const learning = [
  lines({
    title: "Loss",
    about: "Loss of the last completed step",
    queries: [[`max by (job) (goku_train_loss{${JOB}})`, "{{job}}"]],
  }),
  lines({
    title: "Gradient norm",
    about: "Before clipping",
    queries: [[`max by (job) (goku_train_grad_norm{${JOB}})`, "{{job}}"]],
  }),
  lines({
    title: "Learning rate",
    about: "Of the last completed step",
    queries: [[`max by (job) (goku_train_learning_rate{${JOB}})`, "{{job}}"]],
    unit: "sci",
  }),
  lines({
    title: "Bad steps",
    about:
      "Since the leader began: numbers that are not finite, by cause, spikes, and steps that are left out (docs/bad-steps.md)",
    queries: [
      [`sum by (kind) (goku_bad_steps_total{${JOB}})`, "{{kind}}"],
      [`sum by (reason) (goku_steps_left_out_total{${JOB}})`, "left out: {{reason}}"],
    ],
    decimals: 0,
  }),
];

const speed = [
  lines({
    title: "Tokens per second",
    about: "Over five minutes",
    queries: [[`job:goku_train_tokens:rate5m{${JOB}}`, "{{job}}"]],
  }),
  lines({
    title: "Samples per second",
    about: "Images and videos, over five minutes",
    queries: [[`job_kind:goku_train_samples:rate5m{${JOB}}`, "{{kind}}"]],
  }),
  lines({
    title: "Step time",
    about: "On rank 0, over five minutes",
    queries: [
      [`job:goku_train_step_seconds:mean5m{${JOB}}`, "mean"],
      [`job:goku_train_step_seconds:p99_5m{${JOB}}`, "p99"],
    ],
    unit: "s",
  }),
  stacked({
    title: "Step time by section",
    about: "Of a mean step on rank 0; communication is waiting for other ranks",
    queries: [
      [
        `sum by (section) (job_section:goku_train_section:ratio5m{${JOB}} * on (cluster, job) group_left () job:goku_train_step_seconds:mean5m{${JOB}})`,
        "{{section}}",
      ],
    ],
    unit: "s",
  }),
  stacked({
    title: "Waiting by collective",
    about: "Share of a step in which rank 0 waits for others",
    queries: [[`job_collective:goku_train_wait:ratio5m{${JOB}}`, "{{collective}}"]],
    unit: "percentunit",
  }),
  lines({
    title: "Model FLOPs utilisation",
    about: "Needs the agents' --peak-tflops",
    queries: [[`job:goku_train_mfu:ratio5m{${JOB}}`, "{{job}}"]],
    unit: "percentunit",
    noValue: "no --peak-tflops",
  }),
  lines({
    title: "Work",
    about: "Operations per second of all ranks, forward and backward",
    queries: [[`job:goku_train_model_flops:rate5m{${JOB}}`, "{{job}}"]],
    unit: "flops",
  }),
  lines({
    title: "Pack fill",
    about: "Tokens over capacity of the last step's packs",
    queries: [[`max by (job) (goku_train_pack_fill_ratio{${JOB}})`, "{{job}}"]],
    unit: "percentunit",
    max: 1,
  }),
  lines({
    title: "Samples that could not be read",
    about: "Since the leader began; they are left out of the job from then on",
    queries: [[`max by (job) (goku_train_samples_unreadable_total{${JOB}})`, "{{job}}"]],
  }),
];

const memory = [
  lines({
    title: "Tensors of rank 0",
    about: "High-water mark of the last step, beside the training state",
    queries: [[`max by (job) (goku_train_memory_peak_bytes{${JOB}})`, "{{job}}"]],
    unit: "bytes",
  }),
  stacked({
    title: "Processes by node",
    about: "Resident memory of the ranks, shared memory of their snapshots included",
    queries: [[`sum by (node) (goku_rank_resident_bytes{${JOB}, node=~"$node"})`, "{{node}}"]],
    unit: "bytes",
  }),
  lines({
    title: "Effective training time",
    about: "Of the whole run, and of the last hour as far as this leader has seen it",
    queries: [[`max by (window) (goku_job_ettr_ratio{${JOB}})`, "{{window}}"]],
    unit: "percentunit",
    max: 1,
  }),
  lines({
    title: "Slowest rank",
    about: "Its own compute time over the median of the others (docs/stragglers.md)",
    queries: [[`max by (job) (goku_job_slowness_ratio{${JOB}})`, "{{job}}"]],
  }),
];

export const job = frame({
  uid: "goku-job",
  title: "Job",
  about: "One training job: what it learns, how fast, and what stood in its way",
  jobs: "one",
  nodes: true,
  rows: [
    { title: "At a glance", panels: glance },
    { title: "Learning", panels: learning },
    { title: "Speed", panels: speed },
    { title: "Memory and time that counts", panels: memory },
    gpuLoad(`goku_rank_step{${JOB}, node=~"$node"}`),
  ],
});
