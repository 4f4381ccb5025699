/** Entry of the thread that prepares packs beside the training thread, which native code keeps busy for long stretches. */
import { type MessagePort, workerData } from "node:worker_threads";
import { type ErrorCode, toGokuError } from "../../job/errors.js";
import { type AssembledPack, assemblePack, type PackRequest } from "./assemble_pack.js";
import { SampleReader, type SampleReaderOptions } from "./sample_reader.js";
import { HashTextEncoder, type TextSettings } from "./text_encoder.js";

export interface PrefetchThreadOptions {
  port: MessagePort;
  reader: SampleReaderOptions;
  text: TextSettings;
}

export type PrefetchRequest = { kind: "pack"; request: PackRequest } | { kind: "close" };
export type PrefetchReply =
  | { kind: "pack"; pack: AssembledPack }
  | { kind: "failed"; id: number; code: ErrorCode; message: string };

const options = workerData as PrefetchThreadOptions;
const { port } = options;
const reader = new SampleReader(options.reader);
const text = new HashTextEncoder(options.text);

// one pack at a time, in the order asked, so that the next one needed is always the first one ready
let last: Promise<void> = Promise.resolve();
port.on("message", (message: PrefetchRequest) => {
  last = last.then(() => handle(message));
});

async function handle(message: PrefetchRequest): Promise<void> {
  if (message.kind === "close") {
    await reader.close();
    port.close();
    return;
  }
  const { request } = message;
  try {
    const pack = await assemblePack(request, { reader, text, codec: options.reader.codec });
    reply({ kind: "pack", pack }, [pack.data.buffer as ArrayBuffer, pack.text.buffer as ArrayBuffer]);
  } catch (error) {
    const { code, message: reason } = toGokuError(error);
    reply({ kind: "failed", id: request.id, code, message: reason }, []);
  }
}

function reply(message: PrefetchReply, transfer: ArrayBuffer[]): void {
  port.postMessage(message, transfer);
}
