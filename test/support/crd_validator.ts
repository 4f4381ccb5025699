import { Environment } from "@marcbachmann/cel-js";
import type { StructuralSchema } from "../../controller/kubernetes/crd/structural.js";

export interface CrdProblem {
  /** Dotted, lists by number. */
  path: string;
  text: string;
}

/** CEL as the API server evaluates it, as far as rules of ours go; a rule that does not parse or type-check throws. */
const cel = new Environment({ unlistedVariablesAreDyn: true });

/**
 * What an API server with strict field validation says of a value: types, required and unknown fields of the structural
 * schema, then its rules. Rules are not asked where a type is wrong, nor of null.
 */
export function crdProblems(
  schema: StructuralSchema,
  whole: unknown,
  options: { path?: string; old?: unknown } = {},
): CrdProblem[] {
  const path = options.path ?? "";
  const value = withoutNulls(schema, whole);
  if (value === null && schema.nullable) return [];
  const typed = typeProblem(schema, value);
  if (typed !== null) return [{ path, text: typed }];
  const below = childProblems(schema, value, path);
  if (below.length > 0) return below;
  return (schema["x-kubernetes-validations"] ?? [])
    .filter(({ rule }) => !rule.includes("oldSelf") || options.old !== undefined)
    .filter(({ rule }) => {
      const context = { self: celValue(schema, value), oldSelf: celValue(schema, options.old) };
      return cel.evaluate(rule, context) !== true;
    })
    .map(({ message }) => ({ path, text: message }));
}

/** A null that may not be one is left out of its object before anything is looked at; so does the API server since 1.20. */
function withoutNulls({ properties }: StructuralSchema, value: unknown): unknown {
  const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
  if (!isObject || properties === undefined) return value;
  const said = Object.entries(value).filter(
    ([key, child]) => child !== null || properties[key] === undefined || properties[key].nullable,
  );
  return Object.fromEntries(said.map(([key, child]) => [key, withoutNulls(properties[key] ?? {}, child)]));
}

function typeProblem(schema: StructuralSchema, value: unknown): string | null {
  const { type } = schema;
  if (type === undefined) return schema["x-kubernetes-preserve-unknown-fields"] ? null : "has no type";
  const found = value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
  const fits =
    type === "integer"
      ? Number.isInteger(value) && Math.abs(value as number) < 2 ** 63
      : type === found && (type !== "number" || Number.isFinite(value));
  return fits ? null : `must be of type ${type}: "${found}"`;
}

function childProblems(schema: StructuralSchema, value: unknown, path: string): CrdProblem[] {
  const at = (key: string | number) => (path === "" ? `${key}` : `${path}.${key}`);
  if (Array.isArray(value)) {
    if (value.length > (schema.maxItems ?? Number.POSITIVE_INFINITY)) return [{ path, text: "too long" }];
    return value.flatMap((item, index) => crdProblems(schema.items!, item, { path: at(index) }));
  }
  if (typeof value === "string" && value.length > (schema.maxLength ?? Number.POSITIVE_INFINITY))
    return [{ path, text: "too long" }];
  if (typeof value !== "object" || value === null || schema.properties === undefined) return [];
  const missing = (schema.required ?? []).filter((key) => !Object.hasOwn(value, key));
  return [
    ...missing.map((key) => ({ path: at(key), text: "Required value" })),
    ...Object.entries(value).flatMap(([key, child]) => {
      const known = schema.properties![key];
      return known === undefined
        ? [{ path: at(key), text: "unknown field" }]
        : crdProblems(known, child, { path: at(key) });
    }),
  ];
}

/** Whole numbers of type integer are CEL's int, others its double. */
function celValue(schema: StructuralSchema | undefined, value: unknown): unknown {
  if (Array.isArray(value)) return value.map((item) => celValue(schema?.items, item));
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value);
    return Object.fromEntries(
      entries.map(([key, child]) => [key, celValue(schema?.properties?.[key], child)]),
    );
  }
  return schema?.type === "integer" && typeof value === "number" ? BigInt(value) : value;
}
