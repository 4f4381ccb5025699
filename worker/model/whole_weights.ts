import { GokuError } from "../../job/errors.js";
import type { ModelConfig } from "../../job/model_config.js";
import { type ParameterSpec, parameterSpecs } from "../../job/parameters.js";
import type { Parameter, ParameterSet } from "../engine/parameter.js";
import type { Tensor } from "../engine/tensor.js";

/** All weights of a model in one process, for inference. */
export class WholeWeights {
  readonly root: ParameterSet;
  readonly blocks: readonly ParameterSet[];
  private readonly tensors: Tensor[] = [];

  /** @param tensorOf gives the row-major numbers of a parameter, all of one type; they are this object's from then on. */
  constructor(model: ModelConfig, tensorOf: (spec: ParameterSpec) => Tensor) {
    const all = new Map<string, Parameter>();
    for (const spec of parameterSpecs(model)) {
      const tensor = tensorOf(spec);
      this.tensors.push(tensor);
      all.set(spec.name, new FrozenParameter(spec, tensor));
    }
    this.root = new PrefixedSet(all, "");
    this.blocks = Array.from({ length: model.depth }, (_, i) => new PrefixedSet(all, `blocks.${i}.`));
  }

  close(): void {
    for (const tensor of this.tensors.splice(0)) tensor.free();
  }
}

class PrefixedSet implements ParameterSet {
  private readonly all: ReadonlyMap<string, Parameter>;
  private readonly prefix: string;

  constructor(all: ReadonlyMap<string, Parameter>, prefix: string) {
    this.all = all;
    this.prefix = prefix;
  }

  get(name: string): Parameter {
    const parameter = this.all.get(this.prefix + name);
    if (!parameter) throw new GokuError("INTERNAL", `Cannot find parameter ${this.prefix}${name}`);
    return parameter;
  }
}

class FrozenParameter implements Parameter {
  readonly name: string;
  readonly shape: readonly number[];
  private readonly tensor: Tensor;

  constructor(spec: ParameterSpec, tensor: Tensor) {
    this.name = spec.name;
    this.shape = spec.shape;
    this.tensor = tensor;
  }

  weight(): Tensor {
    return this.tensor;
  }

  gradient(): Tensor {
    throw new GokuError("INTERNAL", `Cannot differentiate by ${this.name}: its weights are frozen`);
  }
}
