const bits = new Uint32Array(1);
const float = new Float32Array(bits.buffer);

/** Rounded to bfloat16, nearest even. */
export function toBf16(values: Float32Array): Uint16Array {
  return Uint16Array.from(values, (value) => {
    float[0] = value;
    return (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) >>> 16;
  });
}
export function fromBf16(values: Uint16Array): Float32Array {
  return Float32Array.from(values, (value) => {
    bits[0] = value << 16;
    return float[0]!;
  });
}
