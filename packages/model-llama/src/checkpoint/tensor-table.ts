import type { SourceType, WeightSource } from '../backend.js';
import type { LlamaConfig } from '../checkpoint.js';
import { CheckpointError } from '../errors.js';

/** A file that parts of can be looked at in place: mapped, or (in tests) in memory. */
export interface FileBytes {
  readonly path: string;
  /** Bytes in the file. */
  readonly size: number;
  /** Bytes [offset, offset + length), in place. One view is at most 4 GiB, the file may be larger. */
  view(offset: number, length: number): Uint8Array;
}

/** One tensor of a file, its place in the file already checked. */
export interface StoredTensor {
  file: FileBytes;
  /** Byte offset in that file. */
  offset: number;
  /** Bytes of data. */
  length: number;
  /** Outermost dimension first: [rows, cols], or [n] for a vector. */
  shape: readonly number[];
  /** Element format: a {@link SourceType}, or another word of the file's format that cannot be read as weights. */
  dtype: string;
}

/** Elements and bytes of one block of each element format (GGML's block layouts; plain types have blocks of one). */
export const BLOCKS: Readonly<Record<SourceType, { elements: number; bytes: number }>> = {
  f32: { elements: 1, bytes: 4 },
  f16: { elements: 1, bytes: 2 },
  bf16: { elements: 1, bytes: 2 },
  q8_0: { elements: 32, bytes: 34 },
  q4_0: { elements: 32, bytes: 18 },
  q4_1: { elements: 32, bytes: 20 },
  q5_0: { elements: 32, bytes: 22 },
  q5_1: { elements: 32, bytes: 24 },
  q4_k: { elements: 256, bytes: 144 },
  q5_k: { elements: 256, bytes: 176 },
  q6_k: { elements: 256, bytes: 210 },
};

function isSourceType(dtype: string): dtype is SourceType {
  return Object.hasOwn(BLOCKS, dtype);
}

/**
 * The tensor of that name as a source of [rows, cols]; a vector is one row.
 * @param file Named in the error when there is no such tensor.
 * @throws CheckpointError
 */
export function weightSource(
  table: ReadonlyMap<string, StoredTensor>,
  file: string,
  name: string,
  rows: number,
  cols: number,
): Exclude<WeightSource, { type: 'random' }> {
  const tensor = table.get(name);
  if (tensor === undefined) {
    throw new CheckpointError(`the checkpoint has no tensor of that name, and the model needs it [${rows}, ${cols}]`, {
      file,
      tensor: name,
    });
  }
  const { shape, dtype, offset } = tensor;
  const where = { file: tensor.file.path, tensor: name, offset };
  const fits =
    shape.length === 1 ? rows === 1 && shape[0] === cols : shape.length === 2 && shape[0] === rows && shape[1] === cols;
  if (!fits) {
    throw new CheckpointError(
      `its shape is [${shape.join(', ')}], and the model's shape asks for [${rows}, ${cols}]`,
      where,
    );
  }
  if (!isSourceType(dtype)) {
    const known = Object.keys(BLOCKS).join(', ');
    throw new CheckpointError(`its elements are ${dtype}, which cannot be read here (${known} can)`, where);
  }
  return { type: dtype, data: tensor.file.view(offset, tensor.length), rows, cols };
}

/**
 * Checks at a glance that the tensors are those of the configuration: the embedding, the last layer, the last norm. The
 * others are checked when they are asked for.
 * @throws CheckpointError
 */
export function requireShape(table: ReadonlyMap<string, StoredTensor>, file: string, config: LlamaConfig): void {
  const { vocabSize, hiddenSize, layers } = config;
  weightSource(table, file, 'model.embed_tokens.weight', vocabSize, hiddenSize);
  weightSource(table, file, `model.layers.${layers - 1}.input_layernorm.weight`, 1, hiddenSize);
  weightSource(table, file, 'model.norm.weight', 1, hiddenSize);
}

/**
 * Checks that tensors of one file do not share bytes.
 * @throws CheckpointError
 */
export function refuseOverlaps(tensors: Iterable<readonly [name: string, tensor: StoredTensor]>): void {
  const inOrder = [...tensors].sort(([, a], [, b]) => a.offset - b.offset);
  let end = 0;
  let last = '';
  for (const [name, tensor] of inOrder) {
    if (tensor.offset < end && tensor.length > 0) {
      throw new CheckpointError(`it overlaps tensor ${last}, which ends at byte ${end}`, {
        file: tensor.file.path,
        tensor: name,
        offset: tensor.offset,
      });
    }
    end = Math.max(end, tensor.offset + tensor.length);
    last = name;
  }
}
