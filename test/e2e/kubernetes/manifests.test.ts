import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Pod } from "../../../controller/kubernetes/kube_api.js";
import { CONTROL_PLANE_SKIP, ControlPlane } from "../../support/kube/control_plane.js";
import {
  kustomizeTool,
  type Manifest,
  type PodSpec,
  render,
  renderWith,
  templateOf,
} from "../../support/kube/manifests.js";
import { applyAll, asOf120, registerNodes, volume } from "../../support/kube/test_nodes.js";
import { until } from "../../support/until.js";

const skip = CONTROL_PLANE_SKIP;
const ROOT = "deploy/kubernetes";
const OVERLAYS = ["cpu-demo", "gpu", "jobset", "cpu-demo-monitored"];
/** Kinds of others, whose definitions are not here. */
const FOREIGN = ["JobSet", "Issuer", "Certificate", "PodMonitor", "PrometheusRule"];

let plane: ControlPlane;
before(async () => {
  if (skip) return;
  plane = await ControlPlane.start();
  await registerNodes(plane, 8);
  await plane.define();
});
after(() => plane?.stop());

/** Takes the manifests one and all, but for those of others. */
async function apply(manifests: readonly Manifest[], ...options: string[]): Promise<void> {
  const ours = manifests.filter(({ kind }) => !FOREIGN.includes(kind));
  const definitions = ours.filter(({ kind }) => kind === "CustomResourceDefinition");
  assert.equal(definitions.length, 1);
  await plane.applyDefinition(definitions[0]!, { dryRun: options.length > 0 });
  const others = ours.filter((one) => !definitions.includes(one)).map(asOf120);
  // A namespace that is about to be made is none yet for those that a dry run would put into it.
  await applyAll(
    plane,
    others.filter(({ kind }) => kind === "Namespace"),
  );
  await applyAll(plane, others, ...options);
}
const pods = async () => (await plane.ask<{ items: Pod[] }>("GET", "/api/v1/namespaces/goku/pods")).items;
const placed = async (count: number): Promise<Pod[]> => {
  await until(async () => (await pods()).filter(({ spec }) => spec.nodeName !== undefined).length === count);
  return pods();
};
const agents = (all: readonly Pod[]) =>
  all.filter(({ metadata }) => metadata.labels?.["app.kubernetes.io/component"] === "worker");

for (const overlay of OVERLAYS)
  test(`the API server takes every manifest of the overlay ${overlay}, and no field is unknown to it`, {
    skip,
  }, async () => {
    await apply(render(kustomizeTool()!, `${ROOT}/overlays/${overlay}`), "--dry-run=server");
  });

test("the same of the base with certificates by cert-manager", { skip }, async () => {
  const manifests = renderWith(kustomizeTool()!, `${ROOT}/base`, [`${ROOT}/components/cert-manager`]);
  await apply(manifests, "--dry-run=server");
});

test("the API server says which field of a manifest is unknown", { skip }, async () => {
  const [manifest] = render(kustomizeTool()!, `${ROOT}/base`).filter(({ kind }) => kind === "StatefulSet");
  const wrong = asOf120({ ...manifest!, spec: { ...manifest!.spec, replica: 3 } });
  await assert.rejects(applyAll(plane, [wrong], "--dry-run=server"), /replica/);
});

test("cpu-demo: all pods are made, admitted as restricted and as they are, and placed, agents and controllers on one machine", {
  skip,
}, async () => {
  const manifests = render(kustomizeTool()!, `${ROOT}/overlays/cpu-demo`);
  await apply(manifests);
  const all = await placed(10);
  const machines = new Set(
    all
      .filter(({ metadata }) => metadata.labels?.["goku.dev/shares"] === "checkpoints")
      .map(({ spec }) => spec.nodeName),
  );
  assert.equal(machines.size, 1, [...machines].join());
  const etcd = all.filter(({ metadata }) => metadata.name.startsWith("goku-etcd-"));
  assert.equal(new Set(etcd.map(({ spec }) => spec.nodeName)).size, 3, "members of etcd are apart");
  // What an admission for restricted pods would have to add, a newer one refuses.
  for (const { metadata, spec } of all) {
    const owner = manifests.find(({ kind, metadata: { name } }) =>
      kind === "Job" || kind === "StatefulSet" ? metadata.name.startsWith(`${name}-`) : false,
    )!;
    const wanted = templateOf(owner)!.spec;
    const got = spec as unknown as PodSpec;
    assert.deepEqual(got.securityContext, wanted.securityContext, metadata.name);
    for (const [i, container] of wanted.containers.entries())
      assert.deepEqual(got.containers[i]!.securityContext, container.securityContext, metadata.name);
  }
});

test("a pod that wants more is not admitted", { skip }, async () => {
  const pod = {
    ...{ apiVersion: "v1", kind: "Pod", metadata: { name: "wants-more", namespace: "goku" } },
    spec: {
      containers: [{ name: "one", image: "one", securityContext: { privileged: true } }],
    },
  };
  await assert.rejects(applyAll(plane, [pod]), /privileged containers are not allowed/i);
});

test("gpu: agents wait for a volume of media; then eight are on eight machines, with the GPUs asked for", {
  skip,
}, async () => {
  const removed = await plane.kubectl(["-n", "goku", "delete", "statefulset", "goku-worker"]);
  assert.equal(removed.code, 0, removed.stderr);
  for (const { metadata } of agents(await pods()))
    await plane.kubectl(["-n", "goku", "delete", "pod", metadata.name, "--force", "--grace-period=0"]);
  await until(async () => agents(await pods()).length === 0);
  await apply(render(kustomizeTool()!, `${ROOT}/overlays/gpu`));
  await until(async () => agents(await pods()).filter(waitsForVolume).length === 8);
  const media = { accessModes: ["ReadWriteMany"], hostPath: { path: "/nowhere" } };
  await applyAll(plane, [volume("media", 1024, media)]);
  await until(async () => agents(await pods()).filter(({ spec }) => spec.nodeName).length === 8);
  const all = agents(await pods());
  assert.equal(new Set(all.map(({ spec }) => spec.nodeName)).size, 8);
  assert.ok(all.every(({ spec }) => spec.containers[0]!.resources!.limits!["nvidia.com/gpu"] === "8"));
});

function waitsForVolume({ status }: Pod): boolean {
  const scheduled = status?.conditions?.find(({ type }) => type === "PodScheduled");
  return scheduled?.status === "False" && /persistent ?volume/i.test(scheduled.message ?? "");
}

const RIGHTS: [account: string, verb: string, resource: string, may: boolean][] = [
  ["goku-controller", "list", "trainingjobs.goku.dev", true],
  ["goku-controller", "patch", "trainingjobs.goku.dev/status", true],
  ["goku-controller", "delete", "trainingjobs.goku.dev", false],
  ["goku-controller", "watch", "pods", true],
  ["goku-controller", "patch", "pods/goku-controller-0", true],
  ["goku-controller", "patch", "pods/goku-worker-0", false],
  ["goku-controller", "create", "pods", false],
  ["goku-controller", "get", "secrets", false],
  ["goku-controller", "create", "pods/eviction", true],
  ["goku-controller", "patch", "nodes", true],
  ["goku-controller", "delete", "nodes", false],
  ["goku-worker", "get", "pods", false],
  ["goku-worker", "get", "trainingjobs.goku.dev", false],
  ["goku-etcd", "get", "pods", false],
  ["goku-bootstrap", "create", "secrets", true],
  ["goku-bootstrap", "get", "secrets/goku-ca", true],
  ["goku-bootstrap", "list", "secrets", false],
];
test("gpu: every account may do its part and no more, as the API server judges it", { skip }, async () => {
  for (const [account, verb, target, may] of RIGHTS) {
    const as = `--as=system:serviceaccount:goku:${account}`;
    const [resource, part] = target.split("/");
    const isSub = part === "status" || part === "eviction";
    const what = isSub ? [resource!, `--subresource=${part}`] : [target];
    const { stdout, stderr } = await plane.kubectl(["-n", "goku", "auth", "can-i", verb, ...what, as]);
    assert.equal(stdout.trim(), may ? "yes" : "no", `${account} ${verb} ${target}: ${stderr}`);
  }
});
