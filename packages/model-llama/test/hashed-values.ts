/** Seeded values that scripts/hash_values.py makes alike. */

function nameSeed(name: string): number {
  let h = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(name)) h = Math.imul(h ^ byte, 0x01000193) >>> 0;
  return h;
}

function mix(x: number): number {
  x ^= x >>> 16;
  x = Math.imul(x, 0x85ebca6b);
  x ^= x >>> 13;
  x = Math.imul(x, 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/** float32, uniform in offset +- amplitude. */
export function hashedValues(name: string, count: number, amplitude: number, offset = 0): Float32Array {
  const seed = nameSeed(name);
  return Float32Array.from({ length: count }, (_, i) => ((mix((i + seed) | 0) / 2 ** 32) * 2 - 1) * amplitude + offset);
}

export function hashedIntegers(name: string, count: number, below: number): Int32Array {
  const seed = nameSeed(name);
  return Int32Array.from({ length: count }, (_, i) => Math.floor((mix((i + seed) | 0) * below) / 2 ** 32));
}
