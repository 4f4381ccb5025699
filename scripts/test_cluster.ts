import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import path from "node:path";
import { ClusterDns } from "../test/support/kube/cluster_dns.js";
import { ControlPlane } from "../test/support/kube/control_plane.js";
import { Machine, machineName } from "../test/support/kube/machine.js";
import { applyAll, LOCAL_CLASS, restrictPods, VOLUMES_GI, volume } from "../test/support/kube/test_nodes.js";
import { MemoryS3 } from "../test/support/memory_s3.js";
import { S3_KEY } from "../test/support/s3_settings.js";

/**
 * Starts a cluster of two machines within the namespaces of scripts/test_cluster.sh, runs the suite for a whole cluster on it as on
 * anybody's, by its kubeconfig, and says what the cluster was doing where the suite fails.
 */
const ADDRESS = "172.30.0.1";
const MACHINES = 2;
/** For images to be unpacked, on a busy machine. */
const READY_MS = 300_000;
const folder = process.env.GOKU_CLUSTER_FOLDER!;
const group = process.env.GOKU_CLUSTER_GROUP!;

const names = Array.from({ length: MACHINES }, (_, i) => machineName(i));
const plane = await ControlPlane.start({ machines: { address: ADDRESS, names } });
const machines = names.map((_, number) => new Machine(plane, { number, folder, group }));
await ready();
await restrictPods(plane);
await applyAll(plane, [LOCAL_CLASS]);
const dns = await ClusterDns.start(plane, folder, ADDRESS);
await plane.define();

// As a newcomer applies it, with checkpoints on a volume, and so all on one machine; then on both, with checkpoints on S3.
const s3 = await MemoryS3.start(ADDRESS);
const credentials = `AWS_ACCESS_KEY_ID=${S3_KEY.id},AWS_SECRET_ACCESS_KEY=${S3_KEY.secret}`;
const code =
  (await suite("volume", {})) ||
  (await suite("s3", {
    GOKU_TEST_CHECKPOINT_URI: `s3://${s3.bucket}/shapes`,
    GOKU_TEST_CHECKPOINT_ENV: `AWS_ENDPOINT_URL_S3=${s3.endpoint},${credentials}`,
  }));
await s3.stop();
await dns.stop();
await plane.stop();
process.exit(code);

/** Runs the suite; answers with how it ended, and says what the cluster was doing where it failed. */
async function suite(run: string, more: NodeJS.ProcessEnv): Promise<number> {
  // Those of a run before are not given to anybody else.
  await applyAll(
    plane,
    machines.flatMap((machine) => volumesOf(machine, run)),
  );
  const args = [
    "--enable-source-maps",
    "--test",
    ...process.argv.slice(2),
    "dist/test/e2e/kubernetes.test.js",
  ];
  const env = {
    ...process.env,
    ...more,
    GOKU_TEST_KUBECONFIG: plane.kubeconfig("admin"),
    GOKU_TEST_ETCD_IMAGE: "goku-etcd:test",
  };
  const child = spawn(process.execPath, args, { stdio: "inherit", env });
  const [ended] = (await once(child, "exit")) as [number | null];
  if (ended === 0) return 0;
  const show = (...what: string[]) =>
    spawnSync("kubectl", ["--kubeconfig", plane.kubeconfig("admin"), ...what], { stdio: "inherit" });
  show("get", "all,pvc,pv", "-A", "-o", "wide");
  show("get", "events", "-A", "--sort-by=.lastTimestamp");
  for (const machine of machines) console.error(machine.logs);
  console.error(plane.logs);
  return ended ?? 1;
}

/** Until every machine's kubelet says that it is ready. */
async function ready(): Promise<void> {
  const endMs = performance.now() + READY_MS;
  for (;;) {
    for (const machine of machines) machine.check();
    const { items } = await plane.ask<{
      items: { status: { conditions?: { type: string; status: string }[] } }[];
    }>("GET", "/api/v1/nodes");
    const are = items.filter(({ status }) =>
      status.conditions?.some(({ type, status: is }) => type === "Ready" && is === "True"),
    );
    if (are.length === MACHINES) return;
    if (performance.now() >= endMs)
      throw new Error(
        `${are.length} of ${MACHINES} machines are ready after ${READY_MS / 1000} s\n${machines.map(({ logs }) => logs).join("\n")}`,
      );
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

/** On the machine's own disk, as volumes of the kind `local` are: a pod goes where its volume is. */
function volumesOf({ name, folder: its }: Machine, run: string): object[] {
  return VOLUMES_GI.map((gibibytes, i) => {
    const at = path.join(its, `${run}-${i}`);
    mkdirSync(at);
    const expression = { key: "kubernetes.io/hostname", operator: "In", values: [name] };
    const nodeAffinity = { required: { nodeSelectorTerms: [{ matchExpressions: [expression] }] } };
    return volume(`${run}-${name}-${i}`, gibibytes, { local: { path: at }, nodeAffinity });
  });
}
