/** Arguments under -45 have no weight in float64 sums over a vocabulary; {@link expNegative} takes none lower. */
export const NEGLIGIBLE = 45;

const STEPS = 64; // table entries for each unit of the argument
const TABLE = Float64Array.from({ length: NEGLIGIBLE * STEPS + 1 }, (_, i) => Math.exp(-i / STEPS));

/**
 * e^x for x in [-NEGLIGIBLE, 0], relative error under 3e-9: a table and a cubic between its entries. Several times as
 * fast as `Math.exp`, which is called for every id of a vocabulary.
 */
export function expNegative(x: number): number {
  const entry = (-x * STEPS) | 0;
  const rest = x + entry / STEPS; // in (-1 / STEPS, 0]
  return TABLE[entry]! * (1 + rest * (1 + rest * (1 / 2 + rest * (1 / 6))));
}
