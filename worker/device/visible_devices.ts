/**
 * CUDA_VISIBLE_DEVICES of a process that is to see one device: the `index`-th of those that this process sees by its own, which may
 * name them by number or by UUID. A process that sees one takes no memory of the others, whichever library it calls. Pure.
 */
export function visibleDevices({
  inherited,
  index,
}: {
  inherited: string | undefined;
  index: number;
}): string {
  return inherited?.split(",")[index]?.trim() ?? String(index);
}
