/** JSON has no NaN: null where a number is not known, or not finite. */
export function finite(value: number | undefined): number | null {
  return value !== undefined && Number.isFinite(value) ? value : null;
}
