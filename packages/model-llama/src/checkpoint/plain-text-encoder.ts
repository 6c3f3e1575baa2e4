import { Tokenizer } from '@huggingface/tokenizers';
import { CheckpointError } from '../errors.js';
import { BytePairEncoder } from './byte-pair-encoder.js';
import { escapeRegExp } from './token-splitter.js';
import type { TokenizerJson } from './tokenizer-json.js';

/** GPT-2's pattern: contractions, words, numbers, punctuation, each with the space before it; then white space. */
export const GPT2_PATTERN = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/**
 * Encodes plain text: normalisation and pre-tokenisation of `@huggingface/tokenizers`, then byte-pair encoding. No special
 * token can come out, whatever the text says, because the encoder's vocabulary has none.
 */
export class PlainTextEncoder {
  readonly #normalizer: { normalize(text: string): string } | null;
  readonly #preTokenizer: Tokenizer['pre_tokenizer'];
  readonly #words: BytePairEncoder;

  /** @throws CheckpointError when `@huggingface/tokenizers` cannot make sense of the file. */
  constructor(json: TokenizerJson, file: string) {
    const special = json.addedTokens.filter((token) => token.special).map((token) => token.id);
    this.#words = new BytePairEncoder(json.model, new Set(special));
    try {
      const tokenizer = new Tokenizer(
        {
          model: { type: 'BPE', vocab: {}, merges: [] }, // its own encoder takes half a minute for a megabyte of spaces
          added_tokens: [],
          normalizer: json.normalizer ?? null,
          pre_tokenizer: faithful(json.preTokenizer ?? null),
          post_processor: null,
          decoder: null,
        },
        {},
      );
      this.#normalizer = tokenizer.normalizer;
      this.#preTokenizer = tokenizer.pre_tokenizer;
    } catch (cause) {
      throw new CheckpointError(`the tokenizer cannot be used: ${(cause as Error).message}`, { file, cause });
    }
  }

  /**
   * Appends the ids of `text`.
   * @param section How many parts, added tokens included, come before: some tokenizers put a space before the first only.
   */
  encode(text: string, section: number, ids: number[]): void {
    const normalized = this.#normalizer === null ? text : this.#normalizer.normalize(text);
    if (normalized === '') return;
    const words =
      this.#preTokenizer === null
        ? [normalized]
        : this.#preTokenizer.pre_tokenize(normalized, { section_index: section });
    for (const word of words) this.#words.encode(word, ids);
  }
}

/**
 * The same pre-tokenizer in terms that `@huggingface/tokenizers` takes as the Rust library does: its `Digits` splits ASCII
 * digits only, its `ByteLevel` pattern uses JavaScript's notion of white space, its `Metaspace` does not split words, and
 * its `Split` isolates matches unless told to remove them.
 *
 * @throws Error for what it would take in another way.
 */
function faithful(config: unknown): unknown {
  const node = config as { type?: string; pretokenizers?: unknown[]; [key: string]: unknown } | null;
  switch (node?.type) {
    case 'Sequence':
      return { ...node, pretokenizers: (node.pretokenizers ?? []).map(faithful) };
    case 'Digits':
      return split(node.individual_digits === true ? '\\p{N}' : '\\p{N}+');
    case 'ByteLevel':
      if (node.use_regex === false || node.add_prefix_space === true) return node;
      return sequence(split(GPT2_PATTERN), { ...node, use_regex: false });
    case 'Metaspace': {
      const scheme = node.prepend_scheme ?? (node.add_prefix_space === false ? 'never' : 'always');
      const pieces = { ...node, prepend_scheme: scheme };
      const mark = escapeRegExp(String(node.replacement ?? '\u2581'));
      return node.split === false ? pieces : sequence(pieces, split(`${mark}[^${mark}]*|[^${mark}]+`));
    }
    case 'Split': {
      const { behavior, pattern } = node;
      const { Regex, String: text } = (pattern ?? {}) as { Regex?: unknown; String?: unknown };
      if (typeof Regex !== 'string' && typeof text !== 'string')
        throw new Error('its pre-tokenizer splits at no pattern');
      if (behavior === 'Isolated') return { ...node, invert: false };
      if (behavior === 'Removed') return node;
      throw new Error(`its pre-tokenizer splits with the behaviour ${String(behavior)}, which is not supported`);
    }
    default:
      return node;
  }
}

function sequence(...pretokenizers: unknown[]): object {
  return { type: 'Sequence', pretokenizers };
}

function split(pattern: string): object {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false };
}
