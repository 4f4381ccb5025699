import { LEFT_OUT_REASONS, type LeftOut, type LeftOutReason } from "../job/left_out.js";
import { type NumbersSeen, nothingSeen, type SpikeWatch } from "../job/spikes.js";
import type { Fields } from "./fields.js";
import type { StateMeta, StateName } from "./state.js";

/** A decimal u64 without leading zeros. */
export const GENERATION = /^(0|[1-9][0-9]{0,19})$/;

export function readStateName(fields: Fields): StateName {
  return { generation: fields.string("generation", GENERATION), step: fields.integer("step") };
}

/**
 * Checks the meta of a state that came from a file; job, codec and fields that we do not know stay as they are. Those of the
 * first version have neither steps left out nor numbers.
 */
export function readStateMeta(fields: Fields): StateMeta {
  const parent = fields.objectOrNull("parent");
  const layout = fields.object("layout");
  const checked: StateMeta = {
    state: readStateName(fields.object("state")),
    parent: parent === null ? null : readStateName(parent),
    job: fields.any("job"),
    layout: {
      dp_replicate: layout.integer("dp_replicate", { min: 1 }),
      dp_shard: layout.integer("dp_shard", { min: 1 }),
      sp: layout.integer("sp", { min: 1 }),
    },
    adamStep: fields.integer("adamStep"),
    dataDigest: fields.string("dataDigest"),
    codec: fields.any("codec"),
    exclusions: fields
      .objects("exclusions")
      .map((item) => ({ sample: item.integer("sample"), step: item.integer("step") })),
    leftOut: fields.has("leftOut") ? fields.objects("leftOut").map(readLeftOut) : [],
    numbers: fields.has("numbers") ? readNumbers(fields.object("numbers")) : nothingSeen(),
    version: fields.string("version"),
  };
  return { ...fields.record(), ...checked };
}

const LEFT_OUT_REASON = new RegExp(`^(${LEFT_OUT_REASONS.join("|")})$`);

function readLeftOut(item: Fields): LeftOut {
  const first = item.integer("first", { min: 1 });
  const last = item.integer("last", { min: first });
  return { first, last, why: item.string("why", LEFT_OUT_REASON) as LeftOutReason };
}

function readNumbers(fields: Fields): NumbersSeen {
  const watch = (key: string): SpikeWatch => {
    const one = fields.object(key);
    return { values: one.numbers("values"), spikes: one.integer("spikes") };
  };
  return { loss: watch("loss"), gradient: watch("gradient") };
}

/** Orders generations, which are decimal u64 in text: negative when a is older. */
export function compareGenerations(a: string, b: string): number {
  const left = BigInt(a);
  const right = BigInt(b);
  return left < right ? -1 : left > right ? 1 : 0;
}

export function sameState(a: StateName, b: StateName): boolean {
  return a.generation === b.generation && a.step === b.step;
}
