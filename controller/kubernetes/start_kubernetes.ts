import type { Logger } from "pino";
import type { ControllerShell } from "../shell/controller_shell.js";
import type { ShellApi } from "../shell/shell_api.js";
import { systemClock } from "../store/clock.js";
import { HttpKubeApi } from "./http_kube_api.js";
import { KubeHttp, readKubeConfig } from "./kube_http.js";
import { KubernetesShell } from "./kubernetes_shell.js";
import { ShellTraining } from "./shell_training.js";

export interface KubernetesSettings {
  namespace: string;
  /** Taint the machines of quarantined nodes. */
  taintNodes: boolean;
  /** Label of machines whose value is the failure domain of what runs there; null: agents say it. */
  domainLabel: string | null;
  /** The pod that this runs in, to be marked while it leads; null: none. */
  pod: string | null;
}

/** Starts the Kubernetes side of a controller. Throws ARGUMENT_INVALID where no cluster is known. */
export function startKubernetes(
  { namespace, taintNodes, domainLabel, pod }: KubernetesSettings,
  { shell, api, log }: { shell: ControllerShell; api: ShellApi; log: Logger },
): KubernetesShell {
  const config = readKubeConfig();
  log.info(
    { namespace, server: config.getCurrentCluster()?.server, taintNodes, domainLabel },
    "serves TrainingJobs of Kubernetes",
  );
  const kubernetes = new KubernetesShell({
    api: new HttpKubeApi(new KubeHttp(config), namespace),
    training: new ShellTraining(shell, api),
    clock: systemClock,
    wallMs: Date.now,
    log: log.child({ part: "kubernetes" }),
    taintNodes,
    domainLabel,
    pod,
  });
  kubernetes.start();
  return kubernetes;
}
