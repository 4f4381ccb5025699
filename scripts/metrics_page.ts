import { writeFileSync } from "node:fs";
import path from "node:path";
import { CONTROLLER_METRICS, type MetricEntry, NODE_METRICS } from "../job/metrics.js";

/** Writes docs/metrics.md from the catalogue: node dist/scripts/metrics_page.js */
export function metricsPage(): string {
  return `# Metrics

<!-- Made from job/metrics.ts by \`node dist/scripts/metrics_page.js\`: change it there, or in scripts/metrics_page.ts. -->

A controller shows jobs and the cluster at \`/metrics\` of its HTTP port. What is of a rank or a node is shown by the node's
agent, at an address of its own, so that no scrape grows with the cluster. Names are base units; a label takes few values.
What NVML tells of GPUs is shown by the agent whose ranks see them (\`goku_gpu_*\`, some 40 series for a GPU with NVLink); [dashboards](dashboards.md) take theirs from
NVIDIA's DCGM exporter, which also counts what kernels do.

## Reading them

\`deploy/prometheus/prometheus.yml\` is a whole configuration: change the addresses and start \`prometheus\` in that folder. It asks
the controller at \`/v1/prometheus/targets\` which agents there are (Prometheus's HTTP service discovery; role \`read\` where
tokens are asked for), with the labels \`node\` and \`cluster\` (\`gokuctl controller --cluster NAME\`). Keep \`honor_labels: true\`: the
label \`job\` is the training job.

[Dashboards](dashboards.md) for Grafana ship, too, and the resources by which Prometheus finds all of this on Kubernetes.

| agent option | default | meaning |
| --- | --- | --- |
| \`--metrics-host\` | 127.0.0.1 | address to listen on; beyond loopback it needs the agent's certificate |
| \`--metrics-port\` | 0: any free one | port; the controller is told, a NetworkPolicy wants a fixed one |
| \`--peak-tflops\` | not known | what the device of one slot can do in the job's precision, 10^12 operations a second |

An agent with a certificate (\`--cert\`) serves HTTPS, and answers whoever shows a certificate of the same CA with the role \`read\` or
\`operate\` ([security](security.md)). Without one it answers plain HTTP on loopback alone; where its node is reached at another address, it is then not handed on.

Model FLOPs utilisation is \`job:goku_train_mfu:ratio5m\`: the work of the steps over what all devices could do. Work is 6 operations for
each multiply-add of a forward pass, from the shapes of packs, parameters and layout (\`worker/model/pack_work.ts\`); what is
recomputed does not count, what ranks of one sequence do twice (text, time embedding) does. The peak is what the agents are
told with \`--peak-tflops\`. On a CPU none is assumed, since what a core can do changes with its clock: without the option there is
no utilisation, and the work done per second all the same.

Effective training time (\`goku_job_ettr_ratio\`) is the time of steps completed for the first time, without their snapshots, over
the time since the job's first generation began to form. The sum is durable with each generation; the hour is what the
present leader has seen of it.

How far a recovery had to go (\`rung\` of \`goku_recovery_seconds\`), from the cheapest on: \`communicator\` the same processes on the
same nodes; \`process\` a rank was started again; \`node\` another node took its place; \`layout\` another layout; \`checkpoint\` the
state came from durable storage; \`initial\` there was none.

## Rules

\`deploy/prometheus/recording.yml\` and \`alerts.yml\` are tried by \`promtool test rules rules_test.yml\`, and by a test that lets a real
Prometheus evaluate every one over a real job with a fault. \`alertmanager.yml\` is an example.

## The record of a run

Beside its checkpoints a run has a record, one entry for each step, in order and once:

| where the checkpoints are | lines | for TensorBoard |
| --- | --- | --- |
| \`file://FOLDER\` | \`FOLDER/metrics.jsonl\` | \`tensorboard --logdir FOLDER/tensorboard\` |
| \`s3://BUCKET/PREFIX\` | \`PREFIX/metrics/*.jsonl\`, to be read in the order of their names | \`PREFIX/tensorboard/\` |

A line is a JSON object: \`step\`, \`time\` (Unix seconds), \`generation\`, \`loss\`, \`grad_norm\`, \`learning_rate\`, \`applied\`, \`tokens\`, \`images\`,
\`videos\`, \`unreadable\`, \`pack_fill\`, \`step_seconds\` and its parts \`compute_seconds\`, \`communication_seconds\`, \`data_seconds\`,
\`optimizer_seconds\`, \`snapshot_seconds\`, the parts of communication \`wait_seconds\`, \`memory_peak_bytes\`, \`model_flops\` and \`mfu\`. Null:
not told, or no finite number. The agent of rank 0 writes it every second, on S3 every ten ([why](decisions/023-metrics.md)).

## Controller

${table(CONTROLLER_METRICS)}

## Agent

${table(NODE_METRICS)}

Both show the usual \`process_\` and \`nodejs_\` metrics of their process.
`;
}

function table(metrics: Readonly<Record<string, MetricEntry>>): string {
  const rows = Object.entries(metrics).map(([name, { type, unit, labels, help }]) => {
    const told = Object.entries(labels).map(([label, values]) => `\`${label}\`: ${values}`);
    return `| \`${name}\` | ${type} | ${unit} | ${told.join("; ")} | ${help} |`;
  });
  return ["| name | type | unit | labels | meaning |", "| --- | --- | --- | --- | --- |", ...rows].join("\n");
}

if (process.argv[1] === import.meta.filename)
  writeFileSync(path.join(import.meta.dirname, "../../docs/metrics.md"), metricsPage());
