import { type ASTNode, Environment } from "@marcbachmann/cel-js";
import type { StructuralSchema } from "../../../controller/kubernetes/crd/structural.js";

/** What an API server takes a rule to cost at most, by the estimates of cel-go, rounded up. */
export interface Typed {
  cost: number;
  /** Of the value; null: a literal, or a result. */
  schema: StructuralSchema | null;
  /** Characters or items, at most. */
  size: number;
}

/** An unbounded string or list may fill a request. */
const REQUEST_BYTES_MAX = 3 << 20;
/** A character may take as many bytes. */
const CHARACTER_BYTES = 4;
const LIST_COST = 10;
const CHARACTER_COST = 0.1;
const PATTERN_COST = 0.25;

const cel = new Environment({ unlistedVariablesAreDyn: true });

/** Throws what the API server would refuse the rule for, and for what no estimate is known here. */
export function ruleCost(rule: string, schema: StructuralSchema): number {
  const scope = new Map([
    ["self", schema],
    ["oldSelf", schema],
  ]);
  return Math.ceil(estimate(cel.parse(rule).ast, scope).cost);
}

/** Unknown data is not seen by rules, nor what is made of it. */
export function isUnknown(schema: StructuralSchema): boolean {
  if (schema.type === undefined) return true;
  if (schema.type === "array") return schema.items === undefined || isUnknown(schema.items);
  return schema.additionalProperties !== undefined && isUnknown(schema.additionalProperties);
}

/** How often a rule of each item may be asked. */
export function sizeMax({ type, maxLength, maxItems, maxProperties }: StructuralSchema): number {
  if (type === "string") return CHARACTER_BYTES * (maxLength ?? REQUEST_BYTES_MAX / CHARACTER_BYTES);
  if (type === "array") return maxItems ?? REQUEST_BYTES_MAX;
  return type === "object" ? (maxProperties ?? 1) : 1;
}

type Scope = ReadonlyMap<string, StructuralSchema>;

function estimate(node: ASTNode, scope: Scope): Typed {
  switch (node.op) {
    case "value":
      return result(0, typeof node.args === "string" ? node.args.length : 1);
    case "id": {
      const schema = scope.get(node.args);
      if (schema === undefined) throw new Error(`undeclared reference to '${node.args}'`);
      return { cost: 1, schema, size: sizeMax(schema) };
    }
    case ".":
      return field(estimate(node.args[0], scope), node.args[1]);
    case "[]": {
      const [list, at] = node.args.map((part) => estimate(part, scope)) as [Typed, Typed];
      const item = list.schema?.items;
      if (item === undefined) throw new Error("an index into what is no list");
      return { cost: list.cost + at.cost + 1, schema: item, size: sizeMax(item) };
    }
    case "list":
      return result(LIST_COST + costs(node.args, scope), node.args.length);
    case "call": {
      const [name, args] = node.args;
      if (name !== "has") throw new Error(`no estimate is known for ${name}()`);
      return result(costs(args, scope));
    }
    case "rcall":
      return method(node.args, scope);
    case "==":
    case "!=": {
      const sides = node.args.map((part) => estimate(part, scope));
      const shorter = Math.min(...sides.map(({ size }) => size));
      return result(1 + shorter * CHARACTER_COST + costs(node.args, scope));
    }
    case "in":
      return result(estimate(node.args[1], scope).size + costs(node.args, scope));
    case "!_":
    case "-_":
      return result(1 + estimate(node.args, scope).cost);
    case "&&":
    case "||":
    case "<":
    case "<=":
    case ">":
    case ">=":
    case "%":
      return result(1 + costs(node.args, scope));
    default:
      throw new Error(`no estimate is known for ${node.op}`);
  }
}

function result(cost: number, size = 1): Typed {
  return { cost, schema: null, size };
}

function costs(nodes: readonly ASTNode[], scope: Scope): number {
  return nodes.reduce((sum, node) => sum + estimate(node, scope).cost, 0);
}

function field({ cost, schema }: Typed, name: string): Typed {
  const found = schema?.properties?.[name];
  if (found === undefined) throw new Error(`undefined field '${name}'`);
  if (isUnknown(found)) throw new Error(`field '${name}' is of unknown data, which rules do not see`);
  return { cost: cost + 1, schema: found, size: sizeMax(found) };
}

function method([name, receiver, args]: [string, ASTNode, ASTNode[]], scope: Scope): Typed {
  const on = estimate(receiver, scope);
  switch (name) {
    case "size":
      return result(on.cost + 1);
    case "startsWith":
      return result(on.cost + costs(args, scope) + 1 + on.size * CHARACTER_COST);
    case "matches": {
      const pattern = estimate(args[0]!, scope);
      return result(
        on.cost + Math.ceil((on.size + 1) * CHARACTER_COST) * Math.ceil(pattern.size * PATTERN_COST),
      );
    }
    case "all": {
      const [item, body] = args;
      const schema = on.schema?.items;
      if (item?.op !== "id" || schema === undefined) throw new Error("all() over what is no list");
      const inner = new Map([...scope, [item.args, schema] as const]);
      // The body, and the steps of the loop around it.
      return result(on.cost + on.size * (estimate(body!, inner).cost + 4));
    }
    default:
      throw new Error(`no estimate is known for ${name}()`);
  }
}
