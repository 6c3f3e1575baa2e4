import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.js';
import { PRESETS } from '../../src/checkpoint/presets.js';
import { CheckpointError, ModelNotFoundError } from '../../src/errors.js';
import { temporaryDirectory } from './temporary-directory.js';

describe('a random model', () => {
  it.each(Object.keys(PRESETS))('has the shape of %s', async (preset) => {
    using checkpoint = await openCheckpoint(`random:${preset}`);
    const { config } = checkpoint;
    expect(config).toEqual(PRESETS[preset]);
    expect(checkpoint.tensorNames.size).toBe(2 + 9 * config.layers + (config.tiedEmbeddings ? 0 : 1));
    expect(checkpoint.tensor('model.embed_tokens.weight', config.vocabSize, config.hiddenSize)).toMatchObject({
      type: 'random',
      std: 0.02,
      mean: 0,
    });
    expect(checkpoint.tensor('model.norm.weight', 1, config.hiddenSize)).toMatchObject({ std: 0, mean: 1 });
    expect(() => checkpoint.tensor('model.norm.weight', 1, 1)).toThrow(CheckpointError);
    expect(() => checkpoint.tensor('nothing', 1, 1)).toThrow(CheckpointError);
  });

  it('gives each tensor its own seed, the same for the same seed', async () => {
    const seeds = async (randomSeed?: number) => {
      using checkpoint = await openCheckpoint('random:tiny', { randomSeed });
      return [...checkpoint.tensorNames]
        .filter((name) => name.includes('q_proj'))
        .map((name) => (checkpoint.tensor(name, 64, 64) as { seed: number }).seed);
    };
    expect(new Set(await seeds(1)).size).toBe(3);
    expect(await seeds(1)).toEqual(await seeds(1));
    expect(await seeds(1)).not.toEqual(await seeds(2));
    expect(await seeds()).toEqual(await seeds(0));
  });

  it('reads and writes any text, a token a byte', async () => {
    using checkpoint = await openCheckpoint('random:tiny');
    const { tokenizer } = checkpoint;
    const text = 'Zoë said: "§ 5, <|im_end|>" 👍\n';
    const ids = tokenizer.encode(text);
    expect([...ids]).toEqual([...Buffer.from(text)]);
    expect(tokenizer.decode(ids)).toBe(text);
    expect(tokenizer.decode([72, 105, 300, 511])).toBe('Hi #300 #511');
    expect(tokenizer.eosTokens).toEqual(new Set([256, 258]));
    expect(tokenizer.decode(tokenizer.applyChatTemplate([{ role: 'user', content: 'Hi' }]))).toBe(
      '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n',
    );
  });

  it('may have the shape of any config.json', async () => {
    using scratch = temporaryDirectory();
    const path = join(scratch.path, 'config.json');
    const config = {
      architectures: ['LlamaForCausalLM'],
      hidden_size: 64,
      intermediate_size: 96,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      num_hidden_layers: 2,
      vocab_size: 300,
      attention_bias: true,
    };
    writeFileSync(path, JSON.stringify(config));
    {
      using checkpoint = await openCheckpoint(`random:${path}`);
      expect(checkpoint.tensor('model.layers.1.self_attn.k_proj.bias', 1, 32)).toMatchObject({ std: 0.02 });
      expect(checkpoint.tensorNames.has('model.layers.1.self_attn.o_proj.bias')).toBe(true);
      expect(checkpoint.tensorNames.has('model.layers.1.mlp.up_proj.bias')).toBe(false);
    }
    writeFileSync(path, JSON.stringify({ ...config, architectures: ['Qwen2ForCausalLM'], attention_bias: undefined }));
    {
      using checkpoint = await openCheckpoint(`random:${path}`);
      expect([...checkpoint.tensorNames].filter((name) => name.endsWith('.bias')).length).toBe(6);
    }
    for (const damage of [{ vocab_size: 100 }, { num_hidden_layers: 2 ** 40 }]) {
      writeFileSync(path, JSON.stringify({ ...config, ...damage }));
      await expect(openCheckpoint(`random:${path}`)).rejects.toBeInstanceOf(CheckpointError);
    }
  });

  it('names the presets when it does not know one', async () => {
    const opening = openCheckpoint('random:llama-9');
    await expect(opening).rejects.toBeInstanceOf(ModelNotFoundError);
    await expect(opening).rejects.toThrow('llama-3.1-8b');
  });
});
