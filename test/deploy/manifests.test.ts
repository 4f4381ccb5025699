import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { parse, stringify } from "yaml";
import { SECRET_NAMES, SECRETS } from "../../cli/kubernetes_secrets.js";
import { AGENT_PODS } from "../../controller/kubernetes/http_kube_api.js";
import { AGENT_CONTAINER, nodeIdOf } from "../../controller/kubernetes/pod_fate.js";
import { DASHBOARDS } from "../../deploy/grafana/src/dashboards.js";
import { resolveAnyJob } from "../../job/load_job.js";
import {
  type Container,
  kustomizeTool,
  type Manifest,
  type PodTemplate,
  render,
  renderWith,
  templateOf,
} from "../support/kube/manifests.js";
import { fieldProblems, modelOf } from "../support/kube/unknown_fields.js";

const ROOT = "deploy/kubernetes";
const CERT_MANAGER = "base with components/cert-manager";
const DOMAINS = "base with components/failure-domains";
const FOLDERS = [
  "base",
  CERT_MANAGER,
  DOMAINS,
  "overlays/cpu-demo",
  "overlays/gpu",
  "overlays/jobset",
  "overlays/cpu-demo-monitored",
];
/** Kinds of others, whose fields no model here knows: their pod templates are examined all the same. */
const FOREIGN = ["JobSet", "Issuer", "Certificate", "PodMonitor", "PrometheusRule"];

const tool = kustomizeTool();
const skip = tool === null ? "no kubectl or kustomize that renders them: scripts/kubectl.sh says why" : false;
const rendered = new Map<string, Manifest[]>();
/** Rendered once, when first asked for. */
function manifests(folder: string): Manifest[] {
  const [base, ...components] = folder.split(" with ").map((name) => `${ROOT}/${name}`);
  const known =
    rendered.get(folder) ??
    (components.length > 0 ? renderWith(tool!, base!, components) : render(tool!, base!));
  rendered.set(folder, known);
  return known;
}
const named = (one: Manifest) => `${one.kind} ${one.metadata.name}`;
const pods = (folder: string): { owner: Manifest; template: PodTemplate }[] =>
  manifests(folder).flatMap((owner) => {
    const template = templateOf(owner);
    return template === null ? [] : [{ owner, template }];
  });
const containersOf = ({ spec }: PodTemplate): Container[] => [
  ...(spec.initContainers ?? []),
  ...spec.containers,
];

for (const folder of FOLDERS) {
  test(`${folder}: every field is known to Kubernetes and of its type`, { skip }, () => {
    const problems = manifests(folder).flatMap((one) => {
      if (FOREIGN.includes(one.kind)) return [];
      const model = modelOf(one.apiVersion, one.kind);
      return model === null
        ? [`${named(one)}: no model of ${one.apiVersion}`]
        : fieldProblems(model, one, named(one));
    });
    assert.deepEqual(problems, []);
    assert.deepEqual(
      pods(folder).flatMap(({ owner, template }) =>
        fieldProblems("V1PodTemplateSpec", template, named(owner)),
      ),
      [],
    );
  });

  test(`${folder}: what is required is there, by the models of kubernetes-models`, { skip }, async () => {
    for (const one of manifests(folder)) {
      if (FOREIGN.includes(one.kind)) continue;
      // The modules of a group and version stand under its name.
      const { [one.kind]: Model } = (await import(`kubernetes-models/${one.apiVersion}`)) as Record<
        string,
        new (
          data: object,
        ) => { validate(): void }
      >;
      assert.doesNotThrow(() => new Model!(one).validate(), named(one));
    }
  });

  test(`${folder}: every pod is restricted, small in what it asks and bounded in memory`, { skip }, () => {
    for (const { owner, template } of pods(folder)) {
      const pod = template.spec.securityContext ?? {};
      assert.equal(pod.runAsNonRoot, true, named(owner));
      assert.deepEqual(pod.seccompProfile, { type: "RuntimeDefault" }, named(owner));
      for (const container of containersOf(template)) {
        const told = `${named(owner)}, ${container.name}`;
        assert.deepEqual(
          container.securityContext,
          { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ["ALL"] } },
          told,
        );
        assert.ok(
          container.resources?.requests?.cpu && container.resources.requests.memory,
          `${told}: no requests`,
        );
        assert.ok(container.resources?.limits?.memory, `${told}: no limit of memory`);
        assert.match(container.image, /:[^:@/]+$/, `${told}: no tag`);
        assert.doesNotMatch(container.image, /:latest$/, told);
      }
      for (const volume of template.spec.volumes ?? []) assert.ok(!("hostPath" in volume), named(owner));
    }
    const namespace = manifests(folder).find(({ kind }) => kind === "Namespace");
    assert.equal(namespace?.metadata.labels?.["pod-security.kubernetes.io/enforce"], "restricted");
  });

  test(`${folder}: what is named is there: accounts, Secrets, volumes, roles, selected pods`, {
    skip,
  }, () => {
    const all = manifests(folder);
    const has = (kind: string, name: string) =>
      all.some((one) => one.kind === kind && one.metadata.name === name);
    for (const { owner, template } of pods(folder)) {
      const { serviceAccountName, volumes = [] } = template.spec;
      assert.ok(has("ServiceAccount", serviceAccountName!), `${named(owner)}: ${serviceAccountName}`);
      const claims = (owner.spec as { volumeClaimTemplates?: { metadata: { name: string } }[] })
        .volumeClaimTemplates;
      const known = new Set([
        ...volumes.map(({ name }) => name),
        ...(claims ?? []).map((one) => one.metadata.name),
      ]);
      const mounted = containersOf(template).flatMap(({ volumeMounts = [] }) =>
        volumeMounts.map(({ name }) => name),
      );
      assert.deepEqual(
        [...new Set(mounted)].sort(),
        [...known].sort(),
        `${named(owner)}: volumes and mounts`,
      );
      for (const { secret } of volumes)
        if (secret !== undefined) assert.ok(SECRET_NAMES.includes(secret.secretName), secret.secretName);
    }
    for (const one of all.filter(({ kind }) => kind.endsWith("RoleBinding"))) {
      const { roleRef, subjects } = one as unknown as {
        roleRef: { kind: string; name: string };
        subjects: { kind: string; name: string }[];
      };
      assert.ok(has(roleRef.kind, roleRef.name), named(one));
      for (const { kind, name } of subjects) assert.ok(has(kind, name), `${named(one)}: ${name}`);
    }
    for (const one of all.filter(({ kind }) =>
      ["Service", "PodDisruptionBudget", "NetworkPolicy"].includes(kind),
    )) {
      const selected = selectorOf(one);
      // The label of the leader is put on by itself.
      const { "goku.dev/leader": _leader, ...wanted } = selected;
      const found = pods(folder).filter(({ template }) => matches(template, wanted));
      const isElsewhere = folder === "overlays/jobset" && one.kind === "NetworkPolicy";
      assert.ok(found.length > 0 || isElsewhere, `${named(one)} selects no pod`);
    }
  });

  test(`${folder}: whatever is not allowed is denied, and every pod is allowed what it needs`, {
    skip,
  }, () => {
    const policies = manifests(folder).filter(({ kind }) => kind === "NetworkPolicy");
    const deny = policies.find(({ metadata }) => metadata.name === "goku-deny");
    assert.deepEqual(deny?.spec, { podSelector: {}, policyTypes: ["Ingress", "Egress"] });
    for (const { owner, template } of pods(folder)) {
      const mine = policies.filter((one) => {
        const labels = selectorOf(one);
        return Object.keys(labels).length > 0 && matches(template, labels);
      });
      assert.equal(mine.length, 1, `${named(owner)} has ${mine.length} policies of its own`);
    }
  });

  test(`${folder}: programs are called with options that they have, and are given the time that they are told`, {
    skip,
  }, () => {
    for (const { owner, template } of pods(folder))
      for (const { args, image } of containersOf(template)) {
        if (!image.includes("goku-")) continue;
        const words = (args ?? [])
          .filter((word) => /^[a-z]+$/.test(word))
          .slice(0, args![0] === "kubernetes" ? 2 : 1);
        const help = helpOf(words);
        for (const word of args!.filter((one) => one.startsWith("--"))) {
          const option = word.split("=")[0]!;
          assert.match(
            help,
            new RegExp(`${option}\\b`),
            `${named(owner)}: ${words.join(" ")} has no ${option}`,
          );
        }
        const grace = args!.find((word) => word.startsWith("--grace="))?.split("=")[1];
        const period = template.spec.terminationGracePeriodSeconds ?? 30;
        if (grace !== undefined)
          assert.ok(period >= Number(grace) + 20, `${named(owner)}: ${grace} s of ${period}`);
      }
  });
}

const helps = new Map<string, string>();
function helpOf(words: readonly string[]): string {
  const key = words.join(" ");
  const known = helps.get(key);
  if (known !== undefined) return known;
  const done = spawnSync(process.execPath, ["dist/programs/gokuctl.js", ...words, "--help"], {
    encoding: "utf8",
  });
  assert.equal(done.status, 0, done.stderr);
  helps.set(key, done.stdout);
  return done.stdout;
}

function selectorOf({ kind, spec }: Manifest): Record<string, string> {
  if (kind === "Service") return (spec?.selector ?? {}) as Record<string, string>;
  const selector = (kind === "NetworkPolicy" ? spec?.podSelector : spec?.selector) as {
    matchLabels?: Record<string, string>;
  };
  return selector.matchLabels ?? {};
}

function matches({ metadata }: PodTemplate, wanted: Record<string, string>): boolean {
  return Object.entries(wanted).every(([key, value]) => metadata?.labels?.[key] === value);
}

test("agents are found by the controller: their label, their container, their node's name", { skip }, () => {
  const wanted = Object.fromEntries(AGENT_PODS.split(",").map((part) => part.split("=") as [string, string]));
  for (const folder of FOLDERS) {
    const agents = pods(folder).filter(({ template }) => matches(template, wanted));
    assert.equal(agents.length, 1, folder);
    const [agent] = agents[0]!.template.spec.containers;
    assert.equal(agent?.name, AGENT_CONTAINER);
    const node = agent!.args!.find((word) => word.startsWith("--node="));
    const isSet = folder === "overlays/jobset";
    assert.equal(node, isSet ? "--node=$(GROUP)-$(JOB)-$(INDEX)" : "--node=$(POD_NAME)");
  }
  const metadata = { name: "x", uid: "u", resourceVersion: "1", creationTimestamp: "" };
  const labels = {
    "jobset.sigs.k8s.io/replicatedjob-name": "agents",
    "jobset.sigs.k8s.io/job-index": "0",
    "batch.kubernetes.io/job-completion-index": "3",
  };
  assert.equal(nodeIdOf({ metadata: { ...metadata, labels }, spec: { containers: [] } }), "agents-0-3");
  assert.equal(nodeIdOf({ metadata, spec: { containers: [] } }), "x");
});

test("a pod of an agent is Ready once its agent has joined, under the name that the agent has", {
  skip,
}, () => {
  for (const folder of FOLDERS) {
    const agent = pods(folder)
      .flatMap(({ template }) => template.spec.containers)
      .find(({ name }) => name === AGENT_CONTAINER)! as Container & {
      readinessProbe: { exec: { command: string[] } };
    };
    const option = (name: string) =>
      agent.args!.find((word) => word.startsWith(`--${name}=`))!.slice(name.length + 3);
    const node = option("node").replaceAll(/\$\((\w+)\)/g, "$$$1");
    assert.deepEqual(agent.readinessProbe.exec.command, [
      ...["sh", "-c", `test -e ${option("state-dir")}/"${node}"/joined`],
    ]);
    const set = manifests(folder).find((one) => named(one) === "StatefulSet goku-worker");
    if (folder !== "overlays/jobset") assert.equal(set!.spec!.minReadySeconds, 15, folder);
  }
});

test("overlays/gpu asks for GPUs, as many as ranks, memory for /dev/shm within the pod's, and one machine a pod", {
  skip,
}, () => {
  const { template } = pods("overlays/gpu").find(({ owner }) => owner.metadata.name === "goku-worker")!;
  const [agent] = template.spec.containers;
  const gpus = agent?.resources?.limits?.["nvidia.com/gpu"];
  assert.ok(agent!.args!.includes(`--slots=${gpus}`));
  assert.deepEqual(agent?.resources?.requests, agent?.resources?.limits, "Guaranteed");
  const shm = template.spec.volumes!.find(({ name }) => name === "shm")!.emptyDir as {
    medium: string;
    sizeLimit: string;
  };
  assert.equal(shm.medium, "Memory");
  assert.ok(Number.parseInt(shm.sizeLimit, 10) < Number.parseInt(agent!.resources!.limits!.memory!, 10));
  assert.ok(agent!.env!.some(({ name }) => name === "NCCL_NET_GDR_LEVEL"));
});

test("components/monitoring: its resources of the Prometheus operator pass that operator's schema", {
  skip,
}, async () => {
  const all = manifests("overlays/cpu-demo-monitored").filter(({ apiVersion }) =>
    apiVersion.startsWith("monitoring.coreos.com/"),
  );
  assert.deepEqual(all.map(named).sort(), [
    "PodMonitor goku-controller",
    "PodMonitor goku-worker",
    "PrometheusRule goku",
  ]);
  for (const one of all) {
    const { [one.kind]: Model } = (await import(
      `@kubernetes-models/prometheus-operator/${one.apiVersion}`
    )) as Record<string, new (data: object) => { validate(): void }>;
    assert.doesNotThrow(() => new Model!(one).validate(), named(one));
    const wrong = structuredClone(one);
    Object.assign(wrong.spec!, { groups: 1, podMetricsEndpoints: 1 });
    assert.throws(() => new Model!(wrong).validate(), `${named(one)}: the schema lets anything pass`);
    for (const [, secret] of JSON.stringify(one.spec).matchAll(/"name":"(goku-[a-z-]+-tls)"/g))
      assert.ok(SECRET_NAMES.includes(secret!), secret);
  }
});

test("components/monitoring goes on every overlay: agents listen for Prometheus, and it is let in there alone", {
  skip,
}, () => {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-monitored-"));
  try {
    for (const overlay of ["cpu-demo", "gpu", "jobset"]) {
      const here = (part: string) => path.relative(realpathSync(folder), path.resolve(ROOT, part));
      const kustomization = {
        resources: [here(`overlays/${overlay}`)],
        components: [here("components/monitoring")],
        namespace: "goku",
      };
      writeFileSync(path.join(folder, "kustomization.yaml"), stringify(kustomization));
      const all = render(tool!, folder);
      const maps = all.filter(({ metadata }) => metadata.labels?.grafana_dashboard === "1");
      assert.equal(maps.length, Object.keys(DASHBOARDS).length, overlay);
      for (const { metadata, data } of maps) {
        assert.equal(metadata.namespace, "goku");
        for (const [name, text] of Object.entries(data as Record<string, string>)) {
          assert.equal(text, readFileSync(`deploy/grafana/dashboards/${name}`, "utf8"));
          // What kubectl apply keeps of an object stands in an annotation, of at most 256 KiB.
          assert.ok(text.length < 200_000, `${name}: ${text.length} bytes`);
        }
      }
      const [agent] = all
        .flatMap((one) => templateOf(one) ?? [])
        .flatMap(containersOf)
        .filter(({ name }) => name === AGENT_CONTAINER);
      const [port] = agent!.args!.flatMap((word) => /^--metrics-port=(\d+)$/.exec(word)?.[1] ?? []);
      assert.ok(agent!.args!.includes("--metrics-host=$(POD_IP)"), overlay);
      const policy = all.find((one) => named(one) === "NetworkPolicy goku-worker");
      const { ingress } = policy!.spec as { ingress: { ports?: { port: number }[] }[] };
      const open = ingress.flatMap(({ ports }) => ports ?? []).filter((one) => one.port === Number(port));
      assert.equal(open.length, 1, overlay);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

interface PodMonitor {
  selector: { matchLabels: Record<string, string> };
  podMetricsEndpoints: {
    port: string;
    scheme: string;
    honorLabels: boolean;
    tlsConfig: { serverName: string };
    relabelings: {
      sourceLabels?: string[];
      separator?: string;
      regex?: string;
      targetLabel: string;
      replacement?: string;
    }[];
  }[];
}

/** What Prometheus makes of a target's labels: https://prometheus.io/docs/prometheus/latest/configuration/configuration/#relabel_config */
function relabelled(
  relabelings: PodMonitor["podMetricsEndpoints"][0]["relabelings"],
  meta: Record<string, string>,
): Record<string, string> {
  const labels = { ...meta };
  for (const rule of relabelings) {
    const { sourceLabels = [], separator = ";", regex = "(.*)", targetLabel, replacement = "$1" } = rule;
    const found = new RegExp(`^(?:${regex})$`).exec(
      sourceLabels.map((name) => labels[name] ?? "").join(separator),
    );
    if (found !== null) labels[targetLabel] = replacement.replace("$1", found[1] ?? "");
  }
  return labels;
}

test("components/monitoring finds every controller and every agent by pods: port, TLS name, and the name of the node", {
  skip,
}, () => {
  const served = certificates();
  for (const overlay of ["overlays/cpu-demo", "overlays/gpu", "overlays/jobset"]) {
    const all = renderWith(tool!, `${ROOT}/${overlay}`, [`${ROOT}/components/monitoring`]);
    const templates = all.flatMap((one) => templateOf(one) ?? []);
    for (const [name, secret, container] of [
      ["goku-controller", "goku-controller-tls", "controller"],
      ["goku-worker", "goku-agent-tls", AGENT_CONTAINER],
    ] as const) {
      const told = `${overlay}, ${name}`;
      const monitor = all.find((one) => named(one) === `PodMonitor ${name}`)!;
      const { selector, podMetricsEndpoints } = monitor.spec as unknown as PodMonitor;
      const found = templates.filter((template) => matches(template, selector.matchLabels));
      assert.deepEqual(
        found.map(({ spec }) => spec.containers.map((one) => one.name)),
        [[container]],
        told,
      );
      const [endpoint] = podMetricsEndpoints;
      assert.equal(endpoint!.scheme, "https", told);
      assert.ok(endpoint!.honorLabels, told);
      const { args, ports = [] } = found[0]!.spec.containers[0]!;
      const listens = name === "goku-worker" ? "--metrics-port=" : "--rest-port=";
      const port = ports.find((one) => one.name === endpoint!.port)?.containerPort;
      assert.ok(args!.includes(`${listens}${port}`), `${told}: ${endpoint!.port} is ${port}`);
      const { dnsNames } = served.find(({ secretName }) => secretName === secret)!;
      assert.ok(dnsNames!.includes(endpoint!.tlsConfig.serverName), told);
    }
    const monitor = all.find((one) => named(one) === "PodMonitor goku-worker")!.spec as unknown as PodMonitor;
    const { relabelings } = monitor.podMetricsEndpoints[0]!;
    const name = "goku-worker-0";
    const plain = relabelled(relabelings, { __meta_kubernetes_pod_name: name });
    assert.deepEqual([plain.job, plain.node, plain.cluster], ["goku-nodes", name, "goku"]);
    // The same pod as the controller sees it and as Prometheus does.
    const labels = {
      "jobset.sigs.k8s.io/replicatedjob-name": "agents",
      "jobset.sigs.k8s.io/job-index": "0",
    };
    const annotations = { "batch.kubernetes.io/job-completion-index": "3" };
    const metadata = { name, uid: "u", resourceVersion: "1", creationTimestamp: "", labels, annotations };
    const seen = (kind: string, from: Record<string, string>) =>
      Object.entries(from).map(([key, value]) => [
        `__meta_kubernetes_pod_${kind}_${key.replaceAll(/[^a-zA-Z0-9_]/g, "_")}`,
        value,
      ]);
    const meta = Object.fromEntries([...seen("label", labels), ...seen("annotation", annotations)]);
    assert.equal(
      relabelled(relabelings, { ...meta, __meta_kubernetes_pod_name: name }).node,
      nodeIdOf({ metadata, spec: { containers: [] } }),
    );
  }
});

test("the commands of docs/kubernetes.md that show a run name Services, ports, Secrets and keys that are there", {
  skip,
}, () => {
  const section = /## See it\n.*?```sh\n(.*?)```/s.exec(readFileSync("docs/kubernetes.md", "utf8"));
  const commands = section![1]!;
  const [, service, ports] = /port-forward svc\/(\S+) ([\d ]+)/.exec(commands)!;
  const readme = /port-forward svc\/(\S+) (\d+)/.exec(readFileSync("README.md", "utf8"))!;
  assert.deepEqual([readme[1], readme[2]], [service, "7080"]);
  const secrets = [...commands.matchAll(/get secret (\S+) -o jsonpath='\{\.data\.(\S+?)\}'/g)];
  assert.equal(secrets.length, 2);
  for (const [, name, key] of secrets) {
    const files = SECRETS.find((one) => one.name === name)?.files ?? {};
    assert.ok(key!.replaceAll("\\.", ".") in files, `Secret ${name} has no ${key}`);
  }
  for (const folder of FOLDERS) {
    const found = manifests(folder).find((one) => named(one) === `Service ${service}`);
    assert.equal(found!.metadata.namespace, "goku", folder);
    const { ports: open } = found!.spec as { ports: { port: number; targetPort: string }[] };
    const { "goku.dev/leader": _leader, ...selected } = selectorOf(found!);
    const { template } = pods(folder).find((one) => matches(one.template, selected))!;
    const listened = template.spec.containers.flatMap((one) => one.ports ?? []).map(({ name }) => name);
    for (const port of ports!.trim().split(" ")) {
      const target = open.find((one) => one.port === Number(port))?.targetPort;
      assert.ok(listened.includes(target!), `${folder}: ${port} of ${service} leads to ${target}`);
    }
  }
});

test("agents and controllers get to object storage: credentials of one optional Secret, one policy to patch", {
  skip,
}, () => {
  const optional = [{ secretRef: { name: "goku-s3", optional: true } }];
  for (const folder of FOLDERS)
    for (const { template } of pods(folder)) {
      const { "app.kubernetes.io/component": component } = template.metadata?.labels ?? {};
      const isOurs = component === "worker" || component === "controller";
      for (const { envFrom } of template.spec.containers)
        assert.deepEqual(envFrom, isOurs ? optional : undefined, `${folder}: ${component}`);
      if (isOurs || component === "etcd")
        assert.equal(template.spec.serviceAccountName, `goku-${component}`, folder);
    }
});

test("components/failure-domains names a label, and may read machines and no more", { skip }, () => {
  const role = manifests(DOMAINS).find(({ kind, metadata }) => {
    return kind === "ClusterRole" && metadata.name === "goku-failure-domains";
  })!;
  assert.deepEqual(role.rules, [{ apiGroups: [""], resources: ["nodes"], verbs: ["get", "list", "watch"] }]);
  const controller = pods(DOMAINS).find(({ owner }) => owner.metadata.name === "goku-controller")!;
  const { args } = controller.template.spec.containers[0]!;
  assert.ok(args!.includes("--kubernetes-failure-domain-label=topology.kubernetes.io/zone"));
});

test("the overlay of docs/kubernetes.md, Storage, is one: its port, its role and its class arrive", {
  skip,
}, () => {
  const section = /## Storage\n.*?```yaml\n(.*?)```/s.exec(readFileSync("docs/kubernetes.md", "utf8"));
  const folder = mkdtempSync(path.join(tmpdir(), "goku-storage-"));
  try {
    const gpu = path.relative(realpathSync(folder), path.resolve(ROOT, "overlays/gpu"));
    writeFileSync(path.join(folder, "kustomization.yaml"), section![1]!.replace("../gpu", gpu));
    const all = render(tool!, folder);
    const one = (name: string) => all.find((each) => named(each) === name)!;
    const { egress } = one("NetworkPolicy goku-storage").spec as { egress: { ports: { port: number }[] }[] };
    assert.deepEqual(
      egress.flatMap(({ ports }) => ports.map(({ port }) => port)),
      [443, 9000, 80],
    );
    for (const name of ["goku-worker", "goku-controller"])
      assert.match(JSON.stringify(one(`ServiceAccount ${name}`).metadata.annotations), /role-arn/);
    assert.equal(one("ServiceAccount goku-etcd").metadata.annotations, undefined);
    assert.equal(one("PersistentVolumeClaim goku-data").spec?.storageClassName, "cephfs");
    for (const name of ["NetworkPolicy", "PersistentVolumeClaim", "ServiceAccount"])
      for (const each of all.filter(({ kind }) => kind === name))
        assert.deepEqual(fieldProblems(modelOf(each.apiVersion, name)!, each, named(each)), []);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("overlays/jobset: queue and topology in the words of Kueue and JobSet, and one pod of a name at a time", {
  skip,
}, () => {
  const set = manifests("overlays/jobset").find(({ kind }) => kind === "JobSet")!;
  assert.equal(set.metadata.labels?.["kueue.x-k8s.io/queue-name"], "goku");
  assert.ok(set.metadata.annotations?.["alpha.jobset.sigs.k8s.io/exclusive-topology"]);
  const [job] = (set.spec as { replicatedJobs: { template: { spec: object } }[] }).replicatedJobs;
  assert.deepEqual(fieldProblems("V1JobSpec", job!.template.spec, "JobSet"), []);
  assert.equal((job!.template.spec as { podReplacementPolicy: string }).podReplacementPolicy, "Failed");
  assert.ok(
    !manifests("overlays/jobset").some(
      ({ kind, metadata }) => kind === "StatefulSet" && metadata.name === "goku-worker",
    ),
  );
});

test("a quarantine reaches Kubernetes where there are machines to spare: the controller's option, and its account's rights", {
  skip,
}, () => {
  for (const folder of FOLDERS) {
    const all = manifests(folder);
    const { args } = templateOf(all.find((one) => named(one) === "StatefulSet goku-controller")!)!.spec
      .containers[0]!;
    const isAsked = ["overlays/gpu", "overlays/jobset"].includes(folder);
    assert.equal(args!.includes("--kubernetes-taint-nodes"), isAsked, folder);
    const bound = all.flatMap(({ kind, metadata, ...rest }) => {
      const { subjects = [] } = rest as { subjects?: { name: string; namespace: string }[] };
      const isTheirs = subjects.some(
        ({ name, namespace }) => name === "goku-controller" && namespace === "goku",
      );
      return kind.endsWith("RoleBinding") && isTheirs ? [metadata.name] : [];
    });
    for (const role of ["goku-node-taints", "goku-evict"])
      assert.equal(bound.includes(role), isAsked, `${folder}: ${role}`);
  }
  // An evicted agent of a JobSet comes back elsewhere, however often.
  const set = manifests("overlays/jobset").find(({ kind }) => kind === "JobSet")!;
  const [job] = (
    set.spec as { replicatedJobs: { template: { spec: { podFailurePolicy: { rules: object[] } } } }[] }
  ).replicatedJobs;
  assert.deepEqual(job!.template.spec.podFailurePolicy.rules[0], {
    action: "Ignore",
    onPodConditions: [{ type: "DisruptionTarget", status: "True" }],
  });
});

test("cpu-demo trains what examples/shapes.yaml says, on the slots that it has", { skip }, () => {
  const read = (file: string) => resolveAnyJob(parse(readFileSync(file, "utf8")));
  const ours = read(`${ROOT}/overlays/cpu-demo/shapes.yaml`);
  const example = read("examples/shapes.yaml");
  assert.ok("train" in ours && "train" in example);
  assert.deepEqual(
    { ...ours, data: null, checkpoint: null, recovery: null, sample: null },
    { ...example, data: null, checkpoint: null, recovery: null, sample: null },
  );
  const worker = manifests("overlays/cpu-demo").find(
    ({ kind, metadata }) => kind === "StatefulSet" && metadata.name === "goku-worker",
  )!;
  const { replicas } = worker.spec as { replicas: number };
  const slots = templateOf(worker)!
    .spec.containers[0]!.args!.find((word) => word.startsWith("--slots="))!
    .split("=")[1];
  assert.ok(
    ours.layout !== "auto" &&
      replicas * Number(slots) === ours.layout.dp_replicate * ours.layout.dp_shard * ours.layout.sp,
  );
});

test("Prometheus reads agents wherever they run: one port, open to its namespace alone, under the name that it asks for", {
  skip,
}, () => {
  for (const folder of FOLDERS) {
    const agent = pods(folder)
      .flatMap(({ template }) => template.spec.containers)
      .find(({ name }) => name === AGENT_CONTAINER)!;
    assert.ok(agent.args!.includes("--metrics-host=$(POD_IP)"), folder);
    const port = Number(agent.args!.find((word) => word.startsWith("--metrics-port="))?.split("=")[1]);
    const policy = manifests(folder).find(
      ({ kind, metadata }) => kind === "NetworkPolicy" && metadata.name === "goku-worker",
    )!;
    const { ingress } = policy.spec as { ingress: object[] };
    assert.deepEqual(
      ingress.filter((rule) => "ports" in rule),
      [
        {
          from: [{ namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": "monitoring" } } }],
          ports: [{ protocol: "TCP", port }],
        },
      ],
      folder,
    );
  }
  const names = certificates().find(({ secretName }) => secretName === "goku-agent-tls")?.dnsNames;
  assert.deepEqual(names, ["goku-agent"]);
  const asked = readFileSync("deploy/prometheus/prometheus.yml", "utf8");
  assert.match(asked, /server_name: goku-agent/);
});

test("cert-manager makes every Secret of certificates, of two CAs, with the subjects of docs/security.md", {
  skip,
}, () => {
  const made = certificates();
  assert.deepEqual(
    made.map(({ secretName }) => secretName).sort(),
    SECRET_NAMES.filter((name) => name !== "goku-tokens").sort(),
  );
  const organisations = made.flatMap(({ secretName, subject }) =>
    subject === undefined ? [] : [[secretName, ...subject.organizations]],
  );
  assert.deepEqual(organisations, [
    ["goku-agent-tls", "goku:agent"],
    ["goku-operate-tls", "goku:operate"],
    ["goku-read-tls", "goku:read"],
  ]);
  const bootstrap = pods(CERT_MANAGER).find(({ owner }) => owner.metadata.name === "goku-bootstrap");
  assert.ok(bootstrap!.template.spec.containers[0]!.args!.includes("--tokens-only"));
});

function certificates() {
  return manifests(CERT_MANAGER)
    .filter(({ kind }) => kind === "Certificate")
    .map(
      ({ spec }) =>
        spec as { secretName: string; subject?: { organizations: string[] }; dnsNames?: string[] },
    );
}

test("a field that is misspelt, or of another type, is found", () => {
  const pod = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "x" },
    spec: { containers: [{ name: "a", imagePullPolcy: "Always" }] },
  };
  assert.deepEqual(fieldProblems("V1Pod", pod, "Pod x"), [
    "Pod x.spec.containers[0].imagePullPolcy is no field of V1Container",
  ]);
  const typed = { ...pod, spec: { containers: [{ name: "a", tty: "yes" }] } };
  assert.deepEqual(fieldProblems("V1Pod", typed, "Pod x"), [
    'Pod x.spec.containers[0].tty is "yes", want boolean',
  ]);
});
