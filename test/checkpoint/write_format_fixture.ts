import { existsSync } from "node:fs";
import { writeFormatFixture } from "./format_fixture.js";

/** Writes the fixture of the present format version: `node dist/test/checkpoint/write_format_fixture.js FOLDER`. */
const [folder] = process.argv.slice(2);
if (folder === undefined || existsSync(folder))
  throw new Error(`Cannot write a fixture to ${folder}: want a folder that is not there yet, name one`);
await writeFormatFixture(folder);
