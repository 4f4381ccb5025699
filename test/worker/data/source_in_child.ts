/** Takes one pack of the folder given as argument, announces others, and ends without closing the source. */
import { modelConfig } from "../../../job/job.js";
import { openPackSource } from "../../../worker/data/pack_source.js";
import { smallJob } from "./small_data_set.js";

const job = smallJob(process.argv[2]!);
const source = await openPackSource({ job, model: modelConfig(job), digest: null, cacheBytes: 0 });
await source.pack(1, 0);
source.announce([{ step: 1, index: 1 }]);
console.log("got 1 pack");
