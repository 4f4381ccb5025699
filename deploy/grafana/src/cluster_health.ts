import { frame } from "./frame.js";
import { gpuHealth } from "./gpu.js";
import { bars, heatmap, lines, number, stacked, table } from "./panels.js";
import { CLUSTER, grown, JOB, NODE } from "./query.js";

const state = (name: string) => `max(goku_nodes{${CLUSTER}, state="${name}"})`;
const RANKS = `${JOB}, node=~"$node"`;

const nodes = [
  number({
    title: "Connected",
    about: "Nodes with a living session",
    queries: [[state("connected"), "connected"]],
  }),
  number({
    title: "Absent",
    about: "Nodes that were here and have no session",
    queries: [[state("absent"), "absent"]],
    limits: [1, 3],
  }),
  number({
    title: "Quarantined",
    about: "Nodes that get no ranks: gokuctl nodes says why, gokuctl nodes release ends it",
    queries: [[state("quarantined"), "quarantined"]],
    limits: [1, 3],
  }),
  number({ title: "Leaving", about: "Nodes that drain", queries: [[state("leaving"), "leaving"]] }),
  number({
    title: "Slots in use",
    about: "Ranks that have a place, over what the nodes can hold",
    queries: [[`sum(goku_node_ranks{${NODE}}) / sum(goku_node_slots{${NODE}})`, "used"]],
    unit: "percentunit",
  }),
  number({
    title: "Agents that cannot be read",
    about: "Prometheus does not reach their /metrics",
    queries: [[`count(up{${NODE}}) - sum(up{${NODE}})`, "unread"]],
    limits: [1, 3],
  }),
  stacked({
    title: "Nodes by state",
    about: "One that is quarantined or leaves counts there alone",
    queries: [[`max by (state) (goku_nodes{${CLUSTER}})`, "{{state}}"]],
    decimals: 0,
  }),
  lines({
    title: "Agents without a controller",
    about: "They train on and look for one",
    queries: [[`count(goku_node_controller_connected{${NODE}} == 0) or vector(0)`, "without"]],
    decimals: 0,
  }),
];

const slowness = [
  heatmap({
    title: "Slowness by node and rank",
    about:
      "Own compute time of a rank for its work, over the median of the other ranks; 1: like them. Choose nodes where there are many",
    queries: [[`max by (node, rank) (goku_rank_slowness_ratio{${RANKS}})`, "{{node}} rank {{rank}}"]],
    width: 24,
    height: 12,
    min: 1,
    max: 1.5,
  }),
  heatmap({
    title: "Own compute time by node and rank",
    about:
      "Seconds of every second that a rank computes, waiting for others left out: in lockstep the slowest rank has the most",
    queries: [[`job_node_rank:goku_rank_compute_seconds:rate5m{${RANKS}}`, "{{node}} rank {{rank}}"]],
    width: 24,
    height: 12,
  }),
  table({
    title: "Slowest ranks now",
    about: "What they are called slow by: docs/stragglers.md",
    queries: [[`topk(20, max by (job, node, rank) (goku_rank_slowness_ratio{${RANKS}}))`, ""]],
    decimals: 2,
  }),
  lines({
    title: "Slow ranks and nodes",
    about: "Those called slow at present",
    queries: [[`sum by (kind) (goku_job_stragglers{${JOB}})`, "{{kind}}"]],
    decimals: 0,
  }),
];

const faults = [
  bars({
    title: "Incidents by class",
    about:
      "Faults that are over, by the error code of what caused them (docs/errors.md), in the dashboard's range",
    queries: [[grown(`goku_incidents_total{${JOB}}`, "code"), "{{code}}"]],
    noValue: "none",
  }),
  bars({
    title: "Detections by source",
    about: "What first told of a fault, in the dashboard's range",
    queries: [[grown(`goku_detections_total{${JOB}}`, "source"), "{{source}}"]],
    noValue: "none",
  }),
  bars({
    title: "Found slow",
    about: "Ranks and nodes that were found to be slow, in the dashboard's range",
    queries: [[grown(`goku_stragglers_total{${JOB}}`, "kind"), "{{kind}}"]],
    noValue: "none",
  }),
  bars({
    title: "Self-checks",
    about: "Examinations of nodes that ended, by verdict, in the dashboard's range (docs/self-checks.md)",
    queries: [[grown(`goku_selfchecks_total{${CLUSTER}}`, "verdict"), "{{verdict}}"]],
    noValue: "none",
  }),
  lines({
    title: "Generations",
    about: "Since the leader began: formed, and ended by a fault",
    queries: [
      [`max(goku_generations_formed_total{${CLUSTER}})`, "formed"],
      [`max(goku_generations_failed_total{${CLUSTER}})`, "failed"],
    ],
    decimals: 0,
  }),
  stacked({
    title: "Jobs by phase",
    about: "Those that the controller remembers",
    queries: [[`max by (phase) (goku_jobs{${CLUSTER}})`, "{{phase}}"]],
    decimals: 0,
  }),
];

export const clusterHealth = frame({
  uid: "goku-cluster-health",
  title: "Cluster health",
  about: "Nodes and ranks: which are slow, away, quarantined, and what has failed",
  jobs: "any",
  nodes: true,
  rows: [
    { title: "Nodes", panels: nodes },
    { title: "Slowness", panels: slowness },
    { title: "Faults", panels: faults },
    gpuHealth(`goku_node_slots{${NODE}}`),
  ],
});
