import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseGguf } from '../../src/checkpoint/gguf.js';
import { GgufMetadata } from '../../src/checkpoint/gguf-metadata.js';
import { ggufTokenizer } from '../../src/checkpoint/gguf-tokenizer.js';
import { huggingFaceTokenizer } from '../../src/checkpoint/hugging-face-tokenizer.js';
import { ModelTokenizer } from '../../src/checkpoint/model-tokenizer.js';
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.js';
import type { Checkpoint, Tokenizer } from '../../src/checkpoint.js';
import { describeRealModel } from '../real-model.js';
import { inMemoryFile } from './in-memory-file.js';
import { temporaryDirectory } from './temporary-directory.js';
import { fixtures } from './tokenizer-fixtures.js';
import { type GgufEntry, writeGguf } from './write-gguf.js';

const { texts } = fixtures;

function fromGguf(metadata: Record<string, GgufEntry>): Tokenizer {
  const file = inMemoryFile(writeGguf(metadata, []));
  return new ModelTokenizer(ggufTokenizer(new GgufMetadata(parseGguf(file).metadata, file.path)));
}

/** Every text's ids; one comparison a text, so that a failure names it. */
function expectIds(
  tokenizer: Tokenizer,
  expected: number[][],
  options: Parameters<Tokenizer['encode']>[1],
  of = texts,
): void {
  for (const [i, text] of of.entries())
    expect([text, ...tokenizer.encode(text, options)]).toEqual([text, ...expected[i]!]);
}

describe.each(['llama3', 'qwen2', 'tekken', 'gpt2'] as const)('tokenizer.json of a %s-like model', (name) => {
  const { tokenizer: json, ids, special, decoded } = fixtures[name];
  let directory: string;
  let tokenizer: Tokenizer;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'magicpig-tokenizer-'));
    writeFileSync(join(directory, 'tokenizer.json'), JSON.stringify(json));
    tokenizer = new ModelTokenizer(huggingFaceTokenizer(directory));
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  it('gives the ids of the Rust library with special tokens', () => {
    expectIds(tokenizer, special, { allowSpecial: true });
  });

  it('splits special tokens in a text like any other text', () => {
    const special = new Set(json.added_tokens.filter((token) => token.special).map((token) => token.id));
    const ordinary = texts.map((text, i) => [text, ids[i]!] as const).filter(([text]) => !text.includes('<tool_call>'));
    for (const [text, expected] of ordinary) {
      const got = [...tokenizer.encode(text, { addSpecial: false })];
      expect([text, ...got]).toEqual([text, ...expected]);
      expect(got.filter((id) => special.has(id))).toEqual([]);
    }
  });

  it('decodes as the Rust library', () => {
    expect(special.map((tokens) => tokenizer.decode(tokens, { skipSpecial: true }))).toEqual(decoded);
  });

  it('means the same from GGUF metadata', () => {
    const { vocab, merges } = json.model;
    const tokens: string[] = [];
    for (const [token, id] of Object.entries(vocab)) tokens[id] = token;
    for (const { content, id } of json.added_tokens) tokens[id] = content;
    const kinds = new Map(json.added_tokens.map((token) => [token.id, token.special ? 3 : 4]));
    const gguf = fromGguf({
      'tokenizer.ggml.model': { type: 'string', value: 'gpt2' },
      'tokenizer.ggml.pre': {
        type: 'string',
        value: { llama3: 'llama-bpe', qwen2: 'qwen2', tekken: 'tekken', gpt2: 'gpt-2' }[name],
      },
      'tokenizer.ggml.tokens': { type: 'strings', value: tokens },
      'tokenizer.ggml.token_type': { type: 'i32s', value: tokens.map((_, id) => kinds.get(id) ?? 1) },
      'tokenizer.ggml.merges': { type: 'strings', value: merges.map((pair) => pair.join(' ')) },
      'tokenizer.ggml.bos_token_id': { type: 'u32', value: special[0]![0] ?? json.added_tokens[0]!.id },
    });
    expectIds(gguf, special, { allowSpecial: true });
    expect(gguf.bosToken).toBe(tokenizer.bosToken);
    expect([...gguf.eosTokens].sort()).toEqual([...tokenizer.eosTokens].sort());
  });
});

describe.each(['llama2', 'mistral', 'split'] as const)('tokenizer.json in the manner of SentencePiece: %s', (name) => {
  const { tokenizer: json, special, decoded } = fixtures[name];
  using scratch = temporaryDirectory();
  writeFileSync(join(scratch.path, 'tokenizer.json'), JSON.stringify(json));
  const tokenizer = new ModelTokenizer(huggingFaceTokenizer(scratch.path));

  it('gives the ids of the Rust library', () => {
    expectIds(tokenizer, special, { allowSpecial: true });
  });

  it('decodes as that does', () => {
    expect(special.map((tokens) => tokenizer.decode(tokens, { skipSpecial: true }))).toEqual(decoded);
  });

  it('makes special tokens in a text into pieces', () => {
    const ids = [...tokenizer.encode('<s>[INST] hi [/INST]</s><unk>', { addSpecial: false })];
    expect(ids.filter((id) => id < 3)).toEqual([]);
    expect(tokenizer.decode(ids)).toBe('<s>[INST] hi [/INST]</s><unk>');
  });
});

describe('a SentencePiece model in GGUF metadata', () => {
  const { tokens, scores, types, texts, ids, decoded } = fixtures.sentencepiece;
  const metadata: Record<string, GgufEntry> = {
    'tokenizer.ggml.model': { type: 'string', value: 'llama' },
    'tokenizer.ggml.tokens': { type: 'strings', value: tokens },
    'tokenizer.ggml.scores': { type: 'f32s', value: scores },
    'tokenizer.ggml.token_type': { type: 'i32s', value: types },
    'tokenizer.ggml.bos_token_id': { type: 'u32', value: 1 },
    'tokenizer.ggml.eos_token_id': { type: 'u32', value: 2 },
    'tokenizer.ggml.unknown_token_id': { type: 'u32', value: 0 },
  };
  const tokenizer = fromGguf(metadata);

  it("gives the ids of Google's library", () => {
    expectIds(tokenizer, ids, { addSpecial: false }, texts);
  });

  it('decodes as that does', () => {
    expect(ids.map((list) => tokenizer.decode(list))).toEqual(decoded);
  });

  it('begins with <s> unless the file says not to', () => {
    expect(tokenizer.bosToken).toBe(1);
    expect([...tokenizer.encode('a')].slice(0, 1)).toEqual([1]);
    const without = fromGguf({ ...metadata, 'tokenizer.ggml.add_bos_token': { type: 'bool', value: 0 } });
    expect(without.bosToken).toBeUndefined();
    expect(without.eosTokens).toEqual(new Set([2]));
  });

  it('makes <s> and <0x0A> in a text into pieces, not into those tokens', () => {
    const got = [...tokenizer.encode('<s>a</s><0x0A><unk>', { addSpecial: false })];
    expect(got.filter((id) => types[id] === 3 || types[id] === 2)).toEqual([]);
    expect(tokenizer.decode(got)).toBe('<s>a</s><0x0A><unk>');
    expect([...tokenizer.encode('<s>a</s>', { addSpecial: false, allowSpecial: true })]).toEqual([
      1,
      ...tokenizer.encode('a', { addSpecial: false }),
      2,
    ]);
  });

  it('streams bytes of a character only when it is complete, and keeps the space in front', () => {
    const list = tokenizer.encode('é👍🏽 a', { addSpecial: false });
    const stream = tokenizer.stream();
    const pieces = Array.from(list, (id) => stream.push(id));
    expect(pieces.join('') + stream.flush()).toBe(' é👍🏽 a');
    expect(pieces.join('')).not.toContain('\ufffd');
  });
});

describeRealModel('the tokenizer of SmolLM2', (path) => {
  let checkpoint: Checkpoint;
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    checkpoint = await openCheckpoint(path);
    tokenizer = checkpoint.tokenizer;
  });
  afterAll(() => checkpoint?.[Symbol.dispose]());

  it('gives the ids of the Rust library', () => {
    expectIds(tokenizer, fixtures.smollm2.ids, {});
    expectIds(tokenizer, fixtures.smollm2.special, { allowSpecial: true });
  });

  it('decodes as the Rust library, in one piece and as a stream', () => {
    for (const [i, ids] of fixtures.smollm2.ids.entries()) {
      const text = fixtures.smollm2.decoded[i]!;
      expect(tokenizer.decode(ids)).toBe(text);
      const stream = tokenizer.stream();
      expect(ids.map((id) => stream.push(id)).join('') + stream.flush()).toBe(text);
    }
  });

  it('holds an incomplete character back', () => {
    const stream = tokenizer.stream();
    const ids = [...tokenizer.encode('👍🏽')];
    const pieces = ids.map((id) => stream.push(id));
    expect(ids.length).toBeGreaterThan(2);
    expect(pieces[0]).toBe('');
    expect(pieces.join('')).toBe('👍🏽');
    stream.push(ids[0]!);
    expect(stream.flush()).toBe('\ufffd');
  });

  it('renders conversations as Jinja2 does and encodes them as the Rust library does', () => {
    for (const { messages, ids } of fixtures.smollm2.chats) {
      expect([...tokenizer.applyChatTemplate(messages)]).toEqual(ids);
    }
  });

  it('ends at the end of a turn and of a document', () => {
    expect(tokenizer.eosTokens).toEqual(new Set([2, 0]));
    expect(tokenizer.bosToken).toBeUndefined();
    expect(tokenizer.vocabSize).toBe(49_152);
  });

  it('encodes 6,000 tokens in well under a second', () => {
    const text = fixtures.smollm2.chats[1]!.messages[3]!.content.repeat(20);
    const began = performance.now();
    const tokens = tokenizer.encode(text).length;
    expect(tokens).toBeGreaterThan(6_000);
    expect(performance.now() - began).toBeLessThan(500);
  });
});
