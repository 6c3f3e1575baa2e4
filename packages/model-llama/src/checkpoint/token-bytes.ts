import { CheckpointError } from '../errors.js';
import { JsonObject } from './json-object.js';

/** How the text of a vocabulary's tokens is written down; read off tokenizer.json's `decoder`. */
export interface TokenSpelling {
  /** UTF-8 bytes of one token of the vocabulary. */
  bytes(token: string): Uint8Array;
  /** A text's first character, when it is a space, was put there by the encoder and does not belong to it. */
  dropsFirstSpace: boolean;
}

const encoder = new TextEncoder();

/**
 * Understands the decoders that Llama-like tokenizers have: GPT-2's byte alphabet, and SentencePiece's pieces with
 * byte fallback. Each token then stands for fixed bytes, so that a stream of them can be decoded one by one.
 *
 * @throws CheckpointError for any other decoder.
 */
export function tokenSpelling(decoder: unknown, file: string): TokenSpelling {
  const steps = flatten(decoder, file);
  const types = steps.map((step) => step.string('type') ?? '');
  if (types.includes('ByteLevel')) return { bytes: byteLevelBytes, dropsFirstSpace: false };

  let dropsFirstSpace = false;
  let byteFallback = false;
  const replacements: [string, string][] = [];
  for (const step of steps) {
    const type = step.string('type');
    switch (type) {
      case 'Metaspace':
        replacements.push([step.string('replacement') ?? '\u2581', ' ']);
        dropsFirstSpace =
          (step.string('prepend_scheme') ?? 'always') !== 'never' && step.boolean('add_prefix_space') !== false;
        break;
      case 'Replace':
        replacements.push([
          step.required('pattern', step.object('pattern')?.string('String')),
          step.string('content') ?? '',
        ]);
        break;
      case 'ByteFallback':
        byteFallback = true;
        break;
      case 'Fuse':
        break;
      case 'Strip':
        if (step.get('content') !== ' ' || step.get('start') !== 1 || step.get('stop') !== 0) {
          throw step.error('the tokenizer strips something else than one leading space, which is not supported');
        }
        dropsFirstSpace = true;
        break;
      default:
        throw step.error(
          `the tokenizer's decoder is ${type}; ByteLevel and SentencePiece's (Metaspace, ByteFallback) are supported`,
        );
    }
  }
  if (replacements.length === 0) throw new CheckpointError('the tokenizer has no decoder', { file });
  return {
    bytes(token) {
      const byte = byteFallback ? fallbackByte(token) : undefined;
      if (byte !== undefined) return Uint8Array.of(byte);
      return encoder.encode(replacements.reduce((text, [from, to]) => text.replaceAll(from, to), token));
    },
    dropsFirstSpace,
  };
}

/** The byte that a SentencePiece token like `<0x0A>` stands for. */
export function fallbackByte(token: string): number | undefined {
  return /^<0x[0-9A-Fa-f]{2}>$/.test(token) ? Number.parseInt(token.slice(3, 5), 16) : undefined;
}

/** GPT-2's alphabet by byte: printable Latin-1 stands for itself, the other bytes for U+0100, U+0101, ... in order. */
export const BYTE_ALPHABET: readonly string[] = (() => {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    return String.fromCharCode(printable ? byte : next++);
  });
})();

const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = new Map(
  BYTE_ALPHABET.map((character, byte) => [character, byte]),
);

function byteLevelBytes(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i += 1) {
    const byte = BYTE_OF_CHARACTER.get(token[i]!);
    if (byte === undefined) return encoder.encode(token); // not of the alphabet: the text itself
    bytes[i] = byte;
  }
  return bytes;
}

function flatten(decoder: unknown, file: string): JsonObject[] {
  if (decoder === undefined || decoder === null) return [];
  const step = new JsonObject(decoder, file, 'decoder.');
  return step.string('type') === 'Sequence' ? (step.objects('decoders') ?? []) : [step];
}
