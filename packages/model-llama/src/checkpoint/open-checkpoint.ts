import { stat } from 'node:fs/promises';
import type { Checkpoint } from '../checkpoint.js';
import { CheckpointError } from '../errors.js';
import { openDirectory } from './directory-checkpoint.js';
import { openGguf } from './gguf-checkpoint.js';
import { locateModel } from './locate-model.js';
import type { OpenCheckpointOptions } from './open-options.js';
import { openRandom } from './random-checkpoint.js';

const RANDOM = 'random:';

/**
 * Opens a model's checkpoint: its shape, its weights (mapped into memory, nothing converted) and its tokenizer.
 *
 * @param source A Hugging Face directory (config.json, tokenizer.json, *.safetensors), a .gguf file, a short name
 *   (`smollm2`), a hub id (`owner/name`, `owner/name@revision`, `owner/name/file.gguf`), or random weights in a known or
 *   given shape (`random:llama-3.2-1b`, `random:path/to/config.json`).
 * @returns Dispose it when the weights are loaded or no longer wanted.
 * @throws ModelNotFoundError when there is nothing of that name anywhere; CheckpointError when there is, and it is
 *   malformed, truncated or not supported; the signal's reason when aborted.
 */
export async function openCheckpoint(source: string, options: OpenCheckpointOptions = {}): Promise<Checkpoint> {
  if (source.startsWith(RANDOM)) return openRandom(source.slice(RANDOM.length), options.randomSeed ?? 0);
  const path = await locateModel(source, options);
  options.signal?.throwIfAborted();
  if ((await stat(path)).isDirectory()) return openDirectory(path, source);
  if (path.endsWith('.gguf')) return openGguf(path, source);
  throw new CheckpointError('not a .gguf file; give a folder with config.json to open safetensors', { file: path });
}
