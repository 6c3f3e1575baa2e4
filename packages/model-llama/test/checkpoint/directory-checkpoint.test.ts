import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.js';
import { CheckpointError } from '../../src/errors.js';
import { temporaryDirectory } from './temporary-directory.js';
import { TINY, tinyShapes } from './tiny-model.js';
import { fixtures } from './tokenizer-fixtures.js';
import { type SafeTensor, writeSafetensors } from './write-safetensors.js';

const VOCAB = 760;
const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  hidden_size: TINY.hidden,
  intermediate_size: TINY.ffn,
  num_attention_heads: TINY.heads,
  num_key_value_heads: TINY.kvHeads,
  num_hidden_layers: TINY.layers,
  max_position_embeddings: 256,
  vocab_size: VOCAB,
  tie_word_embeddings: true,
};

/** Element i of a tensor is the bfloat16 with bits i. */
function tensors(): Record<string, SafeTensor> {
  const entries = [...tinyShapes()].map(([name, shape]): [string, SafeTensor] => {
    const real = name === 'model.embed_tokens.weight' ? [VOCAB, TINY.hidden] : shape;
    const data = Uint16Array.from({ length: real.reduce((a, b) => a * b) }, (_, i) => i);
    return [name, { dtype: 'BF16', shape: real, data: new Uint8Array(data.buffer) }];
  });
  return Object.fromEntries(entries);
}

let scratch: ReturnType<typeof temporaryDirectory>;
const at = (name: string) => join(scratch.path, name);
const write = (name: string, content: unknown) =>
  writeFileSync(at(name), typeof content === 'string' || content instanceof Buffer ? content : JSON.stringify(content));
beforeEach(() => {
  scratch = temporaryDirectory();
  write('config.json', CONFIG);
  write('tokenizer.json', fixtures.llama3.tokenizer);
  write('tokenizer_config.json', { bos_token: '<|begin_of_text|>', eos_token: { content: '<|end_of_text|>' } });
  write('model.safetensors', writeSafetensors(tensors()));
});
afterEach(() => scratch[Symbol.dispose]());
const open = () => openCheckpoint(scratch.path);
const id = (content: string) => fixtures.llama3.tokenizer.added_tokens.find((token) => token.content === content)!.id;

describe('a Hugging Face directory', () => {
  it('gives shape, weights and tokenizer', async () => {
    using checkpoint = await open();
    expect(checkpoint.config).toMatchObject({ architecture: 'llama', headDim: TINY.headDim, vocabSize: VOCAB });
    expect(checkpoint.tensorNames).toEqual(new Set(tinyShapes().keys()));
    const source = checkpoint.tensor('model.layers.1.self_attn.q_proj.weight', 32, 32);
    expect(source).toMatchObject({ type: 'bf16', rows: 32, cols: 32 });
    expect('rowOrder' in source).toBe(false);
    expect(source.type !== 'random' && [...source.data.subarray(0, 6)]).toEqual([0, 0, 1, 0, 2, 0]);
    expect([...checkpoint.tokenizer.encode('Hello world', { allowSpecial: true })]).toEqual(
      fixtures.llama3.special[fixtures.texts.indexOf('Hello world')],
    );
    expect(checkpoint.name).toBe(scratch.path);
  });

  it('takes end tokens from everywhere they are said', async () => {
    write('generation_config.json', { eos_token_id: [id('<|end_of_text|>'), 5] });
    write('config.json', { ...CONFIG, eos_token_id: 7 });
    using checkpoint = await open();
    expect(checkpoint.tokenizer.eosTokens).toEqual(new Set([id('<|end_of_text|>'), id('<|eot_id|>'), 5, 7]));
  });

  it('obeys add_bos_token', async () => {
    {
      using checkpoint = await open();
      expect(checkpoint.tokenizer.bosToken).toBe(id('<|begin_of_text|>'));
    }
    write('tokenizer_config.json', { bos_token: '<|begin_of_text|>', add_bos_token: false });
    using checkpoint = await open();
    expect(checkpoint.tokenizer.bosToken).toBeUndefined();
  });

  it('knows its chat template in each of its places', async () => {
    const rendered = async () => {
      using checkpoint = await open();
      const { tokenizer } = checkpoint;
      return tokenizer.hasChatTemplate
        ? tokenizer.decode(tokenizer.applyChatTemplate([{ role: 'user', content: 'x' }]))
        : undefined;
    };
    expect(await rendered()).toBeUndefined();
    write('tokenizer_config.json', { chat_template: 'one', bos_token: '<|begin_of_text|>' });
    expect(await rendered()).toBe('one');
    write('tokenizer_config.json', {
      chat_template: [
        { name: 'tool_use', template: 't' },
        { name: 'default', template: 'two' },
      ],
    });
    expect(await rendered()).toBe('two');
    write('chat_template.json', { chat_template: 'three' });
    expect(await rendered()).toBe('three');
    write('chat_template.jinja', '{{ bos_token }}four');
    expect(await rendered()).toBe('four');
    write('tokenizer_config.json', { bos_token: '<|begin_of_text|>' });
    expect(await rendered()).toBe('<|begin_of_text|>four');
  });

  it('may have its weights in several files', async () => {
    const all = Object.entries(tensors());
    write('model-1.safetensors', writeSafetensors(Object.fromEntries(all.slice(0, 7))));
    write('model-2.safetensors', writeSafetensors(Object.fromEntries(all.slice(7))));
    const weight_map: Record<string, string> = Object.fromEntries(
      all.map(([name], i) => [name, `model-${i < 7 ? 1 : 2}.safetensors`]),
    );
    rmSync(at('model.safetensors'));
    write('model.safetensors.index.json', { weight_map });
    {
      using checkpoint = await open();
      expect(checkpoint.tensorNames.size).toBe(all.length);
      expect(checkpoint.tensor('model.norm.weight', 1, TINY.hidden)).toMatchObject({ type: 'bf16' });
    }
    write('model.safetensors.index.json', { weight_map: { ...weight_map, 'lm_head.weight': 'model-2.safetensors' } });
    await expect(open()).rejects.toMatchObject({
      name: 'CheckpointError',
      tensor: 'lm_head.weight',
      file: at('model-2.safetensors'),
    });
    write('model.safetensors.index.json', {
      weight_map: { ...weight_map, 'lm_head.weight': '../model-2.safetensors' },
    });
    await expect(open()).rejects.toThrow('not a safetensors file beside the index');
    write('model.safetensors.index.json', { weight_map });
    rmSync(at('model-2.safetensors'));
    await expect(open()).rejects.toMatchObject({ name: 'CheckpointError', file: at('model-2.safetensors') });
  });

  it.each<[string, () => void, string]>([
    ['no config.json', () => rmSync(at('config.json')), 'config.json'],
    ['a config.json that is cut off', () => write('config.json', '{"architectures": ['), 'not JSON'],
    ['no weights', () => rmSync(at('model.safetensors')), 'there are no weights'],
    ['no tokenizer', () => rmSync(at('tokenizer.json')), 'tokenizer.json'],
    [
      'weights that are cut off',
      () => write('model.safetensors', writeSafetensors(tensors()).subarray(0, 9000)),
      'truncated',
    ],
    ['weights that are empty', () => write('model.safetensors', ''), 'empty'],
    [
      'a tokenizer of another kind',
      () => write('tokenizer.json', { model: { type: 'Unigram', vocab: [], merges: [] } }),
      'Unigram',
    ],
    [
      'a tokenizer without merges',
      () => write('tokenizer.json', { model: { type: 'BPE', vocab: {} } }),
      'model.merges is missing',
    ],
    [
      'a tokenizer with an absurd id',
      () => write('tokenizer.json', { model: { vocab: { a: 4e9 }, merges: [] } }),
      '4000000000',
    ],
    [
      'a tokenizer with an unknown part',
      () => write('tokenizer.json', { ...fixtures.llama3.tokenizer, pre_tokenizer: { type: 'Psychic' } }),
      'Psychic',
    ],
    [
      'a tokenizer that splits at nothing',
      () =>
        write('tokenizer.json', {
          ...fixtures.llama3.tokenizer,
          pre_tokenizer: { type: 'Split', behavior: 'Isolated' },
        }),
      'splits at no pattern',
    ],
    [
      'a tokenizer that splits in a way of its own',
      () =>
        write('tokenizer.json', {
          ...fixtures.llama3.tokenizer,
          pre_tokenizer: { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithNext' },
        }),
      'MergedWithNext',
    ],
    ['an end token that is none', () => write('generation_config.json', { eos_token_id: 99999 }), '99999'],
  ])('says what is wrong: %s', async (_, damage, message) => {
    damage();
    const error = await open().catch((error: unknown) => error);
    expect(error).toBeInstanceOf(CheckpointError);
    expect((error as CheckpointError).message).toContain(message);
    expect((error as CheckpointError).message).toContain(scratch.path);
  });

  it('is needed for safetensors, not the file alone', async () => {
    await expect(openCheckpoint(at('model.safetensors'))).rejects.toThrow('give a folder with config.json');
  });
});
