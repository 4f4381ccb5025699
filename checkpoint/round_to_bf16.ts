/**
 * Little-endian bf16 of float32 elements, rounded to nearest, ties to even; what is too large becomes infinite. NaN stays NaN,
 * though its payload may lie wholly in the half that goes.
 */
export function roundToBf16(values: Float32Array): Uint8Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const rounded = new Uint16Array(values.length);
  for (let i = 0; i < rounded.length; i++) {
    const word = bits[i]!;
    const noNumber = (word & 0x7fffffff) > 0x7f800000;
    rounded[i] = noNumber ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return new Uint8Array(rounded.buffer);
}
