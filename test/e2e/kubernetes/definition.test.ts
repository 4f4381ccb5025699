import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { stringify } from "yaml";
import { specSchema, trainingJobCrd } from "../../../controller/kubernetes/crd/training_job.js";
import { KubeError } from "../../../controller/kubernetes/kube_api.js";
import type { KubeHttp } from "../../../controller/kubernetes/kube_http.js";
import type { TrainingJob } from "../../../controller/kubernetes/training_job.js";
import { schemaKeys } from "../../../job/job_keys.js";
import { crdProblems } from "../../support/crd_validator.js";
import { gokuctl } from "../../support/gokuctl.js";
import {
  cliProblems,
  GOOD,
  LEFT,
  PROBES,
  PROGRAM,
  put,
  SAID,
  type Values,
} from "../../support/kube/bad_jobs.js";
import { CONTROL_PLANE_SKIP, ControlPlane } from "../../support/kube/control_plane.js";
import { kustomizeTool, type Manifest, render } from "../../support/kube/manifests.js";
import { applyAll, asOf120, registerNodes } from "../../support/kube/test_nodes.js";
import { until } from "../../support/until.js";

const skip = CONTROL_PLANE_SKIP;
const JOBS = "/apis/goku.dev/v1alpha1/namespaces/goku/trainingjobs";
/** Asked at once; an API server takes hundreds. */
const ASKED = 16;

let plane: ControlPlane;
let http: KubeHttp;
const folder = mkdtempSync(path.join(tmpdir(), "goku-definition-"));
before(async () => {
  if (skip) return;
  plane = await ControlPlane.start();
  await registerNodes(plane, 1);
  await plane.define();
  http = plane.http(plane.kubeconfig("admin"));
  const manifests = render(kustomizeTool()!, "deploy/kubernetes/overlays/cpu-demo");
  const accounts = ["Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole"];
  await applyAll(plane, manifests.filter(({ kind }) => accounts.includes(kind)).map(asOf120));
});
after(async () => {
  rmSync(folder, { recursive: true, force: true });
  await plane?.stop();
});

function jobOf(spec: Values, name = "shapes") {
  return { apiVersion: "goku.dev/v1alpha1", kind: "TrainingJob", metadata: { name }, spec };
}

/** What the API server says of a job, or of what has become of one; null: it would take it. */
async function refusal(object: object): Promise<string | null> {
  const query = { dryRun: "All", fieldValidation: "Strict" };
  try {
    await http.ask({ method: "POST", path: JOBS, query, body: object });
    return null;
  } catch (error) {
    if (!(error instanceof KubeError) || error.kind !== "invalid") throw error;
    return error.message;
  }
}

test("the definition is established, its names are taken, and nothing in its schema is ignored", {
  skip,
}, async () => {
  const definition = trainingJobCrd() as unknown as Manifest;
  const { status } = await plane.applyDefinition<{
    status: { conditions: { type: string; status: string }[] };
  }>(definition);
  const conditions = Object.fromEntries(status.conditions.map(({ type, status: is }) => [type, is]));
  assert.deepEqual(conditions, { NamesAccepted: "True", Established: "True" });
});

for (const base of [GOOD, PROGRAM])
  test(`${base === GOOD ? "a job of our model" : "a program of its own"}: the API server refuses of every key what our own evaluation of its rules refuses`, {
    skip,
  }, async () => {
    const spec = specSchema();
    const jobs = schemaKeys()
      .filter((key) => key !== "name" && !LEFT.test(key))
      .flatMap((key) => PROBES.map((value) => ({ key, value, job: put(base, key, value) })));
    const differences: string[] = [];
    const refused: string[] = [];
    const asker = async () => {
      for (let next = jobs.pop(); next !== undefined; next = jobs.pop()) {
        const { key, value, job } = next;
        const ours = crdProblems(spec, job);
        const said = await refusal(jobOf(job));
        if (said !== null) refused.push(said);
        if ((said === null) !== (ours.length === 0))
          differences.push(`${key} = ${JSON.stringify(value)}: ${said}; ours ${JSON.stringify(ours)}`);
      }
    };
    await Promise.all(Array.from({ length: ASKED }, asker));
    assert.deepEqual(differences, []);
    assert.ok(refused.length > 500, `${refused.length} values were refused`);
  });

for (const [name, job] of SAID)
  test(`${name}: the API server says it in the words of gokuctl`, { skip }, async () => {
    const [cli] = new Set(cliProblems(job));
    const said = await refusal(jobOf(job));
    const phrase = cli!.slice(cli!.indexOf("want "));
    assert.ok(said?.includes(phrase), `${said} / ${cli}`);
    assert.ok(said?.includes(cli!.split(" ")[0]!), `${said} / ${cli}`);
  });

test("a key that nobody knows, a name that no job may have, and another name in the spec are refused", {
  skip,
}, async () => {
  assert.match((await refusal(jobOf({ ...GOOD, typo: 1 })))!, /unknown field "spec\.typo"/);
  assert.match((await refusal(jobOf(GOOD, "shapes.v2")))!, /metadata\.name: want 1 to 63/);
  assert.match((await refusal(jobOf({ ...GOOD, name: "other" })))!, /spec\.name: want metadata\.name/);
  assert.equal(await refusal(jobOf({ ...GOOD, name: "shapes" })), null);
});

test("gokuctl applies a job file with the demo's account, tells what the API server says, and a spec does not change", {
  skip,
}, async () => {
  const env = { KUBECONFIG: await plane.accountConfig("goku-demo") };
  const file = path.join(folder, "shapes.yaml");
  writeFileSync(file, stringify({ name: "shapes", ...GOOD }));
  const apply = (...more: string[]) =>
    gokuctl(["kubernetes", "apply", file, "--namespace", "goku", ...more], { env });
  const first = await apply();
  assert.equal(first.code, 0, first.stderr);
  const again = await apply();
  assert.equal(again.code, 0, again.stderr);
  const changed = await apply("train.steps=11");
  assert.notEqual(changed.code, 0);
  assert.match(changed.stderr, /does not change/);
  const read = await plane.kubectl(["-n", "goku", "get", "trainingjob", "shapes", "-o", "json"]);
  assert.equal((JSON.parse(read.stdout) as TrainingJob).metadata.generation, 1);
});

test("kubectl shows what the definition says it shows, under its short name and among all", {
  skip,
}, async () => {
  const status = {
    ...{ observedGeneration: 1, phase: "Running", reason: "2 of 2 nodes", step: 7, stepsTotal: 10 },
    ...{ eta: "3m", loss: "0.512", layout: "1x2x2", conditions: [] },
    lastIncident: {
      ...{ number: 1, code: "RANK_DIED", what: "rank 1 died", decision: "", outcome: "RECOVERED" },
      detectedAt: "2026-01-01T00:00:00Z",
    },
    trainerStatus: { progressPercentage: 70, metrics: [], lastUpdatedTime: "2026-01-01T00:00:00Z" },
  };
  await plane.ask("PATCH", `${JOBS}/shapes/status`, {
    ...{ type: "application/merge-patch+json", body: { status } },
  });
  await until(async () => {
    const { stdout } = await plane.kubectl(["-n", "goku", "get", "tj"]);
    return /^NAME +PHASE +STEP +PERCENT +ETA +LOSS +LAYOUT +LAST INCIDENT +AGE\nshapes +Running +7 +70 +3m +0\.512 +1x2x2 +RANK_DIED +\d+m?s/m.test(
      stdout,
    );
  });
  const all = await plane.kubectl(["-n", "goku", "get", "all"]);
  assert.match(all.stdout, /trainingjob\.goku\.dev\/shapes/);
});

test("a status whose fields are of another type is refused", { skip }, async () => {
  const asked = plane.ask("PATCH", `${JOBS}/shapes/status`, {
    ...{ type: "application/merge-patch+json", body: { status: { step: "seven" } } },
  });
  await assert.rejects(asked, /status\.step: .*must be of type integer/);
});
