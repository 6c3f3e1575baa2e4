import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Checkpoint } from '../checkpoint.js';
import { CheckpointError } from '../errors.js';
import { parseConfigJson } from './config-json.js';
import { huggingFaceTokenizer } from './hugging-face-tokenizer.js';
import { JsonObject } from './json-object.js';
import { type MappedFile, openMapped } from './mapped-file.js';
import { ModelTokenizer } from './model-tokenizer.js';
import { readJson } from './read-json.js';
import { parseSafetensors } from './safetensors.js';
import { requireShape, type StoredTensor, weightSource } from './tensor-table.js';

const INDEX = 'model.safetensors.index.json';
const SINGLE = 'model.safetensors';

/**
 * Opens a Hugging Face directory: config.json, tokenizer files, safetensors in one file or several.
 *
 * @param name For people: what was asked for.
 * @throws CheckpointError
 */
export function openDirectory(directory: string, name: string): Checkpoint {
  const configPath = join(directory, 'config.json');
  const configJson = readJson(configPath);
  if (configJson === undefined) throw new CheckpointError('there is no such file', { file: configPath });
  const config = parseConfigJson(configJson, configPath);

  const files: MappedFile[] = [];
  const dispose = () => {
    for (const file of files.splice(0)) file[Symbol.dispose]();
  };
  try {
    const open = (part: string) => {
      const file = openMapped(part);
      files.push(file);
      return parseSafetensors(file);
    };
    const index = join(directory, INDEX);
    const table = existsSync(index) ? openShards(directory, index, open) : open(singleFile(directory));
    requireShape(table, directory, config);
    const tokenizer = new ModelTokenizer(huggingFaceTokenizer(directory));
    return {
      name,
      config,
      tensorNames: new Set(table.keys()),
      tokenizer,
      tensor: (tensor, rows, cols) => weightSource(table, directory, tensor, rows, cols),
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

function singleFile(directory: string): string {
  const path = join(directory, SINGLE);
  if (existsSync(path)) return path;
  const pickled =
    existsSync(join(directory, 'pytorch_model.bin')) || existsSync(join(directory, 'pytorch_model.bin.index.json'));
  throw new CheckpointError(
    `there are no weights: neither ${SINGLE} nor ${INDEX}${pickled ? '. Files of PyTorch (pytorch_model.bin) are not read; convert them to safetensors' : ''}`,
    { file: directory },
  );
}

function openShards(
  directory: string,
  indexPath: string,
  open: (part: string) => Map<string, StoredTensor>,
): Map<string, StoredTensor> {
  const index = new JsonObject(readJson(indexPath), indexPath);
  const places = index.required('weight_map', index.object('weight_map'));
  const shards = new Map<string, Map<string, StoredTensor>>();
  const table = new Map<string, StoredTensor>();
  for (const tensor of places.keys()) {
    const shard = places.required(tensor, places.string(tensor));
    if (!/^[^/\\]+\.safetensors$/.test(shard)) {
      throw new CheckpointError(`it is said to be in '${shard}', which is not a safetensors file beside the index`, {
        file: indexPath,
        tensor,
      });
    }
    let tensors = shards.get(shard);
    if (tensors === undefined) {
      tensors = open(join(directory, shard));
      shards.set(shard, tensors);
    }
    const stored = tensors.get(tensor);
    if (stored === undefined) {
      throw new CheckpointError(`${INDEX} says it is in this file, but it is not`, {
        file: join(directory, shard),
        tensor,
      });
    }
    table.set(tensor, stored);
  }
  return table;
}
