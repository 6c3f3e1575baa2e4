import { JsonObject } from './json-object.js';

/** A token outside the model's own vocabulary rules, as tokenizer.json lists them. */
export interface AddedToken {
  id: number;
  content: string;
  /** Has a meaning beyond its text (end of turn, ...): never made from a user's text. */
  special: boolean;
  singleWord: boolean;
  /** Swallows white space on its left, right. */
  lstrip: boolean;
  rstrip: boolean;
}

/** Hugging Face's tokenizer.json, its parts checked as far as this package looks into them. */
export interface TokenizerJson {
  /** Byte-pair encoding. */
  model: {
    /** Ids by token. */
    vocab: ReadonlyMap<string, number>;
    /** First to be merged first. May be read once only. */
    merges: Iterable<readonly [left: string, right: string]>;
    unknown: string | undefined;
    /** Neighbouring unknown characters become one unknown token. */
    fuseUnknown: boolean;
    /** Characters that are no token become tokens `<0x00>` ... `<0xFF>`. */
    byteFallback: boolean;
    /** A word that is a token is that token, however merges would get there. */
    ignoreMerges: boolean;
  };
  addedTokens: AddedToken[];
  /** Passed on as they are. */
  normalizer: unknown;
  preTokenizer: unknown;
  decoder: unknown;
  postProcessor: unknown;
}

// No tokenizer has nearly as many; a damaged file must not make us allocate a table of 2^32 entries.
const MAX_TOKEN_ID = 2 ** 24;

/**
 * Checks a parsed tokenizer.json.
 * @throws CheckpointError
 */
export function parseTokenizerJson(value: unknown, file: string): TokenizerJson {
  const json = new JsonObject(value, file);
  const model = json.required('model', json.object('model'));
  const type = model.string('type') ?? 'BPE'; // files of old versions of `tokenizers` leave it out
  if (type !== 'BPE') throw json.error(`the tokenizer's model is ${type}; Llama-like models use BPE`);

  const entries = Object.entries(model.required('vocab', model.get('vocab')) as object);
  for (const [token, id] of entries) {
    if (!isTokenId(id)) throw json.error(`model.vocab gives ${JSON.stringify(token)} the id ${String(id)}`);
  }
  const merges = model.required('merges', model.get('merges'));
  if (!Array.isArray(merges)) throw json.error('model.merges is not a list');
  for (const option of ['continuing_subword_prefix', 'end_of_word_suffix']) {
    if ((model.string(option) ?? '') !== '') throw json.error(`the tokenizer has a ${option}, which is not supported`);
  }

  return {
    model: {
      vocab: new Map(entries as [string, number][]),
      merges: merges.map((merge, i) => {
        const pair = typeof merge === 'string' ? splitMerge(merge) : merge;
        if (!isPair(pair)) {
          throw json.error(`model.merges[${i}] is ${JSON.stringify(merge)?.slice(0, 80)}, not two tokens`);
        }
        return pair;
      }),
      unknown: model.string('unk_token'),
      fuseUnknown: model.boolean('fuse_unk') ?? false,
      byteFallback: model.boolean('byte_fallback') ?? false,
      ignoreMerges: model.boolean('ignore_merges') ?? false,
    },
    addedTokens: (json.objects('added_tokens') ?? []).map((token) => {
      const id = token.get('id');
      const content = token.string('content');
      if (!isTokenId(id) || content === undefined || content === '')
        throw json.error('added_tokens has one without id or content');
      return {
        id,
        content,
        special: token.boolean('special') ?? false,
        singleWord: token.boolean('single_word') ?? false,
        lstrip: token.boolean('lstrip') ?? false,
        rstrip: token.boolean('rstrip') ?? false,
      };
    }),
    normalizer: json.get('normalizer'),
    preTokenizer: json.get('pre_tokenizer'),
    decoder: json.get('decoder'),
    postProcessor: json.get('post_processor'),
  };
}

/** `left right` as two tokens; a token may itself be a space only at the front. */
export function splitMerge(merge: string): [string, string] | undefined {
  const space = merge.indexOf(' ', 1);
  return space < 1 || space === merge.length - 1 ? undefined : [merge.slice(0, space), merge.slice(space + 1)];
}

function isTokenId(id: unknown): id is number {
  return Number.isInteger(id) && (id as number) >= 0 && (id as number) <= MAX_TOKEN_ID;
}

function isPair(value: unknown): value is [string, string] {
  return Array.isArray(value) && value.length === 2 && typeof value[0] === 'string' && typeof value[1] === 'string';
}
