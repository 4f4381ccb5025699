import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { parse, stringify } from "yaml";
import type { Credentials } from "./credentials.js";
import { until } from "./until.js";

/** Why tests that need a real Prometheus are left out; false: it is there. */
export function prometheusMissing(...programs: string[]): string | false {
  const missing = programs.filter((name) => spawnSync(name, ["--version"]).error !== undefined);
  return missing.length === 0
    ? false
    : `no ${missing.join(", no ")} (apt-get install prometheus prometheus-alertmanager)`;
}

export interface Sample {
  metric: Record<string, string>;
  value: number;
}

/** A Prometheus server with the configuration that ships, sent to a controller on this machine and made impatient. */
export class TestPrometheus {
  private readonly process: ChildProcess;
  private readonly url: string;
  private said = "";

  private constructor(process: ChildProcess, url: string) {
    this.process = process;
    this.url = url;
    process.stderr!.on("data", (bytes: Buffer) => {
      this.said = (this.said + bytes).slice(-4_000);
    });
  }

  /**
   * @param rest URL of the controller, http://host:port
   * @param others host:port of more that it is to read
   * @param credentials of a cluster with TLS: a token of the role read for the controller, a certificate of it for agents,
   * as docs/security.md says
   */
  static async start(
    folder: string,
    shipped: string,
    rest: string,
    {
      others = [],
      credentials = null,
    }: { others?: readonly string[]; credentials?: Credentials | null } = {},
  ): Promise<TestPrometheus> {
    mkdirSync(folder, { recursive: true });
    const config = parse(readFileSync(path.join(shipped, "prometheus.yml"), "utf8"));
    Object.assign(config.global, { scrape_interval: "1s", evaluation_interval: "1s" });
    config.rule_files = config.rule_files.map((name: string) => path.resolve(shipped, name));
    const [controller, nodes] = config.scrape_configs;
    controller.static_configs[0].targets = [new URL(rest).host];
    nodes.http_sd_configs[0] = { url: `${rest}/v1/prometheus/targets`, refresh_interval: "1s" };
    if (credentials !== null) {
      const { file, tokenFile } = credentials;
      const shown = {
        tls_config: { ca_file: file("ca.crt") },
        // Said, since Prometheus 2.42 asks a service discovery without it where it is left out.
        authorization: { type: "Bearer", credentials_file: tokenFile.read },
      };
      Object.assign(controller, { scheme: "https", ...shown });
      Object.assign(nodes.http_sd_configs[0], shown);
      nodes.tls_config = {
        ...shown.tls_config,
        cert_file: file("read.crt"),
        key_file: file("read.key"),
        server_name: "goku-agent",
      };
    }
    config.scrape_configs.push({ job_name: "others", static_configs: [{ targets: others }] });
    const file = path.join(folder, "prometheus.yml");
    writeFileSync(file, stringify(config));
    const port = await freePort();
    const child = spawn(
      "prometheus",
      [
        `--config.file=${file}`,
        `--storage.tsdb.path=${path.join(folder, "data")}`,
        `--web.listen-address=127.0.0.1:${port}`,
      ],
      { stdio: ["ignore", "ignore", "pipe"] },
    );
    const server = new TestPrometheus(child, `http://127.0.0.1:${port}`);
    await until(async () => (await fetch(`${server.url}/-/ready`).catch(() => null))?.ok === true);
    return server;
  }

  async query(expression: string): Promise<Sample[]> {
    const result = (await this.ask(`/api/v1/query?query=${encodeURIComponent(expression)}`)) as {
      result: { metric: Record<string, string>; value: [number, string] }[];
    };
    return result.result.map(({ metric, value }) => ({ metric, value: Number(value[1]) }));
  }

  /** The newest value of each series that an expression has had in the last ten minutes. */
  async queryRange(expression: string): Promise<Sample[]> {
    const end = Date.now() / 1000;
    const range = new URLSearchParams({ query: expression, start: `${end - 600}`, end: `${end}`, step: "1" });
    const { result } = (await this.ask(`/api/v1/query_range?${range}`)) as {
      result: { metric: Record<string, string>; values: [number, string][] }[];
    };
    return result.map(({ metric, values }) => ({ metric, value: Number(values.at(-1)![1]) }));
  }

  /** What a label has been in the series that a selector names. */
  async labelValues(label: string, series: string): Promise<string[]> {
    const found = await this.ask(`/api/v1/label/${label}/values?match[]=${encodeURIComponent(series)}`);
    return found as string[];
  }

  /** Every rule that was loaded, with what its last evaluation came to. */
  async rules(): Promise<{ name: string; query: string; health: string; lastError?: string }[]> {
    const { groups } = (await this.ask("/api/v1/rules")) as { groups: { rules: never[] }[] };
    return groups.flatMap(({ rules }) => rules);
  }

  async stop(): Promise<void> {
    this.process.kill("SIGTERM");
    await until(() => this.process.exitCode !== null || this.process.signalCode !== null);
  }

  private async ask(what: string): Promise<unknown> {
    const answer = (await (await fetch(this.url + what)).json()) as {
      status: string;
      error?: string;
      data: unknown;
    };
    if (answer.status !== "success") throw new Error(`Prometheus: ${answer.error} (${what})\n${this.said}`);
    return answer.data;
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}
