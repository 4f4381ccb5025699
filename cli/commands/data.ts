import type { Command } from "commander";
import { writeShapes } from "../../worker/data/shapes/write_shapes.js";
import { globals } from "../context.js";
import { show } from "../output.js";
import { wholeNumber } from "./jobs.js";

export function addDataCommands(program: Command): void {
  const data = program.command("data").description("make and inspect data sets");
  data
    .command("shapes")
    .description("write the demonstration set: PNG pictures and MP4 clips of coloured shapes with captions")
    .argument("<dir>", "folder to write")
    .option("--seed <number>", "seed of positions, sizes and colours", "1")
    .action(async (dir: string, options: { seed: string }, command: Command) => {
      const written = await writeShapes({ directory: dir, seed: wholeNumber("--seed", options.seed) });
      show(
        globals(command),
        written,
        () => `Wrote ${written.images} pictures and ${written.clips} clips to ${dir}`,
      );
    });
}
