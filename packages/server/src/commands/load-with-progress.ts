import type { LlamaModel, LoadOptions } from '@magicpig/model-llama';
import { formatBytes } from '../format-bytes.js';
import { Progress } from '../progress.js';
import type { CommandContext } from './command-context.js';

/** Loads a model, its progress shown on stderr. Ctrl-C stops the load. */
export async function loadWithProgress(
  context: CommandContext,
  source: string,
  options: LoadOptions,
): Promise<LlamaModel> {
  using progress = new Progress(context.stderr);
  return await context.loadModel(source, {
    ...options,
    signal: context.signal,
    onProgress: ({ stage, item, done, total }) => {
      if (stage === 'download') progress.update(`Fetching ${source} (${item})`, done, total, formatBytes);
      else progress.update(`Loading ${source}`, done, total);
    },
  });
}
