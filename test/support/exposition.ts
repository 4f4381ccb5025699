/** Prometheus's text format, as far as tests look at it. */
export interface Exposed {
  type: string;
  help: string;
  series: { name: string; labels: Record<string, string>; value: number }[];
}

/** By metric; a histogram's series are with it. */
export function readExposition(text: string): Map<string, Exposed> {
  const metrics = new Map<string, Exposed>();
  let current: Exposed | null = null;
  for (const line of text.split("\n")) {
    const head = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line);
    if (head !== null) {
      const [, kind, name, rest] = head;
      current = metrics.get(name!) ?? { type: "", help: "", series: [] };
      metrics.set(name!, current);
      if (kind === "TYPE") current.type = rest!;
      else current.help = rest!;
      continue;
    }
    const sample = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (sample === null || current === null) continue;
    const [, name, labels = "", value] = sample;
    const pairs = [...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, text]) => [key!, text!]);
    current.series.push({ name: name!, labels: Object.fromEntries(pairs), value: Number(value) });
  }
  return metrics;
}
