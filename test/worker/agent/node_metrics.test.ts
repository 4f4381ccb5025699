import assert from "node:assert/strict";
import { test } from "node:test";
import { RankProgress } from "../../../gen/goku/v1/agent.pb.js";
import { NODE_METRICS } from "../../../job/metrics.js";
import { type NodeLook, NodeMetrics } from "../../../worker/agent/node_metrics.js";
import { GpuReader } from "../../../worker/device/gpu_reader.js";
import { readExposition } from "../../support/exposition.js";
import { FakeNvml, healthyGpu, uuidOf, withNvml } from "../../support/fake_nvml.js";

function rank(number: number, generation = 3n): NodeLook["ranks"][number] {
  const times = { steps: 10n, work: 2_000n, forwardUs: 1_500_000n, backwardUs: 3_000_000n, optimizerUs: 0n };
  const page = RankProgress.fromPartial({
    rank: number,
    pid: process.pid,
    step: 110n,
    generation,
    unchangedMs: 250n,
    times: { ...times, dataUs: 500_000n, waitUs: 2_000_000n },
  });
  const waitUs = {
    allGather: 1_000_000n,
    reduceScatter: 0n,
    allReduce: 0n,
    allToAll: 250_000n,
    vote: 750_000n,
  };
  const snapshots = { step: 109n, unixMs: 1_790_000_000_500n, failed: 2n };
  return { page, unsent: { waitUs, snapshots } };
}

const empty: NodeLook = {
  ...{ job: "", ranks: [], linked: false, certificateExpiryMs: null },
  ...{ ownBytes: 0, replicaBytes: 0, gpus: [] },
};

async function shown(metrics: NodeMetrics): Promise<string[]> {
  const all = readExposition(await metrics.render());
  return [...all.values()].flatMap(({ series }) =>
    series
      .filter(({ name }) => name.startsWith("goku_"))
      .map(({ name, labels, value }) => `${name}${JSON.stringify(labels)} ${value}`),
  );
}

test("NodeMetrics shows what the pages of its ranks say, in base units", async () => {
  const look = {
    ...empty,
    job: "shapes",
    ranks: [rank(4), rank(5)],
    linked: true,
    certificateExpiryMs: 1_790_000_000_000,
    ownBytes: 300,
    replicaBytes: 100,
  };
  const series = await shown(new NodeMetrics({ slots: 2, peakFlops: 5e12, look: () => look }));
  const own = '"job":"shapes","rank":"4"';
  for (const line of [
    "goku_node_slots{} 2",
    "goku_node_ranks{} 2",
    "goku_node_controller_connected{} 1",
    "goku_node_certificate_expiry_timestamp_seconds{} 1790000000",
    'goku_node_snapshot_bytes{"kind":"own"} 300',
    'goku_node_snapshot_bytes{"kind":"replica"} 100',
    `goku_rank_step{${own}} 110`,
    `goku_rank_unchanged_seconds{${own}} 0.25`,
    `goku_rank_steps_total{${own}} 10`,
    `goku_rank_model_flops_total{${own}} 12000000000`,
    `goku_rank_peak_flops{${own}} 5000000000000`,
    `goku_rank_section_seconds_total{${own},"section":"backward"} 3`,
    `goku_rank_section_seconds_total{${own},"section":"data"} 0.5`,
    `goku_rank_wait_seconds_total{${own},"collective":"all_to_all"} 0.25`,
    `goku_rank_wait_seconds_total{${own},"collective":"vote"} 0.75`,
    `goku_rank_snapshot_step{${own}} 109`,
    `goku_rank_snapshot_timestamp_seconds{${own}} 1790000000.5`,
    `goku_rank_snapshots_failed_total{${own}} 2`,
  ])
    assert.ok(series.includes(line), `${line}\n${series.join("\n")}`);
  const resident = series.find((line) => line.startsWith(`goku_rank_resident_bytes{${own}`));
  assert.ok(Number(resident?.split(" ")[1]) > 1e6, resident);
});

test("NodeMetrics: ranks that have gone are shown no more, and a sum that begins again does", async () => {
  let look: NodeLook = { ...empty, job: "shapes", ranks: [rank(4), rank(5)] };
  const metrics = new NodeMetrics({ slots: 2, peakFlops: null, look: () => look });
  const ranks = async () => (await shown(metrics)).filter((line) => line.includes('"rank"'));
  const before = (await ranks()).length;
  assert.ok(before > 20 && !(await ranks()).some((line) => line.startsWith("goku_rank_peak_flops")));
  const again = rank(4);
  again.page.times!.steps = 1n;
  look = { ...look, ranks: [again] };
  assert.equal((await ranks()).length, before / 2);
  assert.ok((await ranks()).includes('goku_rank_steps_total{"job":"shapes","rank":"4"} 1'));
  look = empty;
  assert.deepEqual(await ranks(), []);
});

test("NodeMetrics: a rank that has made no snapshot yet has none of an age, and has failed none", async () => {
  const fresh = rank(4);
  fresh.unsent!.snapshots = { step: 0n, unixMs: 0n, failed: 0n };
  const look: NodeLook = { ...empty, job: "shapes", ranks: [fresh] };
  const series = await shown(new NodeMetrics({ slots: 2, peakFlops: null, look: () => look }));
  assert.deepEqual(
    series.filter((line) => line.startsWith("goku_rank_snapshot")),
    ['goku_rank_snapshots_failed_total{"job":"shapes","rank":"4"} 0'],
  );
});

test("NodeMetrics shows how slow its ranks are as the controller told, in that generation alone", async () => {
  let look: NodeLook = { ...empty, job: "shapes", ranks: [rank(4), rank(5)] };
  const metrics = new NodeMetrics({ slots: 2, peakFlops: null, look: () => look });
  const ratios = async () =>
    (await shown(metrics)).filter((line) => line.startsWith("goku_rank_slowness_ratio"));
  assert.deepEqual(await ratios(), []);
  metrics.told({ generation: 3n, ranks: [5], slowness: [1.75] });
  assert.deepEqual(await ratios(), ['goku_rank_slowness_ratio{"job":"shapes","rank":"5"} 1.75']);
  look = { ...look, ranks: [rank(5, 4n)] };
  assert.deepEqual(await ratios(), []);
});

test("NodeMetrics shows what NVML tells of a GPU, in base units, and nothing of what it does not", async () => {
  const fake = new FakeNvml({
    count: 2,
    ...healthyGpu(0),
    "0.RetiredPages.0": 4,
    "0.NvLinkState.1": 0,
    "1.UUID": uuidOf(1),
    "1.PowerUsage": 70_000,
  });
  const answer = await withNvml(fake, async () => {
    const reader = new GpuReader();
    try {
      return await reader.ask();
    } finally {
      reader.kill();
    }
  });
  assert.ok(answer.kind === "read", JSON.stringify(answer));
  let gpus = answer.gpus.map((reading, index) => ({ index, uuid: uuidOf(index), reading }));
  const metrics = new NodeMetrics({ slots: 2, peakFlops: null, look: () => ({ ...empty, gpus }) });
  const ofGpus = async () => (await shown(metrics)).filter((line) => line.startsWith("goku_gpu_"));
  const series = await ofGpus();
  const own = `"gpu":"0","uuid":"${uuidOf(0)}"`;
  for (const line of [
    `goku_gpu_up{${own}} 1`,
    `goku_gpu_temperature_celsius{${own},"part":"core"} 54`,
    `goku_gpu_temperature_celsius{${own},"part":"memory"} 61`,
    `goku_gpu_clock_hertz{${own},"clock":"sm"} 1980000000`,
    `goku_gpu_clock_limited{${own},"reason":"power_cap"} 1`,
    `goku_gpu_clock_limited{${own},"reason":"hardware_thermal"} 0`,
    `goku_gpu_power_watts{${own}} 612.345`,
    `goku_gpu_power_limit_watts{${own}} 700`,
    `goku_gpu_memory_used_bytes{${own}} ${30 * 2 ** 30}`,
    `goku_gpu_utilization_ratio{${own}} 0.97`,
    `goku_gpu_ecc_errors_total{${own},"kind":"corrected"} 3`,
    `goku_gpu_ecc_errors_total{${own},"kind":"uncorrected"} 0`,
    `goku_gpu_retired_pages{${own}} 4`,
    `goku_gpu_remapped_rows{${own},"kind":"uncorrected"} 2`,
    `goku_gpu_remap_pending{${own}} 0`,
    `goku_gpu_nvlinks{${own},"state":"up"} 1`,
    `goku_gpu_nvlinks{${own},"state":"down"} 1`,
    `goku_gpu_nvlink_errors_total{${own},"kind":"crc"} 32`,
  ])
    assert.ok(series.includes(line), `${line}\n${series.join("\n")}`);
  const names = new Set(series.filter((line) => line.includes(own)).map((line) => line.split("{")[0]!));
  const all = Object.keys(NODE_METRICS).filter((name) => name.startsWith("goku_gpu_"));
  assert.deepEqual([...names].sort(), all.sort(), "a GPU that tells everything has every series");
  const other = `"gpu":"1","uuid":"${uuidOf(1)}"`;
  assert.deepEqual(
    series.filter((line) => line.includes(other)),
    [`goku_gpu_up{${other}} 1`, `goku_gpu_power_watts{${other}} 70`],
  );

  gpus = gpus.map((gpu) => ({ ...gpu, reading: null }));
  assert.deepEqual(await ofGpus(), [`goku_gpu_up{${own}} 0`, `goku_gpu_up{${other}} 0`]);
});
