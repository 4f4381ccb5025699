import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";
import { clusterHealth } from "./cluster_health.js";
import { controlPlane } from "./control_plane.js";
import { job } from "./job.js";
import { recovery } from "./recovery.js";

/** By the name of the file that ships, deploy/grafana/dashboards/NAME.json. */
export const DASHBOARDS: Readonly<Record<string, Dashboard>> = {
  "goku-job": job,
  "goku-cluster-health": clusterHealth,
  "goku-recovery": recovery,
  "goku-control-plane": controlPlane,
};
