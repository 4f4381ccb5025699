import type { Row } from "./frame.js";
import { type AnyPanel, lines } from "./panels.js";

/** What panels say where no exporter is scraped. */
export const NO_EXPORTER = "No DCGM exporter (docs/dashboards.md)";

/** Metrics that NVIDIA's DCGM exporter shows unless told otherwise. */
export const DCGM_METRICS = [
  "DCGM_FI_DEV_GPU_UTIL",
  "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
  "DCGM_FI_PROF_DRAM_ACTIVE",
  "DCGM_FI_DEV_FB_USED",
  "DCGM_FI_DEV_GPU_TEMP",
  "DCGM_FI_DEV_POWER_USAGE",
  "DCGM_FI_DEV_XID_ERRORS",
  "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
  "DCGM_FI_DEV_ROW_REMAP_FAILURE",
  "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL",
] as const;

/**
 * A metric of DCGM by our node and its GPU, of the nodes that `nodes` names. A node is a machine (`Hostname`) or, in
 * Kubernetes, a pod that has the GPU: `pod`, which a Prometheus that does not honour labels calls `exported_pod`.
 */
function gpu(metric: (typeof DCGM_METRICS)[number], nodes: string): string {
  const named = ["Hostname", "pod", "exported_pod"].reduce(
    (expr, label) => `label_replace(${expr}, "node", "$1", "${label}", "(.+)")`,
    metric as string,
  );
  return `max by (node, gpu) (${named}) and on (node) group by (node) (${nodes})`;
}

interface GpuPanel {
  metric: (typeof DCGM_METRICS)[number];
  title: string;
  about: string;
  unit: string;
}
const LOAD: readonly GpuPanel[] = [
  {
    metric: "DCGM_FI_DEV_GPU_UTIL",
    title: "GPU busy",
    about: "Share of time in which any kernel ran",
    unit: "percent",
  },
  {
    metric: "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
    title: "Tensor cores busy",
    about: "Share of cycles in which tensor cores worked: compare with the model FLOPs utilisation",
    unit: "percentunit",
  },
  {
    metric: "DCGM_FI_PROF_DRAM_ACTIVE",
    title: "GPU memory interface busy",
    about: "Share of cycles in which device memory was read or written",
    unit: "percentunit",
  },
  {
    metric: "DCGM_FI_DEV_FB_USED",
    title: "GPU memory used",
    about: "Device memory in use, of all processes",
    unit: "decmbytes",
  },
  {
    metric: "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL",
    title: "NVLink",
    about: "What crosses NVLink, all links of a GPU together",
    unit: "MBs",
  },
];
const HEALTH: readonly GpuPanel[] = [
  {
    metric: "DCGM_FI_DEV_GPU_TEMP",
    title: "GPU temperature",
    about: "A GPU that is hotter than its peers slows down, and its rank with it",
    unit: "celsius",
  },
  { metric: "DCGM_FI_DEV_POWER_USAGE", title: "GPU power", about: "Power that a GPU draws", unit: "watt" },
  {
    metric: "DCGM_FI_DEV_XID_ERRORS",
    title: "Last Xid",
    about: "Number of the driver's last error: 48, 63, 64, 79, 94 and 95 speak of hardware",
    unit: "none",
  },
  {
    metric: "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
    title: "Memory rows remapped",
    about: "Rows of device memory that were replaced after errors which could not be corrected",
    unit: "none",
  },
  {
    metric: "DCGM_FI_DEV_ROW_REMAP_FAILURE",
    title: "Row remapping failed",
    about: "1: a row could not be replaced, the GPU must be",
    unit: "none",
  },
];

function panels(of: readonly GpuPanel[], nodes: string): AnyPanel[] {
  return of.map(({ metric, title, about, unit }) =>
    lines({
      title,
      about,
      queries: [[gpu(metric, nodes), "{{node}} GPU {{gpu}}"]],
      unit,
      width: 8,
      noValue: NO_EXPORTER,
    }),
  );
}

/** @param nodes series whose label `node` says of which nodes */
export function gpuLoad(nodes: string): Row {
  return { title: "GPUs of its nodes, by the DCGM exporter", panels: panels(LOAD, nodes) };
}
export function gpuHealth(nodes: string): Row {
  return { title: "GPUs, by the DCGM exporter", panels: panels(HEALTH, nodes) };
}
