import { InvalidArgumentError } from './errors.js';
import { native } from './native.js';
import { translateErrors } from './translate-errors.js';
import { checkInteger } from './validate.js';

/** @internal Brings a selector's summary of the keys up to token `end`. */
export function indexSelector(selector: object, end: number): void {
  checkInteger('end', end, 0, 2 ** 31 - 1);
  if (!translateErrors(() => native.indexSelector(selector, end))) {
    throw new InvalidArgumentError(`end is ${end}; the sequence has fewer tokens, or an earlier call covered more.`);
  }
}
