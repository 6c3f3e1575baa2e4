import type { ChatMessage, Tokenizer, TokenStream } from '../checkpoint.js';
import { ChatTemplateError, CheckpointError } from '../errors.js';
import { ChatTemplate, type ChatTemplateSource } from './chat-template.js';
import { TextGuard } from './guarded-text.js';
import { PlainTextEncoder } from './plain-text-encoder.js';
import { type TokenSpelling, tokenSpelling } from './token-bytes.js';
import { TokenSplitter } from './token-splitter.js';
import type { TokenizerJson } from './tokenizer-json.js';

/** What a checkpoint says about its tokenizer. */
export interface TokenizerSource {
  json: TokenizerJson;
  /** Named in errors. */
  file: string;
  /** Put before every prompt, by {@link Tokenizer.encode} with `addSpecial`. */
  bosToken: number | undefined;
  eosTokens: Iterable<number>;
  chatTemplate: ChatTemplateSource | undefined;
}

/**
 * Special tokens that end a turn or a document, in the chat formats in use; a checkpoint's own lists are often incomplete
 * (Llama 3's first config.json named only `<|end_of_text|>`, and its chats ended with `<|eot_id|>`).
 */
export const END_TOKENS: ReadonlySet<string> = new Set([
  '<|im_end|>', // ChatML: SmolLM2, Qwen2, Yi
  '<|eot_id|>', // Llama 3
  '<|eom_id|>', // Llama 3.1, before a tool runs
  '<|end|>', // Phi-3
  '<|endoftext|>',
  '<|end_of_text|>',
  '<|end_of_turn|>', // OpenChat
  '<end_of_turn>',
  '</s>', // Llama 2, Mistral
]);

/** The tokenizer of a checkpoint. */
export class ModelTokenizer implements Tokenizer {
  readonly bosToken: number | undefined;
  readonly eosTokens: ReadonlySet<number>;
  readonly vocabSize: number;
  readonly hasChatTemplate: boolean;

  readonly #encoder: PlainTextEncoder;
  readonly #spelling: TokenSpelling;
  /** Texts by id, as the vocabulary spells them; added tokens as they are. */
  readonly #tokens: (string | undefined)[];
  readonly #added: ReadonlyMap<number, { special: boolean; content: string }>;
  readonly #bytes: (Uint8Array | undefined)[] = [];
  readonly #ordinarySplitter: TokenSplitter;
  readonly #specialSplitter: TokenSplitter;
  /** Special tokens that {@link TextGuard} can guard: those of one character cannot be told from text in a template. */
  readonly #templateSpecials: readonly string[];
  readonly #templateSplitter: TokenSplitter;
  readonly #chatTemplate: ChatTemplate | undefined;

  /** @throws CheckpointError */
  constructor(source: TokenizerSource) {
    const { json, file } = source;
    this.#encoder = new PlainTextEncoder(json, file);
    this.#spelling = tokenSpelling(json.decoder, file);
    this.#tokens = [];
    for (const [token, id] of json.model.vocab) this.#tokens[id] = token;
    for (const token of json.addedTokens) this.#tokens[token.id] = token.content;
    this.#added = new Map(json.addedTokens.map((token) => [token.id, token]));
    this.vocabSize = this.#tokens.length;

    const specials = json.addedTokens.filter((token) => token.special);
    const guardable = specials.filter((token) => Array.from(token.content).length > 1);
    this.#ordinarySplitter = new TokenSplitter(json.addedTokens.filter((token) => !token.special));
    this.#specialSplitter = new TokenSplitter(specials);
    this.#templateSplitter = new TokenSplitter(guardable);
    this.#templateSpecials = guardable.map((token) => token.content);

    this.bosToken = source.bosToken;
    this.eosTokens = new Set([
      ...source.eosTokens,
      ...specials.filter((token) => END_TOKENS.has(token.content)).map((token) => token.id),
    ]);
    for (const id of [...this.eosTokens, ...(this.bosToken === undefined ? [] : [this.bosToken])]) {
      if (!Number.isInteger(id) || id < 0 || this.#tokens[id] === undefined) {
        throw new CheckpointError(`special token ${id} is not in the vocabulary of ${this.vocabSize}`, { file });
      }
    }
    this.#chatTemplate = source.chatTemplate && new ChatTemplate(source.chatTemplate);
    this.hasChatTemplate = this.#chatTemplate !== undefined;
  }

  encode(text: string, options: { addSpecial?: boolean; allowSpecial?: boolean } = {}): Int32Array {
    const { addSpecial = true, allowSpecial = false } = options;
    const ids: number[] = addSpecial && this.bosToken !== undefined ? [this.bosToken] : [];
    this.#encodeParts(text, allowSpecial ? this.#specialSplitter : undefined, undefined, ids);
    return Int32Array.from(ids);
  }

  decode(tokens: ArrayLike<number>, options: { skipSpecial?: boolean } = {}): string {
    const stream = new TextStream((token) => this.#bytesOf(token, options.skipSpecial ?? false));
    let text = '';
    for (let i = 0; i < tokens.length; i += 1) text += stream.push(tokens[i]!);
    text += stream.flush();
    return this.#spelling.dropsFirstSpace && text.startsWith(' ') ? text.slice(1) : text;
  }

  stream(): TokenStream {
    return new TextStream((token) => this.#bytesOf(token, true));
  }

  applyChatTemplate(messages: ChatMessage[], options: { tools?: unknown[] } = {}): Int32Array {
    if (this.#chatTemplate === undefined) {
      throw new ChatTemplateError(
        'The model has no chat template, so it can complete texts but not conversations; use an instruction-tuned model.',
      );
    }
    for (const [i, message] of messages.entries()) {
      if (typeof message?.role !== 'string') throw new ChatTemplateError(`Message ${i} has no role.`);
    }
    const guard = new TextGuard(this.#templateSpecials, [messages, options.tools]);
    const text = this.#chatTemplate.render(guard.guard(messages), guard.guard(options.tools));
    const ids: number[] = [];
    this.#encodeParts(text, this.#templateSplitter, guard, ids);
    return Int32Array.from(ids);
  }

  #encodeParts(text: string, specials: TokenSplitter | undefined, guard: TextGuard | undefined, ids: number[]): void {
    let section = 0;
    const outer = specials === undefined ? [text] : specials.split(text);
    for (const part of outer) {
      const inner = typeof part === 'string' ? this.#ordinarySplitter.split(guard?.restore(part) ?? part) : [part];
      for (const piece of inner) {
        if (typeof piece === 'number') ids.push(piece);
        else this.#encoder.encode(piece, section, ids);
        section += 1;
      }
    }
  }

  /** UTF-8 bytes of a token; nothing for a special one that is to be skipped. */
  #bytesOf(id: number, skipSpecial: boolean): Uint8Array | undefined {
    const added = this.#added.get(id);
    if (added?.special && skipSpecial) return undefined;
    let bytes = this.#bytes[id];
    if (bytes === undefined) {
      const token = this.#tokens[id];
      // Output matrices are often padded beyond the vocabulary; the ids there have no text.
      if (token === undefined) return undefined;
      bytes = added === undefined ? this.#spelling.bytes(token) : new TextEncoder().encode(token);
      this.#bytes[id] = bytes;
    }
    return bytes;
  }
}

/** Decodes tokens one by one, holding incomplete UTF-8 back. */
class TextStream implements TokenStream {
  readonly #bytesOf: (token: number) => Uint8Array | undefined;
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });

  constructor(bytesOf: (token: number) => Uint8Array | undefined) {
    this.#bytesOf = bytesOf;
  }

  push(token: number): string {
    const bytes = this.#bytesOf(token);
    return bytes === undefined ? '' : this.#decoder.decode(bytes, { stream: true });
  }

  flush(): string {
    return this.#decoder.decode();
  }
}
