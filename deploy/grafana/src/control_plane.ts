import { frame } from "./frame.js";
import { bars, lines, number } from "./panels.js";
import { CLUSTER, grown, ofControllers, quantile } from "./query.js";

const leadership = [
  number({
    title: "Leader",
    about: "The controller that leads",
    queries: [[`max by (instance) (goku_leader{${CLUSTER}}) == 1`, "{{instance}}"]],
    text: "name",
    width: 8,
    noValue: "none leads",
  }),
  number({
    title: "Leader commands",
    about: "1: it leads and its term is durable",
    queries: [[`max(goku_leader_ready{${CLUSTER}})`, "ready"]],
    limits: [1, 0.5],
  }),
  number({
    title: "Term",
    about: "One more for each leader",
    queries: [[`max(goku_leader_term{${CLUSTER}})`, "term"]],
  }),
  number({
    title: "Controllers",
    about: "Those that Prometheus reads, standbys included",
    queries: [[`count(goku_leader{${CLUSTER}})`, "controllers"]],
  }),
  number({
    title: "Certificate expires in",
    about: "The first of the certificates of controllers and agents to do so",
    queries: [
      [
        `min(goku_tls_certificate_expiry_timestamp_seconds{${CLUSTER}} or goku_node_certificate_expiry_timestamp_seconds{${CLUSTER}} > 0) - time()`,
        "certificate",
      ],
    ],
    unit: "s",
    noValue: "no certificate",
    limits: [14 * 86400, 7 * 86400],
  }),
  lines({
    title: "Who leads",
    about: "1: it leads",
    queries: [[`max by (instance) (goku_leader{${CLUSTER}})`, "{{instance}}"]],
    decimals: 0,
    max: 1,
  }),
  lines({
    title: "Term over time",
    about: "A step is a change of leader: training goes on meanwhile",
    queries: [[`max(goku_leader_term{${CLUSTER}})`, "term"]],
    decimals: 0,
  }),
];

const store = [
  lines({
    title: "Store latency",
    about: "Every recovery waits for writes; much is a slow disk (docs/etcd.md)",
    queries: [
      [`cluster:goku_store_seconds:p99_5m{${CLUSTER}}`, "writes p99, 5 m"],
      [quantile(0.5, "goku_store_seconds", CLUSTER, "operation"), "{{operation}} p50"],
    ],
    unit: "s",
  }),
  lines({
    title: "Store operations",
    about: "Per second, by outcome; unknown: the store did not say whether it wrote",
    queries: [
      [
        `sum by (operation, outcome) (rate(goku_store_seconds_count{${CLUSTER}}[$__rate_interval]))`,
        "{{operation}} {{outcome}}",
      ],
    ],
    unit: "ops",
  }),
  lines({
    title: "Store failures",
    about: "Since the controllers began: leadership that could not be won or renewed, writes tried again",
    queries: [
      [`sum(goku_store_failures_total{${CLUSTER}})`, "leadership"],
      [`sum(goku_persist_retries_total{${CLUSTER}})`, "writes tried again"],
    ],
    decimals: 0,
    width: 24,
  }),
];

const agents = [
  lines({
    title: "Nodes and streams",
    about: "Agents with a stream to the leader, and those that say that they have a controller",
    queries: [
      [`max(goku_nodes_connected{${CLUSTER}})`, "connected to the leader"],
      [`sum(goku_node_controller_connected{${CLUSTER}})`, "agents that have a controller"],
    ],
    decimals: 0,
    width: 8,
  }),
  bars({
    title: "Agent messages refused",
    about:
      "By reason, in the dashboard's range: a stale generation or session is what a fault leaves behind, malformed is a fault of its own",
    queries: [[grown(`goku_agent_messages_refused_total{${CLUSTER}}`, "reason"), "{{reason}}"]],
    noValue: "none",
    width: 8,
  }),
  bars({
    title: "Requests that change something",
    about: "By what was asked and how it ended, in the dashboard's range",
    queries: [[grown(`goku_audit_entries_total{${CLUSTER}}`, "action, outcome"), "{{action}} {{outcome}}"]],
    noValue: "none",
    width: 8,
  }),
];

const processes = [
  lines({
    title: "Event loop lag, p99",
    about: "A controller that is late answers late: heartbeats wait for it (docs/scale.md)",
    queries: [[ofControllers("nodejs_eventloop_lag_p99_seconds"), "{{instance}}"]],
    unit: "s",
  }),
  lines({
    title: "CPU",
    about: "Cores that a controller uses",
    queries: [[ofControllers("rate(process_cpu_seconds_total[$__rate_interval])"), "{{instance}}"]],
  }),
  lines({
    title: "Memory",
    about: "Resident, and the heap in use",
    queries: [
      [ofControllers("process_resident_memory_bytes"), "{{instance}} resident"],
      [ofControllers("nodejs_heap_size_used_bytes"), "{{instance}} heap"],
    ],
    unit: "bytes",
  }),
  lines({
    title: "Open files",
    about: "Connections are files, too",
    queries: [[ofControllers("process_open_fds"), "{{instance}}"]],
    decimals: 0,
  }),
];

export const controlPlane = frame({
  uid: "goku-control-plane",
  title: "Control plane",
  about: "Controllers and their store: who leads, how fast, what they refuse",
  jobs: "none",
  nodes: false,
  rows: [
    { title: "Leadership", panels: leadership },
    { title: "Store", panels: store },
    { title: "Agents", panels: agents },
    { title: "Processes", panels: processes },
  ],
});
