import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { parseGguf } from '../../src/checkpoint/gguf.js';
import { type MappedFile, openMapped } from '../../src/checkpoint/mapped-file.js';
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.js';
import { BLOCKS } from '../../src/checkpoint/tensor-table.js';
import type { Checkpoint, RopeScaling } from '../../src/checkpoint.js';
import { CheckpointError } from '../../src/errors.js';
import { describeRealModel } from '../real-model.js';
import { inMemoryFile } from './in-memory-file.js';
import { random } from './seeded-random.js';
import { temporaryDirectory } from './temporary-directory.js';
import { TINY, tinyGguf, tinyMetadata, tinyShapes, tinyTensors } from './tiny-model.js';
import { type GgufEntry, type GgufTensor, writeGguf } from './write-gguf.js';

let scratch: ReturnType<typeof temporaryDirectory>;
let path: string;
beforeEach(() => {
  scratch = temporaryDirectory();
  path = join(scratch.path, 'tiny.gguf');
});
afterEach(() => scratch[Symbol.dispose]());

function open(bytes: Uint8Array): Promise<Checkpoint> {
  writeFileSync(path, bytes);
  return openCheckpoint(path);
}

async function openTiny(metadata: Record<string, GgufEntry | undefined> = {}, tensors?: GgufTensor[]) {
  return open(tinyGguf(metadata, tensors));
}

/** Values of a float32 tensor as the backend would see them. */
function values(checkpoint: Checkpoint, name: string, rows: number, cols: number): number[] {
  const source = checkpoint.tensor(name, rows, cols);
  if (source.type !== 'f32') throw new Error(`${name} is ${source.type}`);
  const all = new Float32Array(source.data.slice().buffer);
  return Array.from({ length: rows }, (_, row) => {
    const from = source.rowOrder?.[row] ?? row;
    return Array.from(all.subarray(from * cols, (from + 1) * cols));
  }).flat();
}

describe('a GGUF file', () => {
  it('gives the shape, the tensors by Hugging Face names, and the tokenizer', async () => {
    using checkpoint = await openTiny();
    expect(checkpoint.config).toEqual({
      architecture: 'llama',
      vocabSize: TINY.vocab,
      hiddenSize: TINY.hidden,
      intermediateSize: TINY.ffn,
      layers: TINY.layers,
      queryHeads: TINY.heads,
      kvHeads: TINY.kvHeads,
      headDim: TINY.headDim,
      maxPositions: 128,
      rmsNormEps: Math.fround(1e-5),
      ropeTheta: 10_000,
      ropeScaling: { type: 'default' },
      tiedEmbeddings: true,
    });
    expect([...checkpoint.tensorNames].sort()).toEqual([...tinyShapes().keys()].sort());
    expect(values(checkpoint, 'model.layers.1.mlp.up_proj.weight', TINY.ffn, TINY.hidden).slice(0, 3)).toEqual([
      0, 1, 2,
    ]);
    expect(checkpoint.tokenizer.eosTokens).toEqual(new Set([258, 256]));
    expect(checkpoint.tokenizer.decode(checkpoint.tokenizer.encode('a b'))).toBe('a b');
  });

  it('undoes the order of q and k rows that the converter makes, biases included, for llama only', async () => {
    const { headDim, heads, hidden } = TINY;
    const rows = heads * headDim;
    // convert_hf_to_gguf.py: reshape(heads, 2, headDim / 2).swapaxes(1, 2)
    const converted = Array.from({ length: rows }, (_, to) => {
      const [head, inHead] = [Math.floor(to / headDim), to % headDim];
      return head * headDim + (inHead % 2) * (headDim / 2) + Math.floor(inHead / 2);
    });
    const bytes = (array: number[]) => new Uint8Array(Float32Array.from(array).buffer);
    const tensors = tinyTensors().map((tensor) =>
      tensor.name === 'blk.0.attn_q.weight'
        ? { ...tensor, data: bytes(converted.flatMap((row) => Array.from({ length: hidden }, () => row))) }
        : tensor,
    );
    tensors.push({ name: 'blk.0.attn_q.bias', dimensions: [rows], type: 0, data: bytes(converted) });
    const name = 'model.layers.0.self_attn.q_proj';
    const inOrder = Array.from({ length: rows }, (_, row) => row);
    {
      using checkpoint = await openTiny({}, tensors);
      expect(values(checkpoint, `${name}.weight`, rows, hidden).filter((_, i) => i % hidden === 0)).toEqual(inOrder);
      expect(values(checkpoint, `${name}.bias`, 1, rows)).toEqual(inOrder);
    }
    const renamed: Record<string, GgufEntry | undefined> = {
      'general.architecture': { type: 'string', value: 'qwen2' },
    };
    for (const [key, entry] of Object.entries(tinyMetadata())) {
      if (!key.startsWith('llama.')) continue;
      renamed[key] = undefined;
      renamed[key.replace('llama.', 'qwen2.')] = entry;
    }
    using qwen = await openTiny(renamed, tensors);
    expect(values(qwen, `${name}.bias`, 1, rows)).toEqual(converted);
  });

  it('passes every format through as it is', () => {
    const types = {
      f16: 1,
      q4_0: 2,
      q4_1: 3,
      q5_0: 6,
      q5_1: 7,
      q8_0: 8,
      q4_k: 12,
      q5_k: 13,
      q6_k: 14,
      bf16: 30,
    } as const;
    const tensors = Object.entries(types).map(([name, type]) => {
      const block = BLOCKS[name as keyof typeof types];
      return {
        name,
        dimensions: [256, 3],
        type,
        data: new Uint8Array(((256 * 3) / block.elements) * block.bytes).fill(type),
      };
    });
    const parsed = parseGguf(inMemoryFile(writeGguf({}, tensors)));
    for (const { name, data } of tensors) {
      const tensor = parsed.tensors.get(name)!;
      expect(tensor.dtype).toBe(name);
      expect(tensor.shape).toEqual([3, 256]);
      expect(Buffer.from(tensor.file.view(tensor.offset, tensor.length)).equals(data)).toBe(true);
    }
  });

  it.each<[string, Record<string, GgufEntry>, RopeScaling]>([
    ['a factor alone', { 'llama.rope.scaling.factor': { type: 'f32', value: 4 } }, { type: 'linear', factor: 4 }],
    [
      'scale_linear of old files',
      { 'llama.rope.scale_linear': { type: 'f32', value: 2 } },
      { type: 'linear', factor: 2 },
    ],
    [
      'yarn',
      {
        'llama.rope.scaling.type': { type: 'string', value: 'yarn' },
        'llama.rope.scaling.factor': { type: 'f32', value: 4 },
        'llama.rope.scaling.original_context_length': { type: 'u32', value: 32 },
      },
      { type: 'yarn', factor: 4, originalMaxPositions: 32, betaFast: 32, betaSlow: 1, attentionFactor: undefined },
    ],
    [
      'none, whatever the factor',
      {
        'llama.rope.scaling.type': { type: 'string', value: 'none' },
        'llama.rope.scaling.factor': { type: 'f32', value: 4 },
      },
      { type: 'default' },
    ],
  ])('reads rope scaling: %s', async (_, metadata, expected) => {
    using checkpoint = await openTiny(metadata);
    expect(checkpoint.config.ropeScaling).toEqual(expected);
  });

  it("reads llama3's rope factors", async () => {
    const factors = [1, 1, 1.5, 2, 4, 8, 8, 8];
    const tensor = {
      name: 'rope_freqs.weight',
      dimensions: [8],
      type: 0,
      data: new Uint8Array(Float32Array.from(factors).buffer),
    };
    using checkpoint = await openTiny({}, [...tinyTensors(), tensor]);
    expect(checkpoint.config.ropeScaling).toEqual({ type: 'factors', factors });
    expect(checkpoint.tensorNames.has('rope_freqs.weight')).toBe(false);
    await expect(openTiny({}, [...tinyTensors(), { ...tensor, dimensions: [4, 2] }])).rejects.toThrow(
      'not float32 [8]',
    );
  });

  it('has an output matrix of its own when there is one', async () => {
    const output = { ...tinyTensors()[0]!, name: 'output.weight' };
    using checkpoint = await openTiny({}, [...tinyTensors(), output]);
    expect(checkpoint.config.tiedEmbeddings).toBe(false);
    expect(checkpoint.tensorNames.has('lm_head.weight')).toBe(true);
  });

  it('keeps contexts within its sliding window, where it makes no difference', async () => {
    using checkpoint = await openTiny({ 'llama.attention.sliding_window': { type: 'u32', value: 64 } });
    expect(checkpoint.config.maxPositions).toBe(64);
  });

  it('may be split into several', async () => {
    const tensors = tinyTensors();
    const count = { 'split.count': { type: 'u32', value: 2 } } as const;
    const first = join(scratch.path, 'm-00001-of-00002.gguf');
    const second = join(scratch.path, 'm-00002-of-00002.gguf');
    writeFileSync(first, tinyGguf(count, tensors.slice(0, 5)));
    writeFileSync(second, writeGguf(count, tensors.slice(5)));
    {
      using checkpoint = await openCheckpoint(first);
      expect(checkpoint.tensorNames.size).toBe(tensors.length);
    }
    writeFileSync(path, tinyGguf(count));
    await expect(openCheckpoint(path)).rejects.toThrow('give the first, ...-00001-of-00002.gguf');
  });
});

describe('a GGUF file that cannot be used', () => {
  it.each<[string, Record<string, GgufEntry | undefined>, string]>([
    [
      'another architecture',
      { 'general.architecture': { type: 'string', value: 'gemma2' } },
      'gemma2; llama and qwen2 can run',
    ],
    ['experts', { 'llama.expert_count': { type: 'u32', value: 8 } }, 'mixture of 8 experts'],
    ['partial rotary', { 'llama.rope.dimension_count': { type: 'u32', value: 8 } }, 'llama.rope.dimension_count is 8'],
    ['unknown scaling', { 'llama.rope.scaling.type': { type: 'string', value: 'longrope' } }, 'longrope'],
    ['no layer count', { 'llama.block_count': undefined }, 'llama.block_count is missing'],
    ['a layer count of another type', { 'llama.block_count': { type: 'string', value: '2' } }, 'is not a number'],
    ['heads that do not divide', { 'llama.attention.head_count_kv': { type: 'u32', value: 3 } }, 'not a multiple of 3'],
    [
      'an unknown tokenizer',
      { 'tokenizer.ggml.model': { type: 'string', value: 'bert' } },
      'gpt2 and llama are supported',
    ],
    ['an unknown pre-tokenizer', { 'tokenizer.ggml.pre': { type: 'string', value: 'mystery' } }, 'is mystery'],
    ['a merge of one token', { 'tokenizer.ggml.merges': { type: 'strings', value: ['ab'] } }, 'not two tokens'],
    ['an end token that is none', { 'tokenizer.ggml.eos_token_id': { type: 'u32', value: 9999 } }, '9999'],
    ['alignment of nothing', { 'general.alignment': { type: 'u32', value: 0 } }, 'general.alignment is 0'],
  ])('says so: %s', async (_, metadata, message) => {
    const error = await openTiny(metadata).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(error).toBeInstanceOf(CheckpointError);
    expect((error as CheckpointError).message).toContain(message);
    expect((error as CheckpointError).file).toBe(path);
  });

  it.each<[string, (tensor: GgufTensor) => GgufTensor, string]>([
    ['a format that is not known', (tensor) => ({ ...tensor, type: 16 }), 'GGML type 16'],
    ['five dimensions', (tensor) => ({ ...tensor, dimensions: [1, 1, 1, 1, 1] }), '5 dimensions'],
    ['a shape that overflows', (tensor) => ({ ...tensor, dimensions: [2 ** 40, 2 ** 40] }), 'is not possible'],
    ['rows of part of a block', (tensor) => ({ ...tensor, dimensions: [48, 1], type: 3 }), 'is not possible for q4_1'],
    ['data beyond the end', (tensor) => ({ ...tensor, offset: 2 ** 30 }), 'it is truncated'],
    ['data at an odd place', (tensor) => ({ ...tensor, offset: 7 }), 'not a multiple of 32'],
    ['the data of another', (tensor) => ({ ...tensor, offset: 0 }), 'overlaps tensor'],
  ])('names tensor and offset: %s', async (_, damage, message) => {
    const tensors = tinyTensors();
    tensors[3] = damage(tensors[3]!);
    const error = await openTiny({}, tensors).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(CheckpointError);
    const { tensor, offset, message: said } = error as CheckpointError;
    expect(said).toContain(message);
    expect([tensors[3]!.name, tensors[0]!.name]).toContain(tensor);
    expect(offset).toBeGreaterThan(0);
  });

  it('refuses a tensor of another shape, and one that is not there', async () => {
    using checkpoint = await openTiny();
    expect(() => checkpoint.tensor('model.norm.weight', 1, 64)).toThrow(
      expect.objectContaining({ name: 'CheckpointError', tensor: 'model.norm.weight', file: path }),
    );
    expect(() => checkpoint.tensor('lm_head.weight', TINY.vocab, TINY.hidden)).toThrow('no tensor of that name');
  });

  it.each([
    ['empty', Buffer.alloc(0)],
    ['short', Buffer.from('GGUF')],
    ['something else', Buffer.from('PK\x03\x04 this is a zip archive')],
    ['version 1', Buffer.concat([Buffer.from('GGUF'), Buffer.from([1, 0, 0, 0]), Buffer.alloc(64)])],
    ['big-endian', Buffer.concat([Buffer.from('GGUF'), Buffer.from([0, 0, 0, 3]), Buffer.alloc(64)])],
  ])('refuses a file that is %s', async (_, bytes) => {
    await expect(open(bytes)).rejects.toBeInstanceOf(CheckpointError);
  });
});

describe('damaged GGUF files', () => {
  const whole = tinyGguf();

  /** Opens it and looks at everything; the error, which must be a typed one, or nothing. */
  async function use(bytes: Uint8Array): Promise<CheckpointError | undefined> {
    try {
      using checkpoint = await open(bytes);
      for (const [name, shape] of tinyShapes()) {
        const [rows, cols] = shape.length === 1 ? [1, shape[0]!] : (shape as [number, number]);
        const source = checkpoint.tensor(name, rows, cols);
        if (source.type === 'random') throw new Error('not random');
        const block = BLOCKS[source.type];
        expect(source.data.length).toBe(((rows * cols) / block.elements) * block.bytes);
      }
      checkpoint.tokenizer.decode(checkpoint.tokenizer.encode('Hello, world 12 \u00e9'));
      return undefined;
    } catch (error) {
      expect(error).toBeInstanceOf(CheckpointError);
      expect((error as CheckpointError).file).not.toBe('');
      return error as CheckpointError;
    }
  }

  it('are refused when truncated, wherever', async () => {
    expect(await use(whole)).toBeUndefined();
    const header = whole.length - tinyTensors().reduce((sum, { data }) => sum + data.length, 0);
    for (let length = 0; length < header; length += 11) {
      const error = await use(whole.subarray(0, length));
      expect(error?.message).toMatch(/truncated|is empty/);
    }
    for (let length = header; length < whole.length; length += 4001) {
      const error = await use(whole.subarray(0, length));
      expect(error?.tensor).toBeDefined();
      expect(error?.offset).toBeGreaterThan(0);
    }
  });

  it('give a typed error or a usable model when bytes of the header are flipped, without large allocations', async () => {
    const next = random(7);
    const before = process.memoryUsage().rss;
    let refused = 0;
    for (let i = 0; i < 1200; i += 1) {
      const damaged = Buffer.from(whole);
      // Half of the damage goes to the first kilobyte, where the counts and the model's shape are.
      const at = next(i % 2 === 0 ? 1024 : 9000);
      damaged[at] = damaged[at]! ^ [0xff, 0x01, 0x80, 1 << next(8)][next(4)]!;
      if ((await use(damaged)) !== undefined) refused += 1;
    }
    expect(refused).toBeGreaterThan(200);
    expect(process.memoryUsage().rss - before).toBeLessThan(400e6);
  });

  it('do not make the parser believe in huge counts', () => {
    for (const at of [8, 16, 24]) {
      for (const value of [2n ** 64n - 1n, 2n ** 53n, 2n ** 40n, 10_000_000n]) {
        const damaged = Buffer.from(whole);
        damaged.writeBigUInt64LE(value, at);
        expect(() => parseGguf(inMemoryFile(damaged))).toThrow(CheckpointError);
      }
    }
  });
});

describeRealModel('the real GGUF file', (real) => {
  const expected = JSON.parse(readFileSync(new URL('./fixtures/smollm2-gguf.json', import.meta.url), 'utf8')) as {
    tensors: Record<string, { shape: number[]; type: string; offset: number; sha256: string }>;
    rows: Record<string, Record<string, number[]>>;
  };
  let file: MappedFile;
  beforeAll(() => {
    file = openMapped(real);
  });
  afterAll(() => file?.[Symbol.dispose]());

  it("has the tensors that Python's gguf finds", () => {
    const { tensors } = parseGguf(file);
    const found = [...tensors].map(([name, { shape, dtype, offset, length }]) => [
      name,
      { shape, type: dtype, offset, sha256: createHash('sha256').update(file.view(offset, length)).digest('hex') },
    ]);
    expect(Object.fromEntries(found)).toEqual(expected.tensors);
  });

  it('has the rows of q, k and v in the order that transformers gives them', async () => {
    using checkpoint = await openCheckpoint(real);
    for (const [name, rows] of Object.entries(expected.rows)) {
      const source = checkpoint.tensor(name, name.includes('q_proj') ? 576 : 192, 576);
      if (source.type !== 'q4_1') throw new Error(`${name} is ${source.type}`);
      const rowBytes = (576 / 32) * 20;
      for (const [row, begin] of Object.entries(rows)) {
        // Q4_1: float16 scale and minimum, then 32 numbers of 4 bits, the low halves first.
        const block = source.data.subarray((source.rowOrder?.[Number(row)] ?? Number(row)) * rowBytes);
        const view = new DataView(block.buffer, block.byteOffset);
        const [scale, minimum] = [half(view.getUint16(0, true)), half(view.getUint16(2, true))];
        expect(Array.from({ length: 8 }, (_, i) => (block[4 + i]! & 15) * scale + minimum)).toEqual(begin);
      }
    }
  });

  it('opens in well under two seconds', async () => {
    const began = performance.now();
    using checkpoint = await openCheckpoint(real);
    expect(checkpoint.config.layers).toBe(30);
    expect(performance.now() - began).toBeLessThan(2_000);
  });
});

/** A float16 as a number. */
function half(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const size = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
  return bits & 0x8000 ? -size : size;
}
