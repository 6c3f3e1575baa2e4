import { basename, dirname, join } from 'node:path';
import type { WeightSource } from '../backend.js';
import type { Checkpoint, LlamaConfig } from '../checkpoint.js';
import { CheckpointError } from '../errors.js';
import { parseGguf } from './gguf.js';
import { ggufConfig } from './gguf-config.js';
import { GgufMetadata } from './gguf-metadata.js';
import { huggingFaceName } from './gguf-names.js';
import { ggufTokenizer } from './gguf-tokenizer.js';
import { type MappedFile, openMapped } from './mapped-file.js';
import { ModelTokenizer } from './model-tokenizer.js';
import { BLOCKS, requireShape, type StoredTensor, weightSource } from './tensor-table.js';

/**
 * Opens a GGUF file, or all parts of one split by `gguf-split` when the first is given.
 *
 * @param name For people: what was asked for.
 * @throws CheckpointError
 */
export function openGguf(path: string, name: string): Checkpoint {
  const files: MappedFile[] = [];
  const dispose = () => {
    for (const file of files.splice(0)) file[Symbol.dispose]();
  };
  try {
    const open = (part: string) => {
      const file = openMapped(part);
      files.push(file);
      return parseGguf(file);
    };
    const first = open(path);
    const metadata = new GgufMetadata(first.metadata, path);
    const stored = new Map(first.tensors);
    for (const part of otherParts(path, metadata.number('split.count') ?? 1)) {
      for (const [tensor, value] of open(part).tensors) stored.set(tensor, value);
    }

    const config = ggufConfig(metadata, stored);
    const table = new Map<string, StoredTensor>();
    for (const [tensor, value] of stored) {
      const known = huggingFaceName(tensor);
      if (known !== undefined) table.set(known, value);
    }
    requireShape(table, path, config);
    return {
      name,
      config,
      tensorNames: new Set(table.keys()),
      tokenizer: new ModelTokenizer(ggufTokenizer(metadata)),
      tensor: (tensor, rows, cols) => unpermuted(weightSource(table, path, tensor, rows, cols), tensor, config),
      trim() {
        for (const file of files) file.trim();
      },
      [Symbol.dispose]: dispose,
    };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** Paths of parts 2, 3, ... of a split file, named `model-00001-of-00003.gguf`. */
function otherParts(path: string, count: number): string[] {
  if (count <= 1) return [];
  const match = /^(.*)-00001-of-(\d{5})\.gguf$/.exec(basename(path));
  if (match === null || Number(match[2]) !== count) {
    throw new CheckpointError(
      `one of ${count} parts of a model: give the first, ...-00001-of-${String(count).padStart(5, '0')}.gguf`,
      {
        file: path,
      },
    );
  }
  return Array.from({ length: count - 1 }, (_, i) =>
    join(dirname(path), `${match[1]}-${String(i + 2).padStart(5, '0')}-of-${match[2]}.gguf`),
  );
}

/**
 * GGUF's converter reorders the rows of q and k of Llama models so that the elements rotated together are neighbours (2j,
 * 2j + 1); here they are j and j + headDim/2, as in Hugging Face's files. Other architectures are stored as they are.
 */
function unpermuted<T extends Exclude<WeightSource, { type: 'random' }>>(
  source: T,
  name: string,
  config: LlamaConfig,
): T {
  if (config.architecture !== 'llama' || !/\.self_attn\.[qk]_proj\.(weight|bias)$/.test(name)) return source;
  const { headDim } = config;
  const isBias = name.endsWith('.bias');
  const count = isBias ? source.cols : source.rows;
  if (count % headDim !== 0) return source; // not of whole heads: whoever asked checks shapes, and refuses
  const order = new Uint32Array(count);
  for (let row = 0; row < count; row += 1) {
    const inHead = row % headDim;
    const half = inHead < headDim / 2 ? 0 : 1;
    order[row] = row - inHead + 2 * (inHead - half * (headDim / 2)) + half;
  }
  if (!isBias) return { ...source, rowOrder: order };

  const { bytes } = BLOCKS[source.type];
  const data = new Uint8Array(source.data.length); // a bias is one row, so its elements move here
  for (const [to, from] of order.entries())
    data.set(source.data.subarray(from * bytes, (from + 1) * bytes), to * bytes);
  return { ...source, data };
}
