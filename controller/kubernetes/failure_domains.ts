import type { KubeNode, Pod } from "./kube_api.js";
import { nodeIdOf } from "./pod_fate.js";

/**
 * What fails together with each node: the value of a label of the machine that its pod is on, such as its zone or its rack.
 * A node whose pod has no machine yet, or whose machine has no such label, is not in it. Pure.
 */
export function failureDomains(
  pods: readonly Pod[],
  machines: readonly KubeNode[],
  label: string,
): Map<string, string> {
  const byMachine = new Map(machines.map(({ metadata }) => [metadata.name, metadata.labels?.[label]]));
  const found = new Map<string, string>();
  for (const pod of pods) {
    const domain = byMachine.get(pod.spec.nodeName ?? "");
    if (domain === undefined || domain === "") continue;
    const nodeId = nodeIdOf(pod);
    // Under JobSet one that leaves and the one that replaces it are both there for a while.
    if (pod.metadata.deletionTimestamp === undefined || !found.has(nodeId)) found.set(nodeId, domain);
  }
  return found;
}
