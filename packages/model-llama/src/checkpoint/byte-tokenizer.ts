import { ModelTokenizer } from './model-tokenizer.js';
import { BYTE_ALPHABET } from './token-bytes.js';

const SPECIALS = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'];
const CHATML =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}" +
  "{{ '<|im_start|>assistant\n' }}";

/** The smallest vocabulary {@link byteTokenizer} fits in: 256 bytes and three special tokens. */
export const BYTE_TOKENIZER_SIZE = 256 + SPECIALS.length;

/**
 * The tokenizer of models with random weights, made of nothing: a token a byte, ids 0..255, then `<|endoftext|>`,
 * `<|im_start|>` and `<|im_end|>`. The other ids up to `vocabSize`, which such a model also produces, read ` #300`.
 */
export function byteTokenizer(vocabSize: number): ModelTokenizer {
  const vocab = new Map(BYTE_ALPHABET.map((character, byte) => [character, byte]));
  const space = BYTE_ALPHABET[0x20]!;
  for (let id = BYTE_TOKENIZER_SIZE; id < vocabSize; id += 1) vocab.set(`${space}#${id}`, id);
  const decoder = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  return new ModelTokenizer({
    json: {
      model: { vocab, merges: [], unknown: undefined, fuseUnknown: false, byteFallback: false, ignoreMerges: false },
      addedTokens: SPECIALS.map((content, i) => ({
        id: 256 + i,
        content,
        special: true,
        singleWord: false,
        lstrip: false,
        rstrip: false,
      })),
      normalizer: undefined,
      preTokenizer: decoder,
      decoder,
      postProcessor: undefined,
    },
    file: 'the built-in byte tokenizer',
    bosToken: undefined,
    eosTokens: [],
    chatTemplate: { default: CHATML, specialTokens: { eos_token: '<|im_end|>' } },
  });
}
