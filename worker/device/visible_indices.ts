/**
 * The index by which ranks see each GPU of NVML's list; null: they do not see it. `visible`: CUDA_VISIBLE_DEVICES. CUDA counts as NVML
 * does, in the order of PCI addresses (cudaOrder()). Pure.
 */
export function visibleIndices(
  uuids: readonly string[],
  visible: string | undefined,
): readonly (number | null)[] {
  // A part of a GPU does not say of which: all are looked at.
  if (visible === undefined || /\bMIG-/.test(visible)) return uuids.map((_, position) => position);
  const seen: number[] = [];
  for (const entry of visible.split(",").map((text) => text.trim())) {
    const position = /^\d+$/.test(entry)
      ? Number(entry)
      : uuids.findIndex((uuid) => entry.startsWith("GPU-") && uuid.startsWith(entry));
    if (uuids[position] === undefined) break; // nor does CUDA look further
    seen.push(position);
  }
  return uuids.map((_, position) => {
    const index = seen.indexOf(position);
    return index === -1 ? null : index;
  });
}
