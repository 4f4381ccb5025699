import assert from "node:assert/strict";
import { test } from "node:test";
import type { ContainerStatus, Pod, PodStatus } from "../../../controller/kubernetes/kube_api.js";
import { goneFate, podFate } from "../../../controller/kubernetes/pod_fate.js";

const DELETED = { deletionTimestamp: "2026-01-01T00:02:00Z", deletionGracePeriodSeconds: 120 };

function pod(status: PodStatus, metadata: object = {}): Pod {
  return {
    metadata: {
      name: "w-1",
      uid: "u1",
      resourceVersion: "1",
      creationTimestamp: "2026-01-01T00:00:00Z",
      ...metadata,
    },
    spec: { containers: [{ name: "agent", resources: { limits: { memory: "8Gi" } } }] },
    status,
  };
}
const agent = (more: Partial<ContainerStatus>): PodStatus => ({
  containerStatuses: [{ name: "agent", restartCount: 0, ...more }],
});
const disrupted = (reason: string, message = ""): PodStatus => ({
  ...agent({ state: { running: {} } }),
  conditions: [{ type: "DisruptionTarget", status: "True", reason, message }],
});

/** What Kubernetes writes, and what it is called; null: nothing is said. */
const CASES: [name: string, pod: Pod, want: [code: string, text: RegExp, down: boolean] | null][] = [
  ["runs", pod(agent({ state: { running: {} } })), null],
  ["has no status yet", pod({}), null],
  [
    "was killed for its memory and is down",
    pod(agent({ state: { terminated: { exitCode: 137, reason: "OOMKilled" } } })),
    ["NODE_OUT_OF_MEMORY", /^pod w-1 was killed for its memory limit of 8Gi \(OOMKilled\)$/, true],
  ],
  [
    "was killed for its memory and runs again",
    pod(agent({ state: { running: {} }, lastState: { terminated: { exitCode: 137, reason: "OOMKilled" } } })),
    ["NODE_OUT_OF_MEMORY", /OOMKilled/, false],
  ],
  [
    "was killed for its memory, runs again, and is deleted",
    pod(
      agent({ state: { running: {} }, lastState: { terminated: { exitCode: 137, reason: "OOMKilled" } } }),
      DELETED,
    ),
    ["NODE_PREEMPTED", /^pod w-1 is deleted$/, false],
  ],
  [
    "crashes again and again",
    pod(agent({ state: { waiting: {} }, lastState: { terminated: { exitCode: 2, reason: "Error" } } })),
    ["NODE_LOST", /ended with exit code 2 \(Error\)/, true],
  ],
  [
    "ended as asked",
    pod(agent({ state: { terminated: { exitCode: 0, reason: "Completed" } } }), DELETED),
    null,
  ],
  [
    "was evicted by its kubelet",
    pod({ phase: "Failed", reason: "Evicted", message: "The node was low on resource: memory. " }),
    ["NODE_PREEMPTED", /was ended by its kubelet \(Evicted: The node was low on resource: memory\)/, true],
  ],
  [
    "is deleted by somebody",
    pod(agent({ state: { running: {} } }), DELETED),
    ["NODE_PREEMPTED", /^pod w-1 is deleted$/, false],
  ],
  [
    "is preempted",
    pod(disrupted("PreemptionByScheduler", "for pod x"), DELETED),
    ["NODE_PREEMPTED", /preempted by the scheduler.*: for pod x$/, false],
  ],
  [
    "is drained",
    pod(disrupted("EvictionByEvictionAPI"), DELETED),
    ["NODE_PREEMPTED", /kubectl drain/, false],
  ],
  [
    "is tainted away",
    pod(disrupted("DeletionByTaintManager"), DELETED),
    ["NODE_PREEMPTED", /taint that it does not tolerate/, false],
  ],
  ["lost its machine", pod(disrupted("DeletionByPodGC"), DELETED), ["NODE_LOST", /its node is gone/, false]],
];
for (const [name, one, want] of CASES)
  test(`podFate() of a pod that ${name}`, () => {
    const told = podFate(one);
    if (want === null) return assert.equal(told, null);
    const [code, text, down] = want;
    assert.deepEqual([told?.fate.code, told?.fate.down], [code, down]);
    assert.match(told!.fate.text, text);
    const isAsked = one.metadata.deletionTimestamp !== undefined;
    assert.equal(told!.fate.endsAtMs, isAsked ? Date.parse(DELETED.deletionTimestamp) : null);
  });

test("goneFate(): a pod that was forced away may still run, one whose end was seen does not", () => {
  const forced = { ...DELETED, deletionGracePeriodSeconds: 0 };
  assert.equal(goneFate(pod(agent({ state: { running: {} } }), forced)).fate.down, false);
  assert.equal(goneFate(pod(agent({ state: { running: {} } }), DELETED)).fate.down, true);
  const killed = agent({ state: { terminated: { exitCode: 137, reason: "OOMKilled" } } });
  assert.deepEqual(
    [goneFate(pod(killed, forced)).fate.down, goneFate(pod(killed, forced)).fate.code],
    [true, "NODE_OUT_OF_MEMORY"],
  );
  const evicted = goneFate(pod({ phase: "Failed", reason: "Evicted" }, forced)).fate;
  assert.deepEqual([evicted.down, evicted.code], [true, "NODE_PREEMPTED"]);
});

test("each end of each process is another thing to tell, the same end is not", () => {
  const end = { terminated: { exitCode: 1 } };
  const first = podFate(pod(agent({ state: end })));
  assert.equal(podFate(pod(agent({ state: end })))?.key, first?.key);
  assert.notEqual(podFate(pod(agent({ state: end, restartCount: 1 })))?.key, first?.key);
  assert.notEqual(podFate(pod(agent({ state: end }), { uid: "u2" }))?.key, first?.key);
});
