const WORDS = new Set(["and", "or", "unless", "offset", "bool", "inf", "nan"]);
const LISTS = /\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)/g;

/** A metric of a query with the labels that the query takes for its own. */
export interface Selector {
  metric: string;
  labels: string[];
}

/** The metrics that a PromQL query reads, whether or not they have matchers: what is left when all else is taken away. */
export function selectorsOf(query: string): Selector[] {
  const found: Selector[] = [];
  const plain = query.replace(/"(?:[^"\\]|\\.)*"/g, '""').replace(LISTS, " ");
  for (const [, name, matchers, call] of plain.matchAll(
    /(?<![\w$.])([a-zA-Z_][\w:]*)\s*(?:\{([^}]*)\}|(\())?(?:\[[^\]]*\])?/g,
  )) {
    const isDuration = /^\d/.test(name!);
    if (call !== undefined || WORDS.has(name!.toLowerCase()) || isDuration) continue;
    const labels = [...(matchers ?? "").matchAll(/(\w+)\s*(?:=~|!~|!=|=)/g)].map((match) => match[1]!);
    found.push({ metric: name!, labels });
  }
  return found;
}

/** Labels that a query sums by or joins on. */
export function listedLabels(query: string): string[] {
  return [...query.matchAll(LISTS)].flatMap(([, list]) =>
    list!
      .split(",")
      .map((label) => label.trim())
      .filter((label) => label !== ""),
  );
}
