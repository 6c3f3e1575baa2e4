import { InvalidArgumentError } from './errors.js';

/**
 * Probability that one random hyperplane leaves two vectors on the same side: 1 - theta / pi (Charikar 2002; paper, section 3.2).
 *
 * @param cosine cosine of the angle theta between them; rounding may push it slightly out of [-1, 1], which is clamped
 * @throws InvalidArgumentError when `cosine` is NaN
 */
export function collisionProbability(cosine: number): number {
  if (Number.isNaN(cosine))
    throw new InvalidArgumentError('collisionProbability: cosine is NaN; pass a number in [-1, 1].');
  return 1 - Math.acos(Math.min(1, Math.max(-1, cosine))) / Math.PI;
}
