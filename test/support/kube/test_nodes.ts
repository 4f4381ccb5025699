import type { ControlPlane } from "./control_plane.js";
import type { Manifest } from "./manifests.js";

const GI = 1024 ** 3;
/** Everything that a pod may be where it must be `restricted`, in the words of a server from before Pod Security admission. */
const RESTRICTED = {
  apiVersion: "policy/v1beta1",
  kind: "PodSecurityPolicy",
  metadata: {
    name: "restricted",
    annotations: { "seccomp.security.alpha.kubernetes.io/allowedProfileNames": "runtime/default" },
  },
  spec: {
    privileged: false,
    allowPrivilegeEscalation: false,
    requiredDropCapabilities: ["ALL"],
    volumes: ["configMap", "emptyDir", "projected", "secret", "downwardAPI", "persistentVolumeClaim"],
    runAsUser: { rule: "MustRunAsNonRoot" },
    seLinux: { rule: "RunAsAny" },
    supplementalGroups: { rule: "RunAsAny" },
    fsGroup: { rule: "RunAsAny" },
    readOnlyRootFilesystem: true,
  },
};

/** Machines as their kubelets would register them, volumes to be had, and the namespace's pods bound to be `restricted`. */
export async function registerNodes(plane: ControlPlane, count: number): Promise<void> {
  const nodes = Array.from({ length: count }, (_, i) => ({
    apiVersion: "v1",
    kind: "Node",
    metadata: {
      name: `machine-${i}`,
      labels: { "kubernetes.io/hostname": `machine-${i}`, "nvidia.com/gpu.present": "true" },
    },
  }));
  const volumes = VOLUMES_GI.map((gibibytes, i) =>
    volume(`volume-${i}`, gibibytes, { hostPath: { path: "/nowhere" } }),
  );
  await applyAll(plane, [...nodes, ...volumes, LOCAL_CLASS]);
  await restrictPods(plane);
  const size = { cpu: "128", memory: `${2048 * GI}`, pods: "110", "nvidia.com/gpu": "8" };
  const conditions = [{ type: "Ready", status: "True", reason: "KubeletReady", message: "" }];
  for (const { metadata } of nodes)
    await plane.ask("PATCH", `/api/v1/nodes/${metadata.name}/status`, {
      type: "application/merge-patch+json",
      body: { status: { capacity: size, allocatable: size, conditions } },
    });
}

/** What cpu-demo claims: of etcd's members, and for checkpoints. */
export const VOLUMES_GI = [8, 8, 8, 4];
/** The class that claims get: volumes are there beforehand, and chosen with the pod's machine. */
export const LOCAL_CLASS = {
  apiVersion: "storage.k8s.io/v1",
  kind: "StorageClass",
  metadata: { name: "local", annotations: { "storageclass.kubernetes.io/is-default-class": "true" } },
  provisioner: "kubernetes.io/no-provisioner",
  volumeBindingMode: "WaitForFirstConsumer",
};
/** `source`: where it is, and what else of its spec is another. */
export function volume(name: string, gibibytes: number, source: object): object {
  return {
    apiVersion: "v1",
    kind: "PersistentVolume",
    metadata: { name },
    spec: {
      capacity: { storage: `${gibibytes}Gi` },
      accessModes: ["ReadWriteOnce"],
      storageClassName: LOCAL_CLASS.metadata.name,
      ...source,
    },
  };
}

/** The pods of the namespace goku are admitted where they are `restricted`. */
export async function restrictPods(plane: ControlPlane): Promise<void> {
  const role = {
    apiVersion: "rbac.authorization.k8s.io/v1",
    kind: "ClusterRole",
    metadata: { name: "restricted" },
    rules: [
      {
        apiGroups: ["policy"],
        resources: ["podsecuritypolicies"],
        resourceNames: ["restricted"],
        verbs: ["use"],
      },
    ],
  };
  const binding = {
    apiVersion: "rbac.authorization.k8s.io/v1",
    kind: "ClusterRoleBinding",
    metadata: { name: "restricted" },
    roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "restricted" },
    subjects: [{ apiGroup: "rbac.authorization.k8s.io", kind: "Group", name: "system:serviceaccounts:goku" }],
  };
  await applyAll(plane, [RESTRICTED, role, binding]);
}

/** As `kubectl apply --server-side` does it; throws what the API server says against it. */
export async function applyAll(
  plane: ControlPlane,
  objects: readonly object[],
  ...options: string[]
): Promise<void> {
  const list = JSON.stringify({ apiVersion: "v1", kind: "List", items: objects });
  const args = ["apply", "--server-side", "--force-conflicts", "--validate=strict", ...options, "-f", "-"];
  const { code, stderr } = await plane.kubectl(args, list);
  if (code !== 0) throw new Error(stderr);
}

/** A manifest without the few fields and versions that came after the API server of Debian 12, 1.20. */
export function asOf120(manifest: Manifest): Manifest {
  const older = structuredClone(manifest);
  if (older.kind === "PodDisruptionBudget") {
    older.apiVersion = "policy/v1beta1"; // policy/v1 came with 1.21
    delete older.spec!.unhealthyPodEvictionPolicy; // 1.27
  }
  // Its server-side apply fills in no protocol.
  if (older.kind === "Service")
    for (const port of older.spec!.ports as { protocol?: string }[]) port.protocol ??= "TCP";
  if (older.kind === "StatefulSet") {
    const { updateStrategy } = older.spec as { updateStrategy?: { rollingUpdate?: object } };
    delete updateStrategy?.rollingUpdate; // maxUnavailable: 1.24
    delete older.spec!.minReadySeconds; // 1.22
  }
  return older;
}
