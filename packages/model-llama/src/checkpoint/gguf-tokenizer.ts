import { CheckpointError } from '../errors.js';
import type { GgufMetadata } from './gguf-metadata.js';
import { END_TOKENS, type TokenizerSource } from './model-tokenizer.js';
import { GPT2_PATTERN } from './plain-text-encoder.js';
import { sentencePieceMerges } from './sentence-piece-merges.js';
import { type AddedToken, splitMerge, type TokenizerJson } from './tokenizer-json.js';

// llama.h's llama_token_type.
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const BYTE = 6;

const BYTE_LEVEL = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
const isolate = (pattern: string) => ({
  type: 'Split',
  pattern: { Regex: pattern },
  behavior: 'Isolated',
  invert: false,
});
const sequence = (...patterns: string[]) => ({
  type: 'Sequence',
  pretokenizers: [...patterns.map(isolate), BYTE_LEVEL],
});

const words = (digits: string) =>
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" +
  `${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;

// Mistral's since Nemo: words split where capitals follow small letters.
const UPPER = '\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}';
const LOWER = '\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}';
const TEKKEN_PATTERN =
  `[^\\r\\n\\p{L}\\p{N}]?[${UPPER}]*[${LOWER}]+|[^\\r\\n\\p{L}\\p{N}]?[${UPPER}]+[${LOWER}]*|` +
  '\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';

interface PreTokenizer {
  /** Values of tokenizer.ggml.pre that mean it (llama-vocab.cpp). */
  names: string[];
  preTokenizer: object;
  normalizer?: object;
  ignoreMerges?: boolean;
  addsBos?: boolean;
}

const PRE_TOKENIZERS: readonly PreTokenizer[] = [
  {
    names: ['smollm', 'starcoder', 'refact', 'command-r', 'codeshell', 'exaone', 'minerva-7b'],
    preTokenizer: sequence('\\p{N}', GPT2_PATTERN),
  },
  {
    names: ['llama-bpe', 'llama3', 'llama-v3', 'falcon3', 'pixtral'],
    preTokenizer: sequence(words('\\p{N}{1,3}')),
    ignoreMerges: true,
    addsBos: true,
  },
  { names: ['tekken'], preTokenizer: sequence(TEKKEN_PATTERN), ignoreMerges: true, addsBos: true },
  { names: ['smaug-bpe', 'dbrx'], preTokenizer: sequence(words('\\p{N}{1,3}')) },
  {
    names: ['qwen2', 'deepseek-r1-qwen', 'megrez'],
    preTokenizer: sequence(words('\\p{N}')),
    normalizer: { type: 'NFC' },
  },
  { names: ['stablelm2', 'hunyuan'], preTokenizer: sequence(words('\\p{N}')) },
  {
    names: ['gpt-2', 'phi-2', 'mpt', 'olmo', 'jais', 'trillion', 'granite-docling'],
    preTokenizer: sequence(GPT2_PATTERN),
  },
  {
    names: ['default'],
    preTokenizer: sequence('[\\p{P}\\$\\+<=>\\^~\\|]+', GPT2_PATTERN, '\\p{N}+', '[0-9][0-9][0-9]'),
  },
];

/**
 * The tokenizer in a GGUF file's metadata: GPT-2's byte-level BPE (`gpt2`), or SentencePiece's BPE (`llama`).
 *
 * @throws CheckpointError for other models and unknown pre-tokenizers, which would split text in other ways than the model
 *   was trained with.
 */
export function ggufTokenizer(metadata: GgufMetadata): TokenizerSource {
  const key = (name: string) => `tokenizer.ggml.${name}`;
  const tokens = metadata.required(key('tokens'), metadata.strings(key('tokens')));
  const types = metadata.numbers(key('token_type'));
  if (types !== undefined && types.length !== tokens.length) {
    throw metadata.error(key('token_type'), `has ${types.length} entries for ${tokens.length} tokens`);
  }
  const addedTokens = added(tokens, types);
  const model = metadata.required(key('model'), metadata.string(key('model')));
  const vocab = new Map<string, number>();
  for (let id = 0; id < tokens.length; id += 1) vocab.set(tokens[id]!, id);

  const id = (name: string) => {
    const value = metadata.number(key(name));
    if (value !== undefined && tokens[value] === undefined)
      throw metadata.error(key(name), `is ${value}, which is no token`);
    return value;
  };
  let json: TokenizerJson;
  let addsBosByDefault = false;
  if (model === 'gpt2') {
    const name = metadata.string(key('pre')) ?? 'default';
    const pre = PRE_TOKENIZERS.find(({ names }) => names.includes(name));
    if (pre === undefined) {
      const known = PRE_TOKENIZERS.flatMap(({ names }) => names).join(', ');
      throw metadata.error(key('pre'), `is ${name}, a way to split text that is not known here (${known} are)`);
    }
    json = byteLevel(metadata, key('merges'), vocab, addedTokens, pre);
    addsBosByDefault = pre.addsBos ?? false;
  } else if (model === 'llama') {
    json = sentencePiece(metadata, tokens, types, vocab, addedTokens, tokens[id('unknown_token_id') ?? 0]);
    addsBosByDefault = true;
  } else {
    throw metadata.error(key('model'), `is ${model}; gpt2 and llama are supported`);
  }

  const [bos, eos, unknown, padding] = [
    id('bos_token_id'),
    id('eos_token_id'),
    id('unknown_token_id'),
    id('padding_token_id'),
  ];
  const addsBos = metadata.boolean(key('add_bos_token')) ?? addsBosByDefault;
  const specialTokens: Record<string, string> = {};
  for (const [name, value] of Object.entries({ bos, eos, unk: unknown, pad: padding })) {
    if (value !== undefined) specialTokens[`${name}_token`] = tokens[value]!;
  }
  const template = metadata.string('tokenizer.chat_template');
  return {
    json,
    file: metadata.file,
    bosToken: addsBos ? bos : undefined,
    eosTokens: [eos, id('eot_token_id'), id('eom_token_id')].filter((value) => value !== undefined),
    chatTemplate:
      template === undefined
        ? undefined
        : { default: template, toolUse: metadata.string('tokenizer.chat_template.tool_use'), specialTokens },
  };
}

function added(tokens: readonly string[], types: ArrayLike<number> | undefined): AddedToken[] {
  const list: AddedToken[] = [];
  for (let id = 0; id < tokens.length; id += 1) {
    const content = tokens[id]!;
    const type = types?.[id];
    // Some converters wrote end-of-turn tokens as ordinary or user-defined ones.
    const special = type === CONTROL || type === UNKNOWN || END_TOKENS.has(content);
    if (content !== '' && (special || type === USER_DEFINED)) {
      list.push({ id, content, special, singleWord: false, lstrip: false, rstrip: false });
    }
  }
  return list;
}

function byteLevel(
  metadata: GgufMetadata,
  key: string,
  vocab: ReadonlyMap<string, number>,
  addedTokens: AddedToken[],
  pre: PreTokenizer,
): TokenizerJson {
  return {
    model: {
      vocab,
      merges: pairs(metadata, key),
      unknown: undefined,
      fuseUnknown: false,
      byteFallback: false,
      ignoreMerges: pre.ignoreMerges ?? false,
    },
    addedTokens,
    normalizer: pre.normalizer,
    preTokenizer: pre.preTokenizer,
    decoder: BYTE_LEVEL,
    postProcessor: undefined,
  };
}

/** Merge rules, split one by one: there are as many as tokens, and none is kept. */
function* pairs(metadata: GgufMetadata, key: string): Iterable<readonly [string, string]> {
  for (const [i, merge] of metadata.required(key, metadata.strings(key)).entries()) {
    const pair = splitMerge(merge);
    if (pair === undefined)
      throw metadata.error(key, `has an entry ${i} that is not two tokens: ${JSON.stringify(merge)}`);
    yield pair;
  }
}

function sentencePiece(
  metadata: GgufMetadata,
  tokens: readonly string[],
  types: ArrayLike<number> | undefined,
  vocab: ReadonlyMap<string, number>,
  addedTokens: AddedToken[],
  unknown: string | undefined,
): TokenizerJson {
  const key = 'tokenizer.ggml.scores';
  const scores = metadata.required(key, metadata.numbers(key));
  if (scores.length !== tokens.length) {
    throw metadata.error(key, `has ${scores.length} entries for ${tokens.length} tokens`);
  }
  if (types === undefined)
    throw new CheckpointError('metadata tokenizer.ggml.token_type is missing', { file: metadata.file });
  const isPiece = (id: number) => ![UNKNOWN, CONTROL, BYTE].includes(types[id]!);
  const addsSpace = metadata.boolean('tokenizer.ggml.add_space_prefix') ?? true;
  const toPiece = { type: 'Replace', pattern: { String: ' ' }, content: '\u2581' };
  return {
    model: {
      vocab,
      merges: sentencePieceMerges(tokens, scores, isPiece),
      unknown,
      fuseUnknown: true,
      byteFallback: true,
      ignoreMerges: false,
    },
    addedTokens,
    normalizer: addsSpace
      ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '\u2581' }, toPiece] }
      : toPiece,
    preTokenizer: undefined,
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '\u2581' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...(addsSpace ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
      ],
    },
    postProcessor: undefined,
  };
}
