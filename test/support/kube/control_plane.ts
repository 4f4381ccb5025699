import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { KubeConfig } from "@kubernetes/client-node";
import { parse } from "yaml";
import { KubeError } from "../../../controller/kubernetes/kube_api.js";
import { APPLY, KubeHttp } from "../../../controller/kubernetes/kube_http.js";
import { type Certificate, Certificates } from "../certificates.js";
import { EtcdServers, freePorts } from "../etcd_servers.js";
import { until } from "../until.js";
import { EvictionProxy } from "./eviction_proxy.js";
import type { Manifest } from "./manifests.js";

/** Kubernetes' own programs, as scripts/kubernetes_control_plane.sh builds them. */
const FOLDER = process.env.GOKU_TEST_KUBERNETES;
/** Why there is no control plane; false: there is one. */
export const CONTROL_PLANE_SKIP: string | false =
  FOLDER === undefined ? "no control plane of Kubernetes: make test-kubernetes builds one" : false;
/** The kubectl that scripts/kubectl.sh fetched, or that of PATH. */
const KUBECTL = existsSync("build/tools/kubectl") ? "build/tools/kubectl" : "kubectl";

/** Who asks, and as whom: the programs have the roles that Kubernetes gives them, `admin` may do everything. */
const USERS = {
  admin: ["admin", "system:masters"],
  crds: ["apiextensions-apiserver", "system:masters"],
  manager: ["system:kube-controller-manager", ""],
  scheduler: ["system:kube-scheduler", ""],
  proxy: ["system:kube-proxy", ""],
} as const;
const DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/** Where the server that keeps TrainingJobs is found by the one that everybody asks. */
const CRD_SERVICE = "crds";
/** The first address of Services is the API server's own. */
const SERVICES = "10.96.0.0/16";
const API_NAMES = ["IP:10.96.0.1", ...["", ".default", ".default.svc"].map((end) => `DNS:kubernetes${end}`)];

export interface ControlPlaneOptions {
  /** Where machines reach it, and their names; by default nobody does, and no machine has a kubelet. */
  machines?: { address: string; names: readonly string[] };
}

export interface KubectlResult {
  code: number;
  stdout: string;
  stderr: string;
}

/**
 * A control plane of Kubernetes: etcd, the API server, the controller manager and the scheduler, each a process, on loopback, or where
 * kubelets reach it. Debian's API server is of 1.20, from before rules in definitions: so TrainingJobs are served by a newer one for
 * definitions alone, which the first passes their requests to (an aggregated API), having found out who asks.
 */
export class ControlPlane {
  readonly folder = mkdtempSync(path.join(tmpdir(), "goku-kubernetes-"));
  readonly #etcd: EtcdServers;
  readonly #ca: Certificates;
  readonly #processes = new Map<string, { child: ChildProcess; log: string }>();
  readonly #ports: { api: number; crds: number; manager: number; scheduler: number };
  #admin: KubeHttp | null = null;
  #isDefined = false;
  #proxy: { proxy: EvictionProxy; port: number } | null = null;
  readonly #certificates: Record<"serving" | "kubelets" | "frontProxy" | "accounts", Certificate>;

  readonly #machines: ControlPlaneOptions["machines"];

  private constructor(
    etcd: EtcdServers,
    [api, crds, manager, scheduler]: number[],
    { machines }: ControlPlaneOptions,
  ) {
    this.#etcd = etcd;
    this.#machines = machines;
    this.#ports = { api: api!, crds: crds!, manager: manager!, scheduler: scheduler! };
    this.#ca = new Certificates(this.folder);
    this.#certificates = {
      serving: this.#ca.sign("server", { names: [`IP:${this.#address}`, ...API_NAMES] }),
      kubelets: this.#ca.sign("asks-kubelets", { group: "system:masters" }),
      frontProxy: this.#ca.sign("front-proxy"),
      accounts: this.#ca.sign("service-accounts"),
    };
  }

  static async start(options: ControlPlaneOptions = {}): Promise<ControlPlane> {
    const plane = new ControlPlane(await EtcdServers.start(), await freePorts(4), options);
    try {
      plane.#writeUsers();
      await plane.startApiServer();
      plane.#startCrdServer();
      plane.#startManager();
      plane.#startScheduler();
      await plane.#serveDefinitions();
      return plane;
    } catch (error) {
      await plane.stop();
      throw error;
    }
  }

  get #address(): string {
    return this.#machines?.address ?? "127.0.0.1";
  }

  /** Who signed for the API server, and whom kubelets believe. */
  get caFile(): string {
    return this.#ca.ca.certFile;
  }

  /** A kubeconfig of one of ours, or of whoever shows that token. */
  kubeconfig(name: string, token = `token-of-${name}`, port = this.#ports.api): string {
    const file = path.join(this.folder, `${name}-${port}.kubeconfig`);
    const cluster = {
      server: `https://${port === this.#ports.api ? this.#address : "127.0.0.1"}:${port}`,
      "certificate-authority": this.caFile,
    };
    const config = {
      ...{ apiVersion: "v1", kind: "Config", "current-context": "test" },
      clusters: [{ name: "test", cluster }],
      users: [{ name, user: { token } }],
      contexts: [{ name: "test", context: { cluster: "test", user: name } }],
    };
    writeFileSync(file, JSON.stringify(config));
    return file;
  }

  /** The same for a ServiceAccount of the namespace goku, with a token as a pod's; its evictions are of this server's version. */
  async accountConfig(account: string): Promise<string> {
    const { status } = await this.ask<{ status: { token: string } }>(
      "POST",
      `/api/v1/namespaces/goku/serviceaccounts/${account}/token`,
      { body: { apiVersion: "authentication.k8s.io/v1", kind: "TokenRequest", spec: {} } },
    );
    return this.kubeconfig(account, status.token, await this.#proxyPort());
  }

  http(config: string): KubeHttp {
    const kube = new KubeConfig();
    kube.loadFromFile(config);
    return new KubeHttp(kube);
  }

  /** Asks as the administrator. */
  ask<T>(
    method: "GET" | "POST" | "PATCH" | "DELETE",
    path_: string,
    more: { body?: object; type?: string; query?: Record<string, string> } = {},
  ): Promise<T> {
    // The product deletes nothing.
    this.#admin ??= this.http(this.kubeconfig("admin"));
    return this.#admin.ask<T>({ method: method as "POST", path: path_, ...more });
  }

  /** kubectl as a person would use it, as the administrator. */
  kubectl(args: readonly string[], input = ""): Promise<KubectlResult> {
    return new Promise((resolve) => {
      const env = { ...process.env, HOME: this.folder };
      const config = ["--kubeconfig", this.kubeconfig("admin")];
      const child = execFile(KUBECTL, [...config, ...args], { env }, (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
      );
      child.stdin!.end(input);
    });
  }

  /** What `kubectl apply --server-side --validate=strict` sends for a definition; answers with it as it is then. */
  applyDefinition<T>(definition: Manifest, { dryRun = false } = {}): Promise<T> {
    const query = { fieldManager: "test", fieldValidation: "Strict", ...(dryRun ? { dryRun: "All" } : {}) };
    const path_ = `${DEFINITIONS}/${definition.metadata.name}`;
    return this.#definitions().ask({ method: "PATCH", path: path_, query, body: definition, type: APPLY });
  }

  /** Makes TrainingJobs known, and waits until they may be asked for. */
  async define(): Promise<void> {
    const text = readFileSync("deploy/kubernetes/base/trainingjobs.yaml", "utf8");
    await this.applyDefinition(parse(text) as Manifest);
    this.#isDefined = true;
    await this.#untilServed();
  }

  /** Also after a start: until the API server knows what is aggregated, it says 404. */
  async #untilServed(): Promise<void> {
    await this.#until("kube-apiserver", async () => {
      await this.ask("GET", "/apis/goku.dev/v1alpha1/trainingjobs");
    });
  }

  /** The last lines of every program, for the message of a failed test. */
  get logs(): string {
    return [...this.#processes].map(([name, { log }]) => `--- ${name}\n${log}`).join("\n");
  }

  async startApiServer(): Promise<void> {
    const { kubelets, frontProxy, accounts } = this.#certificates;
    this.#spawn("kube-apiserver", [
      `--etcd-servers=http://${this.#etcd.endpoints[0]}`,
      ...["--etcd-prefix=/core", `--bind-address=${this.#address}`, `--advertise-address=${this.#address}`],
      // Pods cannot be told of an address of loopback.
      `--secure-port=${this.#ports.api}`,
      `--endpoint-reconciler-type=${this.#machines === undefined ? "none" : "lease"}`,
      // Nobody else knows the names of machines.
      "--kubelet-preferred-address-types=InternalIP",
      ...[`--kubelet-client-certificate=${kubelets.certFile}`, `--kubelet-client-key=${kubelets.keyFile}`],
      ...this.#serving,
      ...[`--token-auth-file=${path.join(this.folder, "users.csv")}`, "--authorization-mode=Node,RBAC"],
      `--enable-admission-plugins=PodSecurityPolicy,OwnerReferencesPermissionEnforcement`,
      ...[
        "--service-account-issuer=https://kubernetes.default.svc",
        `--service-cluster-ip-range=${SERVICES}`,
      ],
      `--service-account-key-file=${accounts.certFile}`,
      `--service-account-signing-key-file=${accounts.keyFile}`,
      ...[
        `--client-ca-file=${this.#ca.ca.certFile}`,
        `--requestheader-client-ca-file=${this.#ca.ca.certFile}`,
      ],
      ...["--requestheader-allowed-names=front-proxy", "--requestheader-username-headers=X-Remote-User"],
      "--requestheader-group-headers=X-Remote-Group",
      "--requestheader-extra-headers-prefix=X-Remote-Extra-",
      `--proxy-client-cert-file=${frontProxy.certFile}`,
      `--proxy-client-key-file=${frontProxy.keyFile}`,
    ]);
    // It makes roles when it has started, this one among the last.
    await this.#until("kube-apiserver", async () => {
      await this.ask("GET", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/system:volume-scheduler");
    });
    if (this.#isDefined) await this.#untilServed();
  }

  /** The API server ends at once, as when its machine does. */
  async killApiServer(): Promise<void> {
    await this.#kill("kube-apiserver");
  }

  /** All history of objects is forgotten, as etcd's compaction forgets it in time. */
  async compact(): Promise<void> {
    const client = this.#etcd.client(0);
    const { header } = await client.getAll().prefix("/none").exec();
    await client.kv.compact({ revision: header.revision, physical: true });
  }

  async stop(): Promise<void> {
    await this.#proxy?.proxy.close();
    await Promise.all([...this.#processes.keys()].map((name) => this.#kill(name)));
    await this.#etcd.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }

  async #proxyPort(): Promise<number> {
    if (this.#proxy !== null) return this.#proxy.port;
    const { certFile, keyFile } = this.#certificates.serving;
    const caFile = this.#ca.ca.certFile;
    const proxy = new EvictionProxy({ port: this.#ports.api, caFile, certFile, keyFile });
    const port = await proxy.listen();
    this.#proxy = { proxy, port };
    return port;
  }

  #writeUsers(): void {
    const lines = Object.entries(USERS).map(
      ([name, [user, group]]) =>
        `token-of-${name},${user},uid-of-${name}${group === "" ? "" : `,"${group}"`}`,
    );
    for (const name of this.#machines?.names ?? [])
      lines.push(`token-of-${name},system:node:${name},uid-of-${name},"system:nodes"`);
    writeFileSync(path.join(this.folder, "users.csv"), `${lines.join("\n")}\n`);
  }

  #startCrdServer(): void {
    const config = this.kubeconfig("crds");
    this.#spawn("apiextensions-apiserver", [
      `--etcd-servers=http://${this.#etcd.endpoints[0]}`,
      ...["--etcd-prefix=/definitions", "--bind-address=127.0.0.1", `--secure-port=${this.#ports.crds}`],
      ...this.#serving,
      ...[`--kubeconfig=${config}`, `--authentication-kubeconfig=${config}`],
      `--authorization-kubeconfig=${config}`,
      // They watch what an API server of 1.20 does not have.
      "--enable-priority-and-fairness=false",
      "--disable-admission-plugins=ValidatingAdmissionPolicy,MutatingAdmissionPolicy",
    ]);
  }

  #startManager(): void {
    this.#spawn("kube-controller-manager", [
      ...[`--kubeconfig=${this.kubeconfig("manager")}`, "--leader-elect=false", "--bind-address=127.0.0.1"],
      ...["--port=0", `--secure-port=${this.#ports.manager}`, "--use-service-account-credentials"],
      `--service-account-private-key-file=${this.#certificates.accounts.keyFile}`,
      `--root-ca-file=${this.#ca.ca.certFile}`,
      // Without a kubelet nobody says that a machine lives.
      ...(this.#machines === undefined ? ["--node-monitor-grace-period=24h"] : []),
    ]);
  }

  #startScheduler(): void {
    this.#spawn("kube-scheduler", [
      ...[`--kubeconfig=${this.kubeconfig("scheduler")}`, "--leader-elect=false", "--bind-address=127.0.0.1"],
      ...["--port=0", `--secure-port=${this.#ports.scheduler}`],
    ]);
  }

  /** TrainingJobs are asked of the server that knows their rules, through the one that everybody asks. */
  async #serveDefinitions(): Promise<void> {
    const service = {
      ...{ apiVersion: "v1", kind: "Service", metadata: { name: CRD_SERVICE } },
      spec: { type: "ExternalName", externalName: "localhost" },
    };
    await this.ask("POST", "/api/v1/namespaces/kube-system/services", { body: service });
    const apiService = {
      ...{ apiVersion: "apiregistration.k8s.io/v1", kind: "APIService" },
      metadata: { name: "v1alpha1.goku.dev" },
      spec: {
        ...{ group: "goku.dev", version: "v1alpha1", groupPriorityMinimum: 1000, versionPriority: 10 },
        service: { namespace: "kube-system", name: CRD_SERVICE, port: this.#ports.crds },
        insecureSkipTLSVerify: true, // its certificate has the name of no Service
      },
    };
    await this.ask("POST", "/apis/apiregistration.k8s.io/v1/apiservices", { body: apiService });
    await this.#until("apiextensions-apiserver", async () => {
      await this.#definitions().ask({ method: "GET", path: DEFINITIONS });
    });
  }

  /** The server that serves TrainingJobs, asked without the one before it: the definition itself is its alone. */
  #definitions(): KubeHttp {
    return this.http(this.kubeconfig("admin", "token-of-admin", this.#ports.crds));
  }

  get #serving(): string[] {
    const { certFile, keyFile } = this.#certificates.serving;
    return [`--tls-cert-file=${certFile}`, `--tls-private-key-file=${keyFile}`];
  }

  /** Until that can be asked; throws what the program wrote last where it ends instead. */
  async #until(name: string, asks: () => Promise<void>): Promise<void> {
    await until(async () => {
      const { child, log } = this.#processes.get(name)!;
      if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}: ${log}`);
      try {
        await asks();
        return true;
      } catch (error) {
        if (!(error instanceof KubeError)) throw error;
        return false;
      }
    });
  }

  #spawn(name: string, args: readonly string[]): void {
    const command = ["--pdeathsig", "KILL", path.resolve(FOLDER!, name), ...args];
    const child = spawn("setpriv", command, { stdio: ["ignore", "ignore", "pipe"], cwd: this.folder });
    const entry = { child, log: "" };
    child.stderr!.on("data", (chunk: Buffer) => {
      entry.log = (entry.log + chunk.toString()).slice(-8_000);
    });
    this.#processes.set(name, entry);
  }

  async #kill(name: string): Promise<void> {
    const { child } = this.#processes.get(name)!;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }
}
