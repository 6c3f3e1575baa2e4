import { PassThrough } from 'node:stream';
import type { LoadOptions } from '@magicpig/model-llama';
import { onTestFinished } from 'vitest';
import { main } from '../src/main.js';
import { FakeModel, type FakeModelOptions } from './fake-model.js';

export interface CommandRun {
  exitCode: Promise<number>;
  /** What has been written so far. */
  stdout(): string;
  stderr(): string;
  /** As Ctrl-C does. */
  interrupt(): void;
  /** The model the command loaded, and with what. */
  loaded: { source: string; options: LoadOptions; model: FakeModel }[];
}

export interface RunOptions {
  stdin?: string;
  model?: FakeModelOptions;
  /** Instead of loading. */
  loadError?: Error;
  /** Whether the outputs pass for terminals. */
  isTTY?: boolean;
}

/** Runs the `magicpig` command in this process on a fake model. */
export function runCommand(args: string[], options: RunOptions = {}): CommandRun {
  const controller = new AbortController();
  const loaded: CommandRun['loaded'] = [];
  const output = () => {
    const chunks: string[] = [];
    const stream = Object.assign(new PassThrough(), { isTTY: options.isTTY ?? false });
    stream.on('data', (chunk) => chunks.push(String(chunk)));
    return { stream, text: () => chunks.join('') };
  };
  const [stdout, stderr] = [output(), output()];
  const stdin = new PassThrough();
  stdin.end(options.stdin ?? '');
  const exitCode = main(args, {
    stdin,
    stdout: stdout.stream,
    stderr: stderr.stream,
    signal: controller.signal,
    loadModel: async (source, loadOptions) => {
      for (const done of [0, 1, 2, 3, 4]) {
        loadOptions.onProgress?.({ stage: 'download', item: 'weights.gguf', done: done * 2 ** 20, total: 2 ** 22 });
      }
      loadOptions.onProgress?.({ stage: 'load', item: 'a tensor', done: 272, total: 272 });
      if (options.loadError) throw options.loadError;
      const model = new FakeModel(options.model);
      loaded.push({ source, options: loadOptions, model });
      return model;
    },
  });
  onTestFinished(async () => {
    controller.abort();
    await exitCode;
  });
  return { exitCode, stdout: stdout.text, stderr: stderr.text, interrupt: () => controller.abort(), loaded };
}
