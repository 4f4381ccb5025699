import { z } from "zod";

/** What a CustomResourceDefinition says of one value: OpenAPI v3 as Kubernetes wants it ("structural"), with CEL rules. */
export interface StructuralSchema {
  type?: "object" | "array" | "string" | "integer" | "number" | "boolean";
  format?: string;
  description?: string;
  nullable?: boolean;
  properties?: Record<string, StructuralSchema>;
  additionalProperties?: StructuralSchema;
  required?: string[];
  items?: StructuralSchema;
  minItems?: number;
  maxItems?: number;
  maxLength?: number;
  maxProperties?: number;
  "x-kubernetes-preserve-unknown-fields"?: true;
  "x-kubernetes-validations"?: CelRule[];
  "x-kubernetes-list-type"?: "map" | "atomic" | "set";
  "x-kubernetes-list-map-keys"?: string[];
}

/** `message` is the phrase of the job schema that follows "want". */
export interface CelRule {
  rule: string;
  message: string;
}

/** Without a bound the API server assumes megabytes, and refuses rules for what they might cost. */
const LENGTH_MAX = 4_096;
const ITEMS_MAX = 1_000;

/** What zod's own checks cannot say in JSON Schema; by dotted key. `null`: left to the controller, which says it in the status. */
export const REFINED: Readonly<Record<string, string | null>> = {
  "checkpoint.uri":
    "self.matches('^file://.') || self.matches('^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_@+=,~-][A-Za-z0-9._@+=,~-]{0,199})*/*$')",
  "data.codec.stride":
    "self.all(s, s in [1, 2, 4, 8]) && (self.size() != 3 || (self[0] <= 4 && self[1] <= 8 && self[2] <= 8))",
  "model.frequency_width": "self % 2 == 0",
  // Finite, which every number in JSON is.
  "flow.drop_text": null,
  "optimizer.betas.0": null,
  "optimizer.ema": null,
  // Names of variables: a rule over keys of any length would cost too much.
  "trainer.env": null,
  // Between keys: presets and their shapes are tables of ours.
  "": null,
};

/** A value of each type that those checks refuse, to have their texts. */
const BAD: Partial<Record<NonNullable<StructuralSchema["type"]>, unknown>> = {
  string: "nowhere",
  integer: 3,
  array: [3, 3, 3],
};

/** Parts of a zod schema below the wrappers that only fill in defaults. */
function bare(schema: z.core.$ZodType): z.core.$ZodType {
  const { def } = schema._zod;
  if (def.type === "default" || def.type === "prefault" || def.type === "optional")
    return bare((def as unknown as { innerType: z.core.$ZodType }).innerType);
  return schema;
}

/** The error text of a value that the schema refuses; the texts are what a key wants. */
function wanted(schema: z.core.$ZodType, bad: unknown): string {
  const result = z.safeParse(schema, bad);
  if (result.success)
    throw new Error(`the schema takes ${JSON.stringify(bad)}, want a value that it refuses`);
  return result.error.issues[0]!.message;
}

/** A job schema, or a part of it, as a structural one. Throws where it uses what this does not know: nothing is left out silently. */
export function structural(schema: z.core.$ZodType, path = ""): StructuralSchema {
  const inner = bare(schema);
  const described = describe(schema, convert(inner, path));
  const rule = REFINED[path];
  if (rule === undefined || rule === null) return described;
  return withRules(described, [{ rule, message: `want ${wanted(inner, BAD[described.type!])}` }]);
}

function describe(schema: z.core.$ZodType, out: StructuralSchema): StructuralSchema {
  const { def } = schema._zod;
  if (def.type !== "default") return out;
  const value = JSON.stringify((def as unknown as { defaultValue: unknown }).defaultValue);
  return { ...out, description: `Default: ${value}` };
}

function convert(schema: z.core.$ZodType, path: string): StructuralSchema {
  const { def } = schema._zod;
  switch (def.type) {
    case "object":
      return objectOf(schema as z.ZodObject, path);
    case "string":
      return stringOf(schema, path);
    case "number":
      return numberOf(schema);
    case "boolean":
      return { type: "boolean" };
    case "enum": {
      const values = Object.values((def as unknown as { entries: Record<string, string> }).entries);
      const rule = `self in [${values.map((value) => `'${value}'`).join(", ")}]`;
      return withRules({ type: "string", maxLength: LENGTH_MAX }, [
        { rule, message: `want ${wanted(schema, "\0")}` },
      ]);
    }
    case "nullable":
      return {
        ...structural((def as unknown as { innerType: z.core.$ZodType }).innerType, path),
        nullable: true,
      };
    case "tuple": {
      const items = (def as unknown as { items: z.core.$ZodType[] }).items;
      const sized = `self.size() == ${items.length}`;
      return withRules({ type: "array", items: structural(items[0]!, `${path}.0`), maxItems: 16 }, [
        { rule: sized, message: `want ${wanted(schema, "no list")}` },
      ]);
    }
    case "array": {
      const { element } = def as unknown as { element: z.core.$ZodType };
      const out: StructuralSchema = {
        type: "array",
        items: structural(element, `${path}.0`),
        maxItems: ITEMS_MAX,
      };
      const refusesNone = !z.safeParse(schema, []).success;
      return refusesNone
        ? withRules(out, [{ rule: "self.size() > 0", message: `want ${wanted(schema, [])}` }])
        : out;
    }
    // Values of several types are beyond what a structural schema may say.
    case "record":
      return {
        type: "object",
        additionalProperties: { "x-kubernetes-preserve-unknown-fields": true },
        maxProperties: ITEMS_MAX,
      };
    case "union":
      return { "x-kubernetes-preserve-unknown-fields": true };
    default:
      throw new Error(`${path}: no structural schema is known for zod's ${def.type}, add one`);
  }
}

function objectOf(schema: z.ZodObject, path: string): StructuralSchema {
  const properties: Record<string, StructuralSchema> = {};
  const required: string[] = [];
  for (const [key, child] of Object.entries(schema.shape)) {
    properties[key] = structural(child, path === "" ? key : `${path}.${key}`);
    if (!z.safeParse(child, undefined).success) required.push(key);
  }
  return { type: "object", properties, ...(required.length > 0 ? { required } : {}) };
}

function stringOf(schema: z.core.$ZodType, path: string): StructuralSchema {
  const out: StructuralSchema = { type: "string", maxLength: LENGTH_MAX };
  if (z.safeParse(schema, "").success || REFINED[path] !== undefined) return out;
  const pattern = patternOf(schema);
  const rule = pattern === null ? "self.size() > 0" : `self.matches('${pattern}')`;
  return withRules(out, [{ rule, message: `want ${wanted(schema, "")}` }]);
}

function patternOf(schema: z.core.$ZodType): string | null {
  for (const { _zod } of schema._zod.def.checks ?? []) {
    const { pattern } = _zod.def as { pattern?: RegExp };
    if (pattern !== undefined) return pattern.source;
  }
  return null;
}

function numberOf(schema: z.core.$ZodType): StructuralSchema {
  const bounds = boundsOf(schema);
  const literal = (value: number) =>
    bounds.isWhole ? `${value}` : Number.isInteger(value) ? value.toFixed(1) : `${value}`;
  const rules = new Map<string, string[]>();
  const demand = (rule: string, bad: number) => {
    const message = `want ${wanted(schema, bad)}`;
    rules.set(message, [...(rules.get(message) ?? []), rule]);
  };
  const { least } = bounds;
  // The API server takes any of 64 bits; what no number of ours can hold would come here as another.
  const most = bounds.most ?? (bounds.isWhole ? { value: Number.MAX_SAFE_INTEGER, inclusive: true } : null);
  if (least !== null) {
    const bad = least.inclusive ? least.value - 1 : least.value;
    demand(`self ${least.inclusive ? ">=" : ">"} ${literal(least.value)}`, bad);
  }
  if (most !== null) {
    const bad = most.inclusive ? most.value + 1 : most.value;
    demand(`self ${most.inclusive ? "<=" : "<"} ${literal(most.value)}`, bad);
  }
  const type: StructuralSchema = bounds.isWhole ? { type: "integer", format: "int64" } : { type: "number" };
  return withRules(
    type,
    [...rules].map(([message, parts]) => ({ rule: parts.join(" && "), message })),
  );
}

interface Bound {
  value: number;
  inclusive: boolean;
}

/** The tightest bounds among a number's checks. */
function boundsOf(schema: z.core.$ZodType): { isWhole: boolean; least: Bound | null; most: Bound | null } {
  let isWhole = false;
  let least: Bound | null = null;
  let most: Bound | null = null;
  for (const { _zod } of schema._zod.def.checks ?? []) {
    const { check, value, inclusive } = _zod.def as { check: string; value: number; inclusive: boolean };
    if (check === "number_format") isWhole = true;
    if (check === "greater_than" && (least === null || value > least.value)) least = { value, inclusive };
    if (check === "less_than" && (most === null || value < most.value)) most = { value, inclusive };
  }
  return { isWhole, least, most };
}

export function withRules(schema: StructuralSchema, rules: readonly CelRule[]): StructuralSchema {
  if (rules.length === 0) return schema;
  const before = schema["x-kubernetes-validations"] ?? [];
  return { ...schema, "x-kubernetes-validations": [...before, ...rules] };
}
