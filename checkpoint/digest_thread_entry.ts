/** Entry of the thread of DigestThread: answers each request in turn. */
import { parentPort } from "node:worker_threads";
import { type DigestRequest, rangeDigests } from "./digest_thread.js";

parentPort!.on("message", (request: DigestRequest) => {
  parentPort!.postMessage(rangeDigests(request));
});
