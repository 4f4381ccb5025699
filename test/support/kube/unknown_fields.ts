import * as kubernetes from "@kubernetes/client-node";

interface Attribute {
  name: string;
  baseName: string;
  type: string;
}
type Model = { getAttributeTypeMap(): Attribute[] };
const models = kubernetes as unknown as Record<string, Model | undefined>;

/** The model of @kubernetes/client-node for a kind, which knows every field of it; null: it has none. */
export function modelOf(apiVersion: string, kind: string): string | null {
  const version = apiVersion.split("/").at(-1)!;
  const name = `${version[0]!.toUpperCase()}${version.slice(1)}${kind}`;
  return typeof models[name]?.getAttributeTypeMap === "function" ? name : null;
}

/** Paths of fields that the model does not know, and of values of another type than it says. */
export function fieldProblems(type: string, value: unknown, path: string): string[] {
  if (value === null || value === undefined) return [`${path} is empty`];
  const list = /^Array<(.*)>$/.exec(type);
  if (list) {
    if (!Array.isArray(value)) return [`${path} is no list`];
    return value.flatMap((item, index) => fieldProblems(list[1]!, item, `${path}[${index}]`));
  }
  const map = /^\{ \[key: string\]: (.*); \}$/.exec(type);
  if (map) {
    if (typeof value !== "object" || Array.isArray(value)) return [`${path} is no map`];
    return Object.entries(value).flatMap(([key, child]) => fieldProblems(map[1]!, child, `${path}.${key}`));
  }
  const model = models[type];
  if (typeof model?.getAttributeTypeMap !== "function") return scalarProblems(type, value, path);
  if (typeof value !== "object" || Array.isArray(value)) return [`${path} is no ${type}`];
  const known = new Map(model.getAttributeTypeMap().map((attribute) => [attribute.baseName, attribute.type]));
  return Object.entries(value).flatMap(([key, child]) => {
    const of = known.get(key);
    return of === undefined
      ? [`${path}.${key} is no field of ${type}`]
      : fieldProblems(of, child, `${path}.${key}`);
  });
}

function scalarProblems(type: string, value: unknown, path: string): string[] {
  const found = typeof value;
  const fits =
    type === "any" ||
    type === "object" ||
    (type === "IntOrString" && (found === "number" || found === "string")) ||
    (type === "Date" && found === "string") ||
    type === found;
  return fits ? [] : [`${path} is ${JSON.stringify(value)}, want ${type}`];
}
