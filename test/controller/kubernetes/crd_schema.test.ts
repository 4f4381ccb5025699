import assert from "node:assert/strict";
import { test } from "node:test";
import type { StructuralSchema } from "../../../controller/kubernetes/crd/structural.js";
import { trainingJobCrd } from "../../../controller/kubernetes/crd/training_job.js";
import { crdText } from "../../../scripts/crd.js";
import { ALL_COST_MAX, schemaProblems } from "../../support/kube/api_server_rules.js";

interface Version {
  schema: { openAPIV3Schema: StructuralSchema };
  additionalPrinterColumns: { name: string; type: string; jsonPath: string }[];
}
const crd = trainingJobCrd() as { spec: { versions: Version[] } };
const [version] = crd.spec.versions;
const root = version!.schema.openAPIV3Schema;

test("the definition's schema and rules are such as an API server takes", (t) => {
  const { problems, cost } = schemaProblems(root);
  assert.deepEqual(problems, []);
  t.diagnostic(`all rules: at most ${cost} of ${ALL_COST_MAX}`);
});

test("kubectl apply can keep the definition in its annotation, and columns name what is there", () => {
  // 256 KiB for all annotations; what is kept is JSON.
  assert.ok(JSON.stringify(crd).length < 200_000, `${JSON.stringify(crd).length} bytes`);
  assert.ok(crdText().length < 1 << 20);
  for (const { name, type, jsonPath } of version!.additionalPrinterColumns) {
    assert.ok(["integer", "number", "string", "boolean", "date"].includes(type), name);
    let at: StructuralSchema | undefined = root;
    for (const key of jsonPath.slice(1).split(".")) {
      assert.ok(at !== undefined, `${name}: ${jsonPath}`);
      if (key === "metadata") break;
      at = at.properties?.[key];
    }
    if (!jsonPath.startsWith(".metadata")) assert.equal(at?.type, type, `${name}: ${jsonPath}`);
  }
});

const text: StructuralSchema = { type: "string", maxLength: 10 };
const withRule = (schema: StructuralSchema, rule: string, message = "want it"): StructuralSchema => ({
  ...schema,
  "x-kubernetes-validations": [{ rule, message }],
});
const withKey = (schema: StructuralSchema, key: string, value: unknown) =>
  ({ ...schema, [key]: value }) as StructuralSchema;
const unknown: StructuralSchema = { "x-kubernetes-preserve-unknown-fields": true };
const object = (properties: Record<string, StructuralSchema>): StructuralSchema => ({
  type: "object",
  properties,
});
const listed = (items: StructuralSchema, more: Partial<StructuralSchema>): StructuralSchema => ({
  type: "array",
  items,
  ...more,
});

/** What an API server refuses, as a field of a spec, and why. */
const REFUSED: [what: string, schema: StructuralSchema, why: RegExp][] = [
  ["no type", {}, /type undefined/],
  ["a type that there is not", withKey({}, "type", "float"), /type float/],
  ["a reference", withKey(text, "$ref", "#/x"), /\$ref is forbidden/],
  ["unique items", withKey(listed(text, {}), "uniqueItems", true), /uniqueItems is forbidden/],
  ["a list of nothing", { type: "array" }, /items is missing/],
  ["both kinds of properties", { ...object({ a: text }), additionalProperties: text }, /exclude each other/],
  ["a required key that there is not", { ...object({ a: text }), required: ["b"] }, /required b/],
  ["a default that is null", withKey(text, "default", null), /default null/],
  ["a default of another type", withKey(text, "default", 1), /default : must be of type string/],
  [
    "a default that its rule refuses",
    withKey(withRule(text, "self.size() > 3"), "default", "a"),
    /default : want it/,
  ],
  [
    "a map whose key may be missing",
    listed(object({ name: text }), {
      "x-kubernetes-list-type": "map",
      "x-kubernetes-list-map-keys": ["name"],
    }),
    /key name may be missing/,
  ],
  ["a map without keys", listed(object({ name: text }), { "x-kubernetes-list-type": "map" }), /without keys/],
  ["a set of objects", listed(object({}), { "x-kubernetes-list-type": "set" }), /set of what is no scalar/],
  ["keys of no map", listed(text, { "x-kubernetes-list-map-keys": ["name"] }), /without a list-type/],
  [
    "a rule about a key that there is not",
    withRule(object({ a: text }), "has(self.b)"),
    /undefined field 'b'/,
  ],
  ["a rule about unknown data", withRule(object({ a: unknown }), "has(self.a)"), /of unknown data/],
  [
    "a rule about a map of unknown data",
    withRule(object({ a: { type: "object", additionalProperties: unknown } }), "has(self.a)"),
    /of unknown data/,
  ],
  ["a rule about another variable", withRule(text, "other == self"), /undeclared reference to 'other'/],
  [
    "a rule over text of any length, often",
    listed(withRule({ type: "string" }, "self.matches('a+')"), {}),
    /may cost/,
  ],
  [
    "a rule over lists in lists",
    withRule(listed(listed(text, { maxItems: 10_000 }), {}), "self.all(a, a.all(b, b.size() > 0))"),
    /may cost/,
  ],
  ["old values of items", listed(withRule(text, "self == oldSelf"), { maxItems: 3 }), /oldSelf where/],
  ["a message of two lines", withRule(text, "self.size() > 0", "a\nb"), /message/],
  ["a pattern that looks ahead", withRule(text, "self.matches('a(?=b)')"), /RE2 has no such group/],
  ["a pattern that repeats too often", withRule(text, "self.matches('a{2000}')"), /repeats 2000/],
];

for (const [what, schema, why] of REFUSED)
  test(`refused: ${what}`, () => {
    const spec = root.properties!.spec!;
    const other = { ...spec, properties: { ...spec.properties, odd: schema } };
    const { problems } = schemaProblems({ ...root, properties: { ...root.properties, spec: other } });
    assert.ok(
      problems.some((problem) => problem.startsWith(".spec.odd") && why.test(problem)),
      problems.join("\n"),
    );
  });

test("refused: rules about more of metadata than its name", () => {
  const rule = withRule(root, "self.metadata.labels.size() > 0");
  assert.match(schemaProblems(rule).problems.join(), /undefined field 'labels'/);
});
