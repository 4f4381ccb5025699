import { readFileSync } from "node:fs";
import type { RankProgress, RankScores } from "../../gen/goku/v1/agent.pb.js";
import { type Labels, MetricSet } from "../../job/metric_set.js";
import { NODE_METRICS, type NodeMetric } from "../../job/metrics.js";
import type { CounterName } from "../../job/signals/counters.js";
import { gpuSeries } from "./gpu_series.js";
import type { SnapshotsMade, Unsent } from "./progress_reader.js";
import type { WatchedGpu } from "./signals/gpu_book.js";

/** A million multiply-adds of a forward pass are so many operations with the backward pass. */
const FLOPS_PER_WORK = 6e6;

const GPU_METRICS = (Object.keys(NODE_METRICS) as NodeMetric[]).filter((name) =>
  name.startsWith("goku_gpu_"),
);

/** What the agent looks up for a scrape. */
export interface NodeLook {
  /** Name of the job whose ranks are here. */
  job: string;
  /** Ranks with a place, as their pages are now. */
  ranks: { page: RankProgress; unsent: Unsent | null }[];
  /** There is a controller. */
  linked: boolean;
  /** Unix time; null: it has no certificate. */
  certificateExpiryMs: number | null;
  /** Whole states in shared memory. */
  ownBytes: number;
  replicaBytes: number;
  /** GPUs as they were read last. */
  gpus: readonly WatchedGpu[];
}

export interface NodeMetricsOptions {
  slots: number;
  /** Of one slot; null: not told. */
  peakFlops: number | null;
  look: () => NodeLook;
}

/** Metrics of one agent: what its ranks' pages say at each scrape, and what the agent itself does for them. */
export class NodeMetrics {
  private readonly set = new MetricSet<NodeMetric>(NODE_METRICS);
  private readonly options: NodeMetricsOptions;
  private scores: RankScores = { generation: 0n, ranks: [], slowness: [] };

  constructor(options: NodeMetricsOptions) {
    this.options = options;
    this.set.tell("goku_node_slots", options.slots);
  }

  get contentType(): string {
    return this.set.contentType;
  }

  async render(): Promise<string> {
    this.show(this.options.look());
    return await this.set.render();
  }

  /** The controller tells how slow the ranks of this node are. */
  told(scores: RankScores): void {
    this.scores = scores;
  }

  replicaSent({ bytes, seconds }: { bytes: number; seconds: number }): void {
    this.set.tell("goku_replica_seconds", seconds);
    this.set.tell("goku_replica_sent_bytes_total", bytes);
    this.set.tell("goku_replica_last_timestamp_seconds", Date.now() / 1000);
  }

  replicaRetried(): void {
    this.set.tell("goku_replica_retries_total", 1);
  }

  saveRetried(): void {
    this.set.tell("goku_save_retries_total", 1);
  }

  recordFailed(): void {
    this.set.tell("goku_run_record_failures_total", 1);
  }

  hardwareErrors(counter: CounterName, by: number): void {
    this.set.tell("goku_node_hardware_errors_total", by, { counter });
  }

  private show(look: NodeLook): void {
    const { set } = this;
    const { job, ranks, linked, ownBytes, replicaBytes, gpus } = look;
    set.tell("goku_node_certificate_expiry_timestamp_seconds", (look.certificateExpiryMs ?? 0) / 1000);
    set.tell("goku_node_ranks", ranks.length);
    set.tell("goku_node_controller_connected", linked ? 1 : 0);
    set.tell("goku_node_snapshot_bytes", ownBytes, { kind: "own" });
    set.tell("goku_node_snapshot_bytes", replicaBytes, { kind: "replica" });
    this.showGpus(gpus);
    const each = <T>(series: (rank: NodeLook["ranks"][number], labels: Labels) => T[]): T[] =>
      ranks.flatMap((rank) => series(rank, { job, rank: String(rank.page.rank) }));
    set.show(
      "goku_rank_step",
      each(({ page }, own) => [[own, Number(page.step)]]),
    );
    set.show(
      "goku_rank_unchanged_seconds",
      each(({ page }, own) => [[own, Number(page.unchangedMs) / 1000]]),
    );
    set.show(
      "goku_rank_resident_bytes",
      each(({ page }, own) => residentBytes(page.pid).map((bytes) => [own, bytes])),
    );
    const { peakFlops } = this.options;
    if (peakFlops !== null)
      set.show(
        "goku_rank_peak_flops",
        each((_, own) => [[own, peakFlops]]),
      );
    this.showTimes(each);
    this.showSnapshots(each);
    this.showScores(each);
  }

  private showGpus(gpus: readonly WatchedGpu[]): void {
    const all = gpus.flatMap(gpuSeries);
    for (const metric of GPU_METRICS)
      this.set.show(
        metric,
        all.flatMap(([name, labels, value]): [Labels, number][] =>
          name === metric && value !== null ? [[labels, value]] : [],
        ),
      );
  }

  private showTimes(
    each: (
      series: (rank: NodeLook["ranks"][number], labels: Labels) => [Labels, number][],
    ) => [Labels, number][],
  ): void {
    const { set } = this;
    const us = (value: bigint | undefined) => Number(value ?? 0n) / 1e6;
    set.show(
      "goku_rank_steps_total",
      each(({ page }, own) => [[own, Number(page.times?.steps ?? 0n)]]),
    );
    set.show(
      "goku_rank_model_flops_total",
      each(({ page }, own) => [[own, FLOPS_PER_WORK * Number(page.times?.work ?? 0n)]]),
    );
    set.show(
      "goku_rank_section_seconds_total",
      each(({ page: { times } }, own) => [
        [{ ...own, section: "forward" }, us(times?.forwardUs)],
        [{ ...own, section: "backward" }, us(times?.backwardUs)],
        [{ ...own, section: "optimizer" }, us(times?.optimizerUs)],
        [{ ...own, section: "data" }, us(times?.dataUs)],
      ]),
    );
    set.show(
      "goku_rank_wait_seconds_total",
      each(({ unsent }, own) => [
        [{ ...own, collective: "all_gather" }, us(unsent?.waitUs.allGather)],
        [{ ...own, collective: "reduce_scatter" }, us(unsent?.waitUs.reduceScatter)],
        [{ ...own, collective: "all_reduce" }, us(unsent?.waitUs.allReduce)],
        [{ ...own, collective: "all_to_all" }, us(unsent?.waitUs.allToAll)],
        [{ ...own, collective: "vote" }, us(unsent?.waitUs.vote)],
      ]),
    );
  }

  private showSnapshots(
    each: (
      series: (rank: NodeLook["ranks"][number], labels: Labels) => [Labels, number][],
    ) => [Labels, number][],
  ): void {
    const { set } = this;
    set.show(
      "goku_rank_snapshots_failed_total",
      each(({ unsent }, own) => [[own, Number(unsent?.snapshots.failed ?? 0n)]]),
    );
    // A process that has sealed none yet, or keeps no states: there is no age.
    const ofNewest = (value: (made: SnapshotsMade) => number) =>
      each(({ unsent }, own) => (unsent?.snapshots.unixMs ? [[own, value(unsent.snapshots)]] : []));
    set.show(
      "goku_rank_snapshot_step",
      ofNewest(({ step }) => Number(step)),
    );
    set.show(
      "goku_rank_snapshot_timestamp_seconds",
      ofNewest(({ unixMs }) => Number(unixMs) / 1000),
    );
  }

  /** Those of an older generation say nothing of the ranks that are here now. */
  private showScores(
    each: (
      series: (rank: NodeLook["ranks"][number], labels: Labels) => [Labels, number][],
    ) => [Labels, number][],
  ): void {
    const { generation, ranks, slowness } = this.scores;
    this.set.show(
      "goku_rank_slowness_ratio",
      each(({ page }, own) => {
        const ratio = page.generation === generation ? slowness[ranks.indexOf(page.rank)] : undefined;
        return ratio === undefined ? [] : [[own, ratio]];
      }),
    );
  }
}

/** None where the process has gone. */
function residentBytes(pid: number): number[] {
  try {
    const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1];
    return kilobytes === undefined ? [] : [1024 * Number(kilobytes)];
  } catch {
    return [];
  }
}
