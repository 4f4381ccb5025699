import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import type { TrainingJob } from "../../controller/kubernetes/training_job.js";
import { render } from "../support/kube/manifests.js";
import { asOf120 } from "../support/kube/test_nodes.js";
import { untilIn } from "../support/until_in.js";

/**
 * On a real cluster: the one that GOKU_TEST_KUBECONFIG names, with the images of GOKU_TEST_REGISTRY (such as
 * "ghcr.io/me/"; none: they are on its nodes already). What it makes, the namespace goku among it, it removes.
 * GOKU_TEST_ETCD_IMAGE names one of etcd that is where the cluster finds it. GOKU_TEST_CHECKPOINT_URI, an s3:// address that pods may
 * write to, with what they need for it in GOKU_TEST_CHECKPOINT_ENV ("NAME=value,NAME=value"), lets agents be on several machines. A server of before 1.21, which knows neither our rules nor policy/v1, gets the manifests
 * as it knows them, and knows TrainingJobs by then (make test-cluster).
 */
const kubeconfig = process.env.GOKU_TEST_KUBECONFIG;
const skip = kubeconfig === undefined ? "no cluster: GOKU_TEST_KUBECONFIG is not set" : false;
const registry = process.env.GOKU_TEST_REGISTRY ?? "";
const FOLDER = "deploy/kubernetes/overlays/e2e";
/** For images to be pulled, volumes to be made, and everything to start. */
const START_MS = 900_000;
const STEP_MS = 300_000;
/** With checkpoints on object storage no pod has to be where another is, nor needs the volume, which one machine alone can have. */
function elsewhere(settings: string): string[] {
  const env = settings === "" ? [] : settings.split(",").map((one) => /^([^=]+)=(.*)$/.exec(one)!.slice(1));
  const patches = [
    ["goku-worker", "agent"],
    ["goku-controller", "controller"],
  ].map(([name, container]) => ({
    ...{ apiVersion: "apps/v1", kind: "StatefulSet", metadata: { name } },
    spec: {
      template: {
        spec: {
          affinity: null,
          containers: [
            {
              name: container,
              env: env.map(([key, value]) => ({ name: key, value })),
              volumeMounts: [{ mountPath: "/checkpoints", $patch: "delete" }],
            },
          ],
          volumes: [{ name: "checkpoints", $patch: "delete" }],
        },
      },
    },
  }));
  return [
    "configMapGenerator: [{ name: goku-demo-job, behavior: merge, files: [shapes.yaml] }]",
    "patches:",
    ...patches.map((patch) => `  - { patch: ${JSON.stringify(JSON.stringify(patch))} }`),
  ];
}

function kubectl(args: readonly string[], input = ""): string {
  const done = spawnSync("kubectl", ["--kubeconfig", kubeconfig!, ...args], { encoding: "utf8", input });
  if (done.status !== 0) throw new Error(`kubectl ${args.join(" ")}: ${done.stderr}`);
  return done.stdout;
}
const inGoku = (...args: string[]) => kubectl(["-n", "goku", ...args]);
function job(): TrainingJob | null {
  const text = inGoku("get", "trainingjob", "shapes", "--ignore-not-found", "-o", "json");
  return text === "" ? null : (JSON.parse(text) as TrainingJob);
}
const step = () => job()?.status?.step ?? 0;
const reasons = () =>
  inGoku(
    "get",
    "events",
    "--field-selector",
    "involvedObject.name=shapes",
    "-o",
    "jsonpath={.items[*].reason}",
  ).split(" ");
/** It trains, further than now. */
const goesOn = async (what: string) => {
  const now = step();
  await untilIn(STEP_MS, what, () => job()?.status?.phase === "Running" && step() > now);
};
const uidOf = (pod: string) =>
  inGoku("get", "pod", pod, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}");

before(() => {
  if (skip) return;
  mkdirSync(FOLDER, { recursive: true });
  const images = ["goku-controller", "goku-worker-cpu"].map(
    (name) => `  - { name: ${name}, newName: ${registry}${name}, newTag: 0.1.0 }`,
  );
  const [etcd, tag] = process.env.GOKU_TEST_ETCD_IMAGE?.split(":") ?? [];
  // By then it has the name that the base has given it.
  if (etcd !== undefined)
    images.push(`  - { name: gcr.io/etcd-development/etcd, newName: ${etcd}, newTag: ${tag} }`);
  const uri = process.env.GOKU_TEST_CHECKPOINT_URI;
  if (uri !== undefined) {
    // Agents of several machines: the job's checkpoints where all of them reach them.
    const text = readFileSync("deploy/kubernetes/overlays/cpu-demo/shapes.yaml", "utf8");
    writeFileSync(path.join(FOLDER, "shapes.yaml"), text.replace("file:///checkpoints/shapes", uri));
  }
  const lines = [
    "namespace: goku",
    "resources: [../cpu-demo]",
    "components: [../../components/node-taints]",
    ...(uri === undefined ? [] : elsewhere(process.env.GOKU_TEST_CHECKPOINT_ENV ?? "")),
    "images:",
    ...images,
  ];
  writeFileSync(path.join(FOLDER, "kustomization.yaml"), `${lines.join("\n")}\n`);
});
after(() => {
  if (skip) return;
  const [options, input] = manifests();
  const all = ["--kubeconfig", kubeconfig!, "delete", "--ignore-not-found", "--wait=true", ...options];
  spawnSync("kubectl", all, { input });
  rmSync(FOLDER, { recursive: true, force: true });
});
/** How kubectl is told what there is to apply or delete, and what it reads for that. */
function manifests(): [options: string[], input: string] {
  const { serverVersion } = JSON.parse(kubectl(["version", "-o", "json"])) as {
    serverVersion: { minor: string };
  };
  if (Number.parseInt(serverVersion.minor, 10) > 20) return [["-k", FOLDER], ""];
  const items = render(["kubectl", "kustomize"], FOLDER)
    .filter(({ kind }) => kind !== "CustomResourceDefinition")
    .map(asOf120);
  return [["-f", "-"], JSON.stringify({ apiVersion: "v1", kind: "List", items })];
}

test("the API server takes every manifest, with unknown fields refused", { skip }, () => {
  const [options, input] = manifests();
  kubectl(["apply", "--server-side", "--force-conflicts", "--validate=strict", ...options], input);
});

test("everything starts by itself, and the job trains", { skip }, async () => {
  await untilIn(START_MS, "the job trains", () => job()?.status?.phase === "Running" && step() > 2);
  assert.match(
    inGoku("get", "trainingjobs"),
    /NAME\s+PHASE\s+STEP\s+PERCENT\s+ETA\s+LOSS\s+LAYOUT\s+LAST INCIDENT/,
  );
});

const BAD: [patch: string, said: RegExp][] = [
  ['{"train":{"steps":0}}', /want a whole number of at least 1/],
  ['{"precision":"fp16"}', /want one of fp32, bf16/],
  ['{"data":{"media":"./here"}}', /want an absolute path/],
  ['{"trainer":{"command":["true"]}}', /has no place beside trainer/],
  ['{"typo":1}', /unknown field/],
];
for (const [patch, said] of BAD)
  test(`the API server refuses ${patch} as gokuctl does`, { skip }, () => {
    const good = { data: { media: "/data" }, train: { steps: 5 }, checkpoint: { uri: "file:///runs/bad" } };
    const object = {
      ...{
        apiVersion: "goku.dev/v1alpha1",
        kind: "TrainingJob",
        metadata: { name: "bad", namespace: "goku" },
      },
      spec: { ...good, ...(JSON.parse(patch) as object) },
    };
    assert.throws(
      () => kubectl(["apply", "--dry-run=server", "--validate=strict", "-f", "-"], JSON.stringify(object)),
      said,
    );
  });

test("a spec that changes is refused", { skip }, () => {
  assert.throws(
    () => inGoku("patch", "trainingjob", "shapes", "--type=merge", "-p", '{"spec":{"seed":9}}'),
    /does not change/,
  );
});

test("a pod that is deleted saves, comes back, and is told of as what it was", { skip }, async () => {
  const before_ = uidOf("goku-worker-1");
  inGoku("delete", "pod", "goku-worker-1", "--wait=false");
  await untilIn(STEP_MS, "another pod is there", () => !["", before_].includes(uidOf("goku-worker-1")));
  await goesOn("it trains again");
  assert.ok(reasons().includes("NodePreempted"), reasons().join());
  assert.ok(reasons().includes("Recovered"), reasons().join());
});

test("a pod that is forced away is a lost node, and the job goes on", { skip }, async () => {
  const before_ = uidOf("goku-worker-0");
  inGoku("delete", "pod", "goku-worker-0", "--force", "--grace-period=0");
  await untilIn(STEP_MS, "another pod is there", () => !["", before_].includes(uidOf("goku-worker-0")));
  await goesOn("it trains again");
});

test("controllers are rolled: another leads, the Service finds it, training does not notice", {
  skip,
}, async () => {
  const incidents = job()?.status?.incidents;
  inGoku("rollout", "restart", "statefulset/goku-controller");
  inGoku("rollout", "status", "statefulset/goku-controller", "--timeout=300s");
  await goesOn("it is told that it trains");
  assert.equal(job()?.status?.incidents, incidents);
  const leaders = inGoku("get", "pods", "-l", "goku.dev/leader=true", "-o", "name").trim().split("\n");
  assert.equal(leaders.length, 1, leaders.join());
});

/** Pods of that name, each with its machine. */
function placesOf(name: string): [pod: string, machine: string][] {
  const line = '{.metadata.name} {.spec.nodeName}{"\\n"}';
  const label = `app.kubernetes.io/name=${name}`;
  const text = inGoku("get", "pods", "-l", label, "-o", `jsonpath={range .items[*]}${line}{end}`);
  return text
    .trim()
    .split("\n")
    .map((each) => each.split(" ") as [string, string]);
}

test("a machine that is tainted loses its agent, which comes back elsewhere", { skip }, async (t) => {
  const machines = kubectl(["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"]).split(" ");
  if (machines.length < 2 || process.env.GOKU_TEST_CHECKPOINT_URI === undefined)
    return t.skip("one machine, or checkpoints that only one may have: GOKU_TEST_CHECKPOINT_URI is not set");
  // A machine with two of three members of the store takes it along, and with it whoever could say what follows.
  const members = placesOf("goku-etcd").map(([, machine]) => machine);
  const found = placesOf("goku-worker").find(
    ([, machine]) => members.filter((one) => one === machine).length <= 1,
  );
  if (found === undefined) return t.skip("the agents' machine has two members of the store");
  const [agent, bad] = found;
  const machineOf = () =>
    inGoku("get", "pod", agent, "--ignore-not-found", "-o", "jsonpath={.spec.nodeName}");
  kubectl(["taint", "node", bad, "goku.dev/test=:NoExecute"]);
  t.after(() => kubectl(["taint", "node", bad, "goku.dev/test-"]));
  await untilIn(STEP_MS, "it runs elsewhere", () => !["", bad].includes(machineOf()));
  await goesOn("it trains again");
  assert.ok(reasons().includes("NodePreempted"), reasons().join());
});

test("a job that is deleted saves and stops, then goes", { skip }, async () => {
  const at = step();
  inGoku("delete", "trainingjob", "shapes", "--wait=false");
  await untilIn(STEP_MS, "it is gone", () => job() === null);
  if (process.env.GOKU_TEST_CHECKPOINT_URI !== undefined) return;
  const files = inGoku("exec", "goku-worker-0", "--", "ls", "/checkpoints/shapes").split(/\s+/);
  const saved = files.map((name) => Number(/^checkpoint-(\d+)$/.exec(name)?.[1] ?? 0));
  assert.ok(Math.max(...saved) >= at, `${files.join()} after step ${at}`);
});
