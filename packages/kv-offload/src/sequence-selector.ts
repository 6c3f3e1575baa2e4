import { InvalidArgumentError } from './errors.js';
import { KvSequence } from './kv-sequence.js';
import { native } from './native.js';
import { translateErrors } from './translate-errors.js';
import { checkInteger } from './validate.js';

/** Options of the selectors that look at the keys of one sequence. */
export interface SequenceSelectorOptions {
  /** The sequence whose keys are selected. The selector fails once it is disposed of. */
  sequence: KvSequence;
  /** First sampled token, as in `Sampling.begin`. Default 0. */
  begin?: number;
  /** Keys to read for each query. */
  keys: number;
}

/** What the selectors that look at the keys of one sequence have in common. */
export abstract class SequenceSelector implements Disposable {
  /** The handle to pass as `Sampling.selector`. */
  readonly selector: object;
  protected readonly sequence: KvSequence;
  protected readonly begin: number;

  /** @internal */
  constructor(
    kind: 'topk' | 'oracle' | 'quest' | 'ivf' | 'h2o',
    { sequence, begin = 0, keys }: SequenceSelectorOptions,
    seed = 0,
    cells = 0,
  ) {
    if (!(sequence instanceof KvSequence)) {
      throw new InvalidArgumentError('sequence is not a KvSequence; make one with store.open().');
    }
    checkInteger('begin', begin, 0, 2 ** 31 - 1);
    checkInteger('keys', keys, 1, 2 ** 31 - 1);
    checkInteger('seed', seed, 0, 2 ** 32 - 1);
    this.sequence = sequence;
    this.begin = begin;
    this.selector = translateErrors(() =>
      native.createSequenceSelector(sequence.handle, kind, begin, keys, seed, cells),
    );
  }

  /**
   * Frees what the selector keeps of the keys, at once; `attend` with it then throws SelectorError.
   * @throws DisposedError when it was disposed of before
   */
  [Symbol.dispose](): void {
    translateErrors(() => native.disposeSelector(this.selector));
  }
}
