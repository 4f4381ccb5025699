import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { REFINED, type StructuralSchema, structural } from "../../../controller/kubernetes/crd/structural.js";
import { specSchema, trainingJobCrd } from "../../../controller/kubernetes/crd/training_job.js";
import { isCheckpointUri } from "../../../job/checkpoint_uri.js";
import { commandJobSchema } from "../../../job/command_job.js";
import { jobSchema } from "../../../job/job.js";
import { schemaKeys } from "../../../job/job_keys.js";
import { CRD_FILE, crdText } from "../../../scripts/crd.js";
import { crdProblems } from "../../support/crd_validator.js";
import { cliProblems, GOOD, LEFT, PROBES, PROGRAM, put, SAID } from "../../support/kube/bad_jobs.js";

const spec = specSchema();

test("the definition in deploy/ is the one of the job schema: make crd", () => {
  assert.equal(readFileSync(CRD_FILE, "utf8"), crdText());
});

test("every key of the job file is in the definition, and no other", () => {
  const keys: string[] = [];
  const walk = (schema: StructuralSchema, path: string): void => {
    if (schema.properties === undefined) keys.push(path);
    for (const [key, child] of Object.entries(schema.properties ?? {}))
      walk(child, path === "" ? key : `${path}.${key}`);
  };
  walk(spec, "");
  const wanted = schemaKeys().filter((key) => !key.startsWith("layout."));
  assert.deepEqual(keys.sort(), wanted.sort());
});

test("each check that JSON Schema cannot say is a rule, or is known to be left to the controller", () => {
  const custom = new Set<string>();
  const visit = (schema: { _zod: { def: object } }, path: string): void => {
    const def = schema._zod.def as {
      type: string;
      checks?: { _zod: { def: { check: string } } }[];
      innerType?: typeof schema;
      shape?: Record<string, typeof schema>;
      items?: (typeof schema)[];
      element?: typeof schema;
    };
    if (def.checks?.some((check) => check._zod.def.check === "custom")) custom.add(path);
    if (def.type === "record") custom.add(path);
    if (def.innerType) visit(def.innerType, path);
    for (const [key, child] of Object.entries(def.shape ?? {}))
      visit(child, path === "" ? key : `${path}.${key}`);
    if (def.items) visit(def.items[0]!, `${path}.0`);
    if (def.element) visit(def.element, `${path}.0`);
  };
  visit(jobSchema, "");
  visit(commandJobSchema, "");
  assert.deepEqual([...custom].sort(), Object.keys(REFINED).sort());
});

for (const base of [GOOD, PROGRAM])
  test(`${base === GOOD ? "a job of our model" : "a program of its own"}: the API server refuses of every key what gokuctl refuses`, () => {
    let refused = 0;
    for (const key of schemaKeys().filter((one) => one !== "name" && !LEFT.test(one)))
      for (const value of PROBES) {
        const job = put(base, key, value);
        const cli = cliProblems(job);
        const crd = crdProblems(spec, job);
        const told = `${key} = ${JSON.stringify(value)}: gokuctl ${JSON.stringify(cli)}, API server ${JSON.stringify(crd)}`;
        const isRelative = crd.every(({ text }) => text.startsWith("want an absolute path"));
        if (cli.length === 0) assert.ok(crd.length === 0 || isRelative, told);
        // The API server takes null for a key that is not there, and so the controller gets it.
        else if (value !== null && !isBetweenKeys(cli)) assert.ok(crd.length > 0, told);
        refused += crd.length > 0 ? 1 : 0;
      }
    assert.ok(refused > 500, `${refused} values were refused`);
  });

/** Checks between keys run only once all keys are well, and are left to the controller; most name the other key. */
function isBetweenKeys(cli: readonly string[]): boolean {
  const named = /, want .*\b(model|data|sample)\.[a-z_]+/;
  return cli.every(
    (text) => named.test(text) || / multiple of 2 \* heads|1 as its first|pixels of one patch/.test(text),
  );
}

for (const [name, job] of SAID)
  test(`${name}: the API server says it in the words of gokuctl`, () => {
    const [cli, ...more] = new Set(cliProblems(job));
    assert.deepEqual(more, []);
    const [crd, ...others] = crdProblems(spec, job);
    assert.deepEqual(others, []);
    const shown = crd!.text.startsWith("want ") ? `${crd!.path} ... ${crd!.text}` : crd!.text;
    const [path, phrase] = [cli!.split(" ")[0]!, cli!.slice(cli!.indexOf("want "))];
    assert.ok(cli === shown || (shown.startsWith(path) && shown.endsWith(phrase)), `${cli} / ${shown}`);
  });

test("addresses: the rule takes what checkpoint_uri.ts takes, but for relative files and its 512 characters", () => {
  const parts = ["a", "b-1", ".x", "x.", "", "é", "a b", "a/b", "@+=,~-", "x".repeat(200), "x".repeat(201)];
  const uris = ["buck", "bu", "b.u-1", "Buck", "-ab", "x".repeat(63), "x".repeat(64)].flatMap((bucket) =>
    parts.flatMap((part) =>
      ["", "/", "//", "///"].flatMap((end) => [`s3://${bucket}/${part}${end}`, `s3://${bucket}${end}`]),
    ),
  );
  const taken = uris.filter(isCheckpointUri);
  const passed = uris.filter((uri) => crdProblems(spec, put(GOOD, "checkpoint.uri", uri)).length === 0);
  assert.ok(taken.length > 20);
  assert.deepEqual(new Set(passed), new Set(taken));
});

test("paths start at the root, since pods have no folder to start from", () => {
  assert.match(crdProblems(spec, put(GOOD, "data.media", "./data"))[0]!.text, /absolute path/);
  assert.match(crdProblems(spec, put(GOOD, "checkpoint.uri", "file://./runs/x"))[0]!.text, /absolute path/);
});

test("a spec does not change, and names are those of jobs", () => {
  const { versions } = trainingJobCrd().spec as {
    versions: { schema: { openAPIV3Schema: StructuralSchema } }[];
  };
  const { properties, ...root } = versions[0]!.schema.openAPIV3Schema;
  const named = (name: string, inSpec?: string) => ({
    metadata: { name },
    spec: inSpec === undefined ? GOOD : { ...GOOD, name: inSpec },
  });
  const rules = { ...root, required: [] };
  const texts = (value: unknown) => crdProblems(rules, value).map(({ text }) => text);
  assert.deepEqual(texts(named("shapes")), []);
  assert.deepEqual(texts(named("shapes", "shapes")), []);
  assert.match(texts(named("shapes.v2"))[0]!, /^metadata\.name: want 1 to 63/);
  assert.match(texts(named("shapes", "other"))[0]!, /^spec\.name: want metadata\.name/);
  assert.ok(properties !== undefined);
  assert.match(crdProblems(spec, put(GOOD, "train.steps", 11), { old: GOOD })[0]!.text, /does not change/);
  assert.deepEqual(crdProblems(spec, GOOD, { old: structuredClone(GOOD) }), []);
});

test("a schema that nothing is known of is an error, not a hole", async () => {
  const { z } = await import("zod");
  assert.throws(
    () => structural(z.strictObject({ x: z.date() })),
    /no structural schema is known for zod's date/,
  );
});
