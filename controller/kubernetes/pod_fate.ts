import type { NodeFate } from "../core/contract.js";
import type { ContainerStatus, Pod, Terminated } from "./kube_api.js";

/** Of the container that is the agent with its ranks. */
export const AGENT_CONTAINER = "agent";

/** Under JobSet a pod that is made anew has another name; its place in the set is what stays. */
export function nodeIdOf({ metadata }: Pod): string {
  const { labels = {}, annotations = {}, name } = metadata;
  const group = labels["jobset.sigs.k8s.io/replicatedjob-name"];
  const index = labels[INDEX] ?? annotations[INDEX];
  if (group === undefined || index === undefined) return name;
  return `${group}-${labels["jobset.sigs.k8s.io/job-index"] ?? "0"}-${index}`;
}
const INDEX = "batch.kubernetes.io/job-completion-index";

/** Why a pod that is being deleted is: the reasons of Kubernetes' condition DisruptionTarget. */
const DISRUPTIONS: Readonly<Record<string, string>> = {
  PreemptionByScheduler: "is preempted by the scheduler for one of higher priority",
  DeletionByTaintManager: "is evicted, since its node got a taint that it does not tolerate",
  EvictionByEvictionAPI: "is evicted, as kubectl drain does",
  DeletionByPodGC: "is removed, since its node is gone",
  TerminationByKubelet: "is ended by its kubelet, which shuts down or is short of something",
};

export interface PodFate {
  /** Of this very end of this very process: what was told once is not told again. */
  key: string;
  fate: NodeFate;
}

/** What a pod's status says about the end of the agent in it; null: it is well, or nothing is said. Pure. */
export function podFate(pod: Pod): PodFate | null {
  const { metadata, status } = pod;
  const agent = status?.containerStatuses?.find(({ name }) => name === AGENT_CONTAINER);
  const of = (kind: string, fate: Omit<NodeFate, "text"> & { text: string }): PodFate => ({
    key: `${metadata.uid}/${agent?.restartCount ?? 0}/${kind}`,
    fate: { ...fate, text: `pod ${metadata.name} ${fate.text}` },
  });
  if (status?.phase === "Failed" && status.reason !== undefined && status.reason !== "")
    return of("failed", {
      code: status.reason === "NodeLost" ? "NODE_LOST" : "NODE_PREEMPTED",
      text: `was ended by its kubelet (${status.reason}${status.message ? `: ${oneLine(status.message)}` : ""})`,
      endsAtMs: null,
      down: true,
    });
  const ended = endOf(agent);
  // The status keeps the end of a process before for as long as the pod lives: once the pod is to go, that is the news.
  const isLeaving = metadata.deletionTimestamp !== undefined && !ended?.down;
  if (ended !== null && ended.terminated.exitCode !== 0 && !isLeaving)
    return of("ended", { ...terminatedFate(pod, ended.terminated), endsAtMs: null, down: ended.down });
  if (!isLeaving) return null;
  const target = status?.conditions?.find(
    ({ type, status: s }) => type === "DisruptionTarget" && s === "True",
  );
  const why = DISRUPTIONS[target?.reason ?? ""] ?? "is deleted";
  const more = target?.message ? `: ${oneLine(target.message)}` : "";
  return of(`deleted-${target?.reason ?? ""}`, {
    code: target?.reason === "DeletionByPodGC" ? "NODE_LOST" : "NODE_PREEMPTED",
    text: `${why}${more}`,
    endsAtMs: Date.parse(metadata.deletionTimestamp!),
    down: false,
  });
}

/** Of a pod that is not there any more: one that was forced away may still run on a node that nobody reaches. */
export function goneFate(pod: Pod): PodFate {
  const agent = pod.status?.containerStatuses?.find(({ name }) => name === AGENT_CONTAINER);
  // A pod that has failed is removed without grace as well, and nothing of it runs.
  const isSeenDown = agent?.state?.terminated !== undefined || pod.status?.phase === "Failed";
  const isForced = pod.metadata.deletionGracePeriodSeconds === 0 && !isSeenDown;
  const last = podFate(pod)?.fate;
  return {
    key: `${pod.metadata.uid}/gone`,
    fate: {
      code: last?.code ?? "NODE_LOST",
      text: last?.text ?? `pod ${pod.metadata.name} is gone`,
      endsAtMs: null,
      down: !isForced,
    },
  };
}

function endOf(agent: ContainerStatus | undefined): { terminated: Terminated; down: boolean } | null {
  if (agent === undefined) return null;
  if (agent.state?.terminated !== undefined) return { terminated: agent.state.terminated, down: true };
  const before = agent.lastState?.terminated;
  // Waits to be started again, such as in CrashLoopBackOff.
  return before === undefined ? null : { terminated: before, down: agent.state?.running === undefined };
}

function terminatedFate(pod: Pod, { reason, exitCode, signal }: Terminated): Pick<NodeFate, "code" | "text"> {
  if (reason === "OOMKilled") {
    const container = pod.spec.containers.find(({ name }) => name === AGENT_CONTAINER);
    const limit = container?.resources?.limits?.memory;
    const of = limit === undefined ? "the memory of its machine" : `its memory limit of ${limit}`;
    return { code: "NODE_OUT_OF_MEMORY", text: `was killed for ${of} (OOMKilled)` };
  }
  const how = signal ? `by signal ${signal}` : `with exit code ${exitCode}`;
  return { code: "NODE_LOST", text: `ended ${how}${reason ? ` (${reason})` : ""}` };
}

function oneLine(text: string): string {
  return text
    .replaceAll(/\s+/g, " ")
    .replace(/\.\s*$/, "")
    .trim()
    .slice(0, 300);
}
