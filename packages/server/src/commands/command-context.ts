import type { LlamaModel, LoadOptions } from '@magicpig/model-llama';
import type { ProgressStream } from '../progress.js';

/** What a command sees of the process, so that tests can run it without one. */
export interface CommandContext {
  stdin: NodeJS.ReadableStream & { isTTY?: boolean };
  stdout: ProgressStream;
  stderr: ProgressStream;
  /** Aborted by Ctrl-C and by SIGTERM. */
  signal: AbortSignal;
  loadModel(source: string, options: LoadOptions): Promise<LlamaModel>;
}
