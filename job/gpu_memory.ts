import { stateKindBytes } from "./state_bytes.js";
import { type StepMemory, type StepMemoryOptions, stepMemory } from "./step_memory.js";

/** Bytes of one GPU's tensors at the widest moment of a step, by kind. */
export interface GpuMemory extends Omit<StepMemory, "weights"> {
  /** Gathered weights, their shard in the compute dtype, and the fp32 master of the shard. */
  parameters: number;
  /** First and second moment of the shard, fp32. */
  optimizer: number;
  /** Averaged weights of the shard, fp32. */
  ema: number;
}

/**
 * The plan of a rank with a GPU, from the model's shapes, the schedule of the CPU's step, and these rules: in bf16, weights are gathered
 * and activations kept in bf16, and everything of the optimizer and all gradients are fp32; the training state lies in the GPU's memory
 * (snapshots of it in the node's); selective recomputation makes the stream after self-attention again, too.
 * Not counted: the CUDA context, NCCL's buffers, workspaces of libraries and what fragments leave unused.
 */
export function gpuMemory(options: Omit<StepMemoryOptions, "productBytes" | "afterSelf">): GpuMemory {
  const {
    weights,
    workspace,
    total: _,
    ...step
  } = stepMemory({
    ...options,
    productBytes: () => 0,
    afterSelf: false,
  });
  const ofState = stateKindBytes(options);
  const kinds = {
    parameters: weights + ofState,
    gradients: step.gradients,
    optimizer: 2 * ofState,
    ema: ofState,
    activations: step.activations,
    workspace,
    pack: step.pack,
  };
  return { ...kinds, total: Object.values(kinds).reduce((a, b) => a + b, 0) };
}
