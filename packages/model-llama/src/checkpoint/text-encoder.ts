import { Tokenizer } from '@huggingface/tokenizers';
import { CheckpointError } from '../errors.js';
import type { TokenizerJson } from './tokenizer-json.js';

/** GPT-2's pattern: contractions, words, numbers, punctuation, each with the space before it; then white space. */
export const GPT2_PATTERN = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** The library's class BPE, whose type it does not export. */
interface BytePairModel {
  tokens_to_ids: Map<string, number>;
  /** Ranks by the JSON of [left, right]. */
  bpe_ranks: Map<string, number>;
  unk_token_id: number | undefined;
  /** Tokens of pre-tokenised words. */
  _call(words: string[]): string[];
}

/**
 * Encodes plain text: normalisation, pre-tokenisation and byte-pair merges of `@huggingface/tokenizers`. No special token
 * can come out, whatever the text says, because the vocabulary and the merges that this encoder has do not lead to any.
 */
export class TextEncoderModel {
  readonly #normalizer: { normalize(text: string): string } | null;
  readonly #preTokenizer: Tokenizer['pre_tokenizer'];
  readonly #model: BytePairModel;
  readonly #unknown: number | undefined;

  /** @throws CheckpointError when `@huggingface/tokenizers` cannot make sense of the file. */
  constructor(json: TokenizerJson, file: string) {
    const { vocab, merges, unknown, fuseUnknown, byteFallback, ignoreMerges } = json.model;
    const config = {
      type: 'BPE' as const,
      vocab: {},
      merges: [],
      fuse_unk: fuseUnknown,
      byte_fallback: byteFallback,
      ignore_merges: ignoreMerges,
      ...(unknown !== undefined && { unk_token: unknown }),
    };
    try {
      const tokenizer = new Tokenizer(
        {
          model: config,
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
      this.#model = tokenizer.model as unknown as BytePairModel;
    } catch (cause) {
      throw new CheckpointError(`the tokenizer cannot be used: ${(cause as Error).message}`, { file, cause });
    }

    // Filled directly: through the configuration's objects, a vocabulary of 128K tokens takes several times as long.
    const special = new Set(json.addedTokens.filter((token) => token.special).map((token) => token.content));
    for (const [token, id] of vocab) {
      if (!special.has(token) || token === unknown) this.#model.tokens_to_ids.set(token, id);
    }
    let rank = 0;
    for (const pair of merges) {
      if (!special.has(pair[0] + pair[1])) this.#model.bpe_ranks.set(JSON.stringify(pair), rank);
      rank += 1;
    }
    this.#unknown = unknown === undefined ? undefined : vocab.get(unknown);
    this.#model.unk_token_id = this.#unknown;
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
    for (const token of this.#model._call(words)) {
      const id = this.#model.tokens_to_ids.get(token) ?? this.#unknown;
      if (id !== undefined) ids.push(id);
    }
  }
}

/**
 * The same pre-tokenizer in terms that `@huggingface/tokenizers` takes as the Rust library does: its `Digits` splits ASCII
 * digits only and its `ByteLevel` pattern uses JavaScript's notion of white space, while its `Split` translates both.
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
      return { type: 'Sequence', pretokenizers: [split(GPT2_PATTERN), { ...node, use_regex: false }] };
    default:
      return node;
  }
}

function split(pattern: string): object {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false };
}
