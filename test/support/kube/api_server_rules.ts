import { type ASTNode, Environment } from "@marcbachmann/cel-js";
import type { StructuralSchema } from "../../../controller/kubernetes/crd/structural.js";
import { crdProblems } from "../crd_validator.js";
import { ruleCost, sizeMax } from "./rule_cost.js";

/**
 * What an API server demands of the schema of a CustomResourceDefinition before it takes it: that it is structural, that lists
 * and defaults are whole, that rules compile, see only what rules may see, and cannot cost too much. By Kubernetes' pages
 * "Extend the Kubernetes API with CustomResourceDefinitions" and "Common Expression Language in Kubernetes".
 */
export const RULE_COST_MAX = 10_000_000;
export const ALL_COST_MAX = 100_000_000;
const MESSAGE_MAX = 2_048;
/** RE2 takes no larger count. */
const REPEAT_MAX = 1_000;

const TYPES = ["object", "array", "string", "integer", "number", "boolean"];
/** OpenAPI has more, which a structural schema must not use: $ref, definitions, patternProperties, uniqueItems, readOnly ... */
const KEYS = new Set([
  ...["type", "format", "title", "description", "default", "example", "nullable", "enum", "pattern"],
  ...["properties", "additionalProperties", "required", "items", "allOf", "anyOf", "oneOf", "not"],
  ...["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"],
  ...["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "externalDocs"],
  ...["x-kubernetes-validations", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"],
  ...["x-kubernetes-int-or-string", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"],
  ...["x-kubernetes-map-type"],
]);

const cel = new Environment({ unlistedVariablesAreDyn: true });

interface Place {
  path: string;
  /** How often a request may hold it. */
  count: number;
  /** Below a list whose items are not told apart, or a map: there is no old value to compare with. */
  isUncorrelated: boolean;
}

/** What rules at the root see of metadata; the API server knows no bound of it. */
const METADATA: StructuralSchema = {
  type: "object",
  properties: { name: { type: "string" }, generateName: { type: "string" } },
};

/** Problems of the whole schema, and what its rules may cost together. */
export function schemaProblems(root: StructuralSchema): { problems: string[]; cost: number } {
  const problems: string[] = [];
  let cost = 0;
  const visit = (schema: StructuralSchema, place: Place): void => {
    const told = (text: string) => problems.push(`${place.path || "root"}: ${text}`);
    for (const text of shapeProblems(schema)) told(text);
    for (const rule of schema["x-kubernetes-validations"] ?? []) {
      for (const text of textProblems(rule)) told(text);
      if (place.isUncorrelated && /\boldSelf\b/.test(rule.rule))
        told("oldSelf where old values cannot be found");
      const seen =
        schema === root ? { ...root, properties: { ...root.properties, metadata: METADATA } } : schema;
      try {
        const own = place.count * ruleCost(rule.rule, seen);
        cost += own;
        if (own > RULE_COST_MAX) told(`rule ${rule.rule} may cost ${own}`);
      } catch (error) {
        told(`rule ${rule.rule}: ${(error as Error).message}`);
      }
    }
    for (const [name, child] of Object.entries(schema.properties ?? {}))
      visit(child, { ...place, path: `${place.path}.${name}` });
    const { items, additionalProperties } = schema;
    const isMap = schema["x-kubernetes-list-type"] === "map";
    const below = { path: `${place.path}[]`, count: place.count * sizeMax(schema) };
    if (items !== undefined) visit(items, { ...below, isUncorrelated: place.isUncorrelated || !isMap });
    if (additionalProperties !== undefined)
      visit(additionalProperties, { ...below, isUncorrelated: place.isUncorrelated });
  };
  problems.push(...rootProblems(root));
  visit(root, { path: "", count: 1, isUncorrelated: false });
  if (cost > ALL_COST_MAX) problems.push(`all rules together may cost ${cost}`);
  return { problems, cost };
}

/** Of metadata a schema may say no more than its type, and rules see name and generateName alone. */
function rootProblems(root: StructuralSchema): string[] {
  const { apiVersion, kind, metadata } = root.properties ?? {};
  const problems: string[] = [];
  if (root.type !== "object" || root.nullable) problems.push("root: is no object");
  if (apiVersion?.type !== "string" || kind?.type !== "string")
    problems.push("root: apiVersion and kind are text");
  const own = Object.keys(metadata?.properties ?? {}).filter(
    (key) => !["name", "generateName"].includes(key),
  );
  if (metadata?.type !== "object" || own.length > 0) problems.push("root: metadata is more than an object");
  return problems;
}

function shapeProblems(schema: StructuralSchema): string[] {
  const { type, properties, additionalProperties, items, nullable } = schema;
  const isFree = schema["x-kubernetes-preserve-unknown-fields"] === true;
  const problems = Object.keys(schema)
    .filter((key) => !KEYS.has(key))
    .map((key) => `${key} is forbidden`);
  if (type === undefined ? !isFree : !TYPES.includes(type)) problems.push(`type ${type}`);
  if (type === "array" && items === undefined) problems.push("items is missing");
  if (type !== "array" && items !== undefined) problems.push("items of what is no list");
  if (type !== "object" && (properties ?? additionalProperties) !== undefined && type !== undefined)
    problems.push("properties of what is no object");
  if (properties !== undefined && additionalProperties !== undefined)
    problems.push("properties and additionalProperties exclude each other");
  for (const key of schema.required ?? [])
    if (properties !== undefined && !Object.hasOwn(properties, key))
      problems.push(`required ${key} is no property`);
  if ("default" in schema) {
    const value = (schema as { default: unknown }).default;
    if (value === null && !nullable) problems.push("default null, and not nullable");
    for (const { path, text } of crdProblems(schema, value)) problems.push(`default ${path}: ${text}`);
  }
  return [...problems, ...listProblems(schema)];
}

function listProblems(schema: StructuralSchema): string[] {
  const { type, items } = schema;
  const [list, keys] = [schema["x-kubernetes-list-type"], schema["x-kubernetes-list-map-keys"]];
  if (list === undefined) return keys === undefined ? [] : ["list-map-keys without a list-type"];
  if (type !== "array") return ["list-type of what is no list"];
  const isScalar = (one: StructuralSchema | undefined) =>
    one?.type !== undefined && one.type !== "object" && one.type !== "array" && !one.nullable;
  if (list === "set" && !isScalar(items)) return ["a set of what is no scalar"];
  if (list !== "map") return keys === undefined ? [] : ["list-map-keys of what is no map"];
  if (items?.type !== "object" || keys === undefined || keys.length === 0) return ["a map without keys"];
  return keys.flatMap((key) => {
    const known = items.properties?.[key];
    if (!isScalar(known)) return [`key ${key} is no scalar`];
    const isThere = (items.required ?? []).includes(key) || "default" in known!;
    return isThere ? [] : [`key ${key} may be missing`];
  });
}

function textProblems({ rule, message }: { rule: string; message: string }): string[] {
  const problems: string[] = [];
  if (message.trim() === "" || message.includes("\n") || message.length > MESSAGE_MAX)
    problems.push(`message ${JSON.stringify(message)}`);
  for (const pattern of patterns(cel.parse(rule).ast)) {
    if (/\(\?[=!<]|\\[1-9]/.test(pattern)) problems.push(`pattern ${pattern}: RE2 has no such group`);
    for (const [, count] of pattern.matchAll(/[{,](\d+)\}/g))
      if (Number(count) > REPEAT_MAX) problems.push(`pattern ${pattern}: repeats ${count}`);
  }
  return problems;
}

/** Patterns among the calls of an expression. */
function patterns(node: ASTNode): string[] {
  const parts: ASTNode[] = [];
  const collect = (part: unknown): void => {
    if (Array.isArray(part)) part.forEach(collect);
    else if (typeof part === "object" && part !== null && "op" in part) parts.push(part as ASTNode);
  };
  collect(node.args);
  const own = node.op === "rcall" && node.args[0] === "matches" ? node.args[2][0]! : null;
  const found = own?.op === "value" && typeof own.args === "string" ? [own.args] : [];
  return [...found, ...parts.flatMap(patterns)];
}
