/** Builds the index of the folder given as argument, as a rank does, and tells its parent how it went. */
import { modelConfig } from "../../../job/job.js";
import { buildIndex } from "../../../worker/data/build_index.js";
import { smallJob } from "./small_data_set.js";

const job = smallJob(process.argv[2]!);
const { built, index } = await buildIndex({ job, model: modelConfig(job) });
process.send!({ built, digest: index.digest }, () => process.disconnect());
