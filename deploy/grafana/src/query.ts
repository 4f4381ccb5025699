/** Selectors by the dashboards' variables. */
export const CLUSTER = 'cluster="$cluster"';
/** The job or jobs that are chosen; with "All" each. */
export const JOB = `${CLUSTER}, job=~"$job"`;
export const NODE = `${CLUSTER}, node=~"$node"`;

/** A query and the name of its series. */
export type Query = readonly [expr: string, legend: string];

/**
 * By how much counters grew within `range`, a counter that began in it with its first value: a series whose first sample is
 * the event itself, such as the first incident of its code, has no increase by itself.
 */
export function grown(counter: string, by: string, range = "$__range"): string {
  const grew = `increase(${counter}[${range}])`;
  const began = `(min_over_time(${counter}[${range}]) unless ${counter} offset ${range})`;
  return `round(sum by (${by}) ((${grew} + ${began}) or ${grew}), 0.001)`;
}

export function quantile(q: number, histogram: string, selector: string, by: string): string {
  return `histogram_quantile(${q}, sum by (${by}, le) (rate(${histogram}_bucket{${selector}}[$__rate_interval])))`;
}

/** A metric of the controllers' processes: agents show the same names, and no goku_leader. */
export function ofControllers(expr: string): string {
  return `(${expr}) and on (cluster, instance) goku_leader{${CLUSTER}}`;
}
