const UNITS: Record<string, number> = {
  b: 1,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
};

/**
 * Bytes of a size as people write it: `4`, `1.5` (GiB), `512MB`, `2GiB`, `300000b`. Units are powers of 1024.
 * @throws RangeError when the text is no size.
 */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(?:([bkmgt])(?:i?b)?)?$/i.exec(text.trim());
  const bytes = match === null ? Number.NaN : Math.floor(Number(match[1]) * UNITS[(match[2] ?? 'g').toLowerCase()]!);
  if (!(bytes > 0)) throw new RangeError(`'${text}' is not a size: write 4 (GiB), 512MB or 2.5GiB`);
  return bytes;
}
