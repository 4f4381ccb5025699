import { writeFileSync } from "node:fs";
import path from "node:path";
import { COUNTERS, FLEET_FACTOR, FLEET_MACHINES_MIN, LINKS } from "../job/signals/counters.js";
import { KERNEL_LINES } from "../job/signals/kernel_lines.js";
import { LOG_WORDS, PYTHON_ERROR } from "../job/signals/log_words.js";
import type { SignalKind } from "../job/signals/signal_kind.js";
import { OTHER_XID, XIDS } from "../job/signals/xids.js";

/** Writes docs/hardware-signals.md from the catalogue: node dist/scripts/signals_page.js */
export function signalsPage(): string {
  return `# Signs of broken hardware

<!-- Made from job/signals by \`node dist/scripts/signals_page.js\`: change it there, or in scripts/signals_page.ts. -->

A GPU that fell off the bus, memory that corrects a thousand errors an hour, a cable that comes loose: the machine says so long before
a rank that waits for it is found to hang. Every agent reads what its ranks write, what the kernel logs and what the machine counts,
and tells the controller what it knows as a sign of trouble. The controller shows it, lets it explain the faults that follow, and
acts where waiting makes it worse ([why so](decisions/028-signs-of-broken-hardware.md), [GPUs](decisions/032-gpus-by-nvml.md)).

## Where signs are read

| source | what is read | how often |
| --- | --- | --- |
| log | every line that ranks, and the programs that they keep, write: its first 1,000 characters | as it comes |
| kernel | \`dev/kmsg\`: lines of the kernel itself, from the start of the agent on | every second, and when a rank ends |
| counter | \`sys\`: memory, network interfaces with a device, InfiniBand ports, throttled processors | every 5 seconds |
| counter | NVML: the GPUs that ranks of the node see | every 10 seconds |

\`gokuctl agent --host-root DIR\` (\`GOKU_HOST_ROOT\`) says where \`dev/kmsg\` and \`sys\` are: \`/\`, or where a container has them mounted. Reading
the kernel's log wants CAP_SYSLOG where \`kernel.dmesg_restrict\` is set, and in a container \`/dev/kmsg\` as a device of the host. An agent that
cannot read it says so once in its log and in \`gokuctl nodes\` (\`gokuctl doctor\` tells before), and watches the rest. On Kubernetes the
agents of the shipped manifests have neither: their nodes are watched by logs and counters, as far as \`/sys\` shows those of the machine.

GPUs are read by NVIDIA's management library, \`libnvidia-ml.so.1\`, which comes with the driver (in containers by NVIDIA's container toolkit, with
the capability \`utility\`). It is looked for ten seconds after the agent starts; a machine without it lacks nothing, and the agent's log and \`gokuctl doctor\` say
so. A process of its own asks it, since a call may hang for minutes when a GPU has fallen off the bus: one that has not come back
after 30 s (60 s for the driver as a whole) is a sign in itself, \`counter.gpu_silent\`, and the process is ended and started again, once the kernel lets it go. GPUs are known by their
UUID, and called by the index that ranks see: where \`CUDA_VISIBLE_DEVICES\` is set, its GPUs alone are read. What a GPU, its driver or an older library
does not tell is left out. Where the kernel's log cannot be read, Xids are taken from NVML, with the names below; there only those that the driver calls critical,
up to 10 s later, and without the process.

A line of a log costs 4 to 6 microseconds of CPU. Of each kind, rank and device the first three are told, then the tenth, hundredth and so on; what ranks write, and
kills for memory, count anew with each generation, the rest after an hour. A controller keeps the newest 16 of each node, while it leads; what it decided is durable.
Heartbeats carry the counters that grew in the last minute and nothing else of this.

## What follows

| action | what is done at once |
| --- | --- |
| note | nothing: it is shown, and explains what follows |
| suspect | the node is [examined](self-checks.md) as soon as nobody uses it, and no other job gets it before |
| replace | that, and its job avoids it: its ranks go to a free node, where there is one, at their next vote, with a checkpoint; no step is computed twice |
| quarantine | its ranks end at once and the job goes on from memory on other nodes. The node gets no ranks until a person releases it, or its machine has booted anew and passes its self-checks |

A fault of a rank or a node is explained by the signs of the minute before it: first by what the kernel or a counter of its node said of
the machine, then by what the rank itself wrote of the machine, then by a kill for memory, at last by what the rank wrote of itself.

| explained by | code of the incident | its node |
| --- | --- | --- |
| the machine | \`HARDWARE_FAULT\` | avoided by the job for an hour, and examined before it is used again |
| a kill for memory (\`kernel.oom_kill\`), whose process is the rank's, or which came up to 10 s before a rank ended by SIGKILL | \`NODE_OUT_OF_MEMORY\` | not blamed |
| the program | as without, with the words in its headline | not blamed: no self-checks, and none of the three faults in a row after which others are preferred |
| nothing, or what is unclear | as without | blamed, as ever |

Whatever its ranks print, a node is never quarantined for words: output is anybody's to write. Where words of the class "machine" are
followed by silence, that is waited for no longer: a rank that has stood still since then, for two of its usual steps and at least as long as
a heartbeat may be late (4 s), is ended, where the limit for hangs may be minutes. One that goes on is left alone; so is a program that sends no
heartbeats, since nobody can see whether it does.

Where they show: \`gokuctl nodes\` (signs of kernels and counters, newest first), \`gokuctl why\` (as evidence, and in the headline), \`gokuctl events\`,
REST (\`signals\` of a node), metrics \`goku_signals_total\`, \`goku_node_hardware_errors_total\` and \`goku_gpu_*\`, alerts \`GokuHardwareSigns\`,
\`GokuMemoryErrors\` and \`GokuGpuUnwell\`. The last also tells what was there before the agent looked, of which there is no sign.

## Words in logs

A line matches where it holds the texts in this order; the first row that matches counts. Of a Python traceback the last line alone is
looked at. All of cause "machine" are suspected, the rest is noted.

${table(
  ["kind", "texts", "class", "cause", "meaning"],
  LOG_WORDS.map((word) => [
    code(`log.${word.name}`),
    word.any.map((texts) => texts.map(code).join(" ... ")).join(", ") +
      (word.whole ? ", alone in its line" : ""),
    word.class,
    word.cause,
    word.meaning,
  ]).concat([
    [
      code("log.python_error"),
      "the last line of any other traceback",
      PYTHON_ERROR.class,
      PYTHON_ERROR.cause,
      PYTHON_ERROR.meaning,
    ],
  ]),
)}

## Xids

\`NVRM: Xid (PCI:0000:3b:00): 79, ...\` in the kernel's log, by number. NVIDIA's list ("Xid Errors") has more of them and says more of each.

${table(
  ["kind", "cause", "action", "meaning"],
  [...XIDS].map(([xid, kind]) => row(`xid.${xid}`, kind)).concat([row("xid.other", OTHER_XID)]),
)}

## Other lines of the kernel

${table(
  ["kind", "class", "cause", "action", "meaning"],
  KERNEL_LINES.map((line) => [
    code(`kernel.${line.name}`),
    line.class,
    line.cause,
    line.action,
    line.meaning,
  ]),
)}

## Counters

Told when it grew by more than the limit in a minute, over all devices of the machine; then again once it has been below half of that. What is
compared must also have grown more than ${FLEET_FACTOR} times as fast as the median of the other machines, where ${FLEET_MACHINES_MIN} or more can be compared: a switch that
drops frames makes no machine bad. A link is told when it was up and has been down in two readings, a GPU that cannot be reached also where it never
could be; a driver that does not answer at once.

${table(
  ["kind", "read from", "more than, a minute", "compared", "class", "action", "meaning"],
  [
    ...Object.entries(COUNTERS).map(([name, kind]) => [
      code(`counter.${name}`),
      code(kind.files),
      kind.perMinuteMax === 0 ? "none" : kind.perMinuteMax.toLocaleString("en-US"),
      kind.compared ? "yes" : "no",
      kind.class,
      kind.action,
      kind.meaning,
    ]),
    ...Object.entries(LINKS).map(([name, kind]) => [
      code(`counter.${name}`),
      kind.files,
      "",
      "no",
      kind.class,
      kind.action,
      kind.meaning,
    ]),
  ],
)}

## What it does not see

What the kernel wrote while no agent ran. A GPU that was bad before: errors are told when they grow. Whether NVML tells the truth: it was tried on a library that stands
in for it, never on a GPU. Which of two machines a bad cable belongs to: both may be suspected,
and a [diagnosis](self-checks.md) tries the link. Processes in containers have other numbers inside: a kill for memory is then laid to the rank
that ended by SIGKILL just after it.
`;
}

function row(name: string, { cause, action, meaning }: SignalKind): string[] {
  return [code(name), cause, action, meaning];
}

function code(text: string): string {
  return `\`${text.trim().replaceAll("|", "\\|")}\``;
}

function table(head: readonly string[], rows: readonly string[][]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

if (process.argv[1] === import.meta.filename)
  writeFileSync(path.join(import.meta.dirname, "../../docs/hardware-signals.md"), signalsPage());
