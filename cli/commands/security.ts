import { writeFileSync } from "node:fs";
import path from "node:path";
import type { Command } from "commander";
import { GokuError } from "../../job/errors.js";
import { createToken } from "../../security/tokens.js";
import { globals } from "../context.js";
import { makeCertificates } from "../make_certificates.js";
import { show } from "../output.js";
import { collect, wholeNumber } from "../read_options.js";

const hosts = (host: string, all: string[] = []) => collect(host, all);

/** Commands that make credentials; no controller is asked. */
export function addSecurityCommands(program: Command): void {
  const token = program.command("token").description("make tokens, which say who a caller is");
  token
    .command("create")
    .description("make a token; a controller keeps its digest only, so that it is shown once")
    .requiredOption("--name <name>", "whose it is, as audit events will say")
    .requiredOption("--role <role>", "read, operate or agent")
    .option("--out <file>", "write the token there, readable by you alone, and print only its line")
    .addHelpText(
      "after",
      `
Example, which adds the line to the file that "gokuctl controller --tokens" reads:
  gokuctl token create --name alice --role operate --out alice.token >> tokens`,
    )
    .action(create);
  const certs = program
    .command("certs")
    .description("make certificates, where nothing like cert-manager does");
  certs
    .command("init")
    .description(
      "make a CA, and with it certificates of a controller, of agents, of a person who operates, and of a program that reads",
    )
    .requiredOption("--out <dir>", "folder; what is there already stays, and is used")
    .requiredOption("--host <host>", "name or address of the controller; may be repeated", hosts)
    .option("--days <count>", "how long they are good for; the CA for ten years", "365")
    .addHelpText(
      "after",
      "\nExample:\n  gokuctl certs init --out certs --host controller.example --host 10.0.0.5",
    )
    .action(init);
}

function create(options: { name: string; role: string; out?: string }, command: Command): void {
  const { token, role, line } = createToken(options.name, options.role);
  const { out } = options;
  if (out !== undefined) writeToken(out, token);
  const shown = out === undefined ? { token } : { token_file: path.resolve(out) };
  show(globals(command), { name: options.name, role, ...shown, line }, () =>
    out === undefined ? `token, shown this once: ${token}\nline for the tokens file: ${line}` : line,
  );
}

/** A new file, so that no other token is lost. */
function writeToken(file: string, token: string): void {
  try {
    writeFileSync(file, `${token}\n`, { mode: 0o600, flag: "wx" });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "EEXIST")
      throw new GokuError(
        "CONFLICT",
        `Cannot write ${file}: it exists; name another with --out, or remove it`,
      );
    throw new GokuError("ARGUMENT_INVALID", `Cannot write ${file}: ${message}`);
  }
}

function init(options: { out: string; host: string[]; days: string }, command: Command): void {
  const days = wholeNumber("--days", options.days, { least: 1, most: 36_500 });
  const made = makeCertificates(path.resolve(options.out), options.host, days);
  show(globals(command), { made }, () =>
    made.length === 0 ? "All are there already; remove those that are to be made anew" : made.join("\n"),
  );
}
