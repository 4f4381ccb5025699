/**
 * For the environment of whatever counts CUDA devices: in the order of PCI addresses, as NVML and nvidia-smi do, unless it is told
 * otherwise. By itself CUDA puts the fastest first.
 */
export function cudaOrder(): { CUDA_DEVICE_ORDER: string } {
  return { CUDA_DEVICE_ORDER: process.env.CUDA_DEVICE_ORDER ?? "PCI_BUS_ID" };
}
