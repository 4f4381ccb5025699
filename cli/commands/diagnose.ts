import type { Command } from "commander";
import { diagnosisJson } from "../../controller/api/json.js";
import { ERRORS } from "../../job/errors.js";
import { withController } from "../context.js";
import { followDiagnosis } from "../follow_diagnosis.js";
import { diagnosisText } from "../format_diagnosis.js";
import { show } from "../output.js";
import { requireExamined } from "../require_examined.js";

export function addDiagnoseCommand(program: Command): void {
  program
    .command("diagnose")
    .description(
      "examine free nodes and their CUDA devices: memory, arithmetic, copies, disks, clock, network, then collectives in pairs",
    )
    .argument("[nodes...]", "their names in: gokuctl nodes (default: all)")
    .addHelpText(
      "after",
      "\nExample:\n  gokuctl diagnose node-a node-b\n\nExit code 32: a node failed or is suspect; 3: none was examined; docs/self-checks.md says what each check finds",
    )
    .action((nodeIds: string[], _options: object, command: Command) =>
      withController(command, async (client, output) => {
        const { diagnosis: asked } = await client.call("diagnose", { nodeIds });
        const look = async () => (await client.call("getDiagnosis", {})).diagnosis!;
        const diagnosis = await followDiagnosis(asked!, look);
        show(output, diagnosisJson(diagnosis), () => diagnosisText(diagnosis, process.stdout.columns ?? 120));
        const bad = diagnosis.nodes.some(({ verdict }) => verdict === "failed" || verdict === "suspect");
        if (bad || diagnosis.badLinks.length > 0) process.exitCode = ERRORS.NODE_UNHEALTHY.exit;
        requireExamined(diagnosis);
      }),
    );
}
