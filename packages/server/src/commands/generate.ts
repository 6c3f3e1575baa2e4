import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import type { GenerationEvent } from '@magicpig/model-llama';
import { Command } from 'commander';
import { Progress } from '../progress.js';
import { describeReport, reportOf, usageOf } from '../report.js';
import type { CommandContext } from './command-context.js';
import { CommandError } from './command-error.js';
import { loadWithProgress } from './load-with-progress.js';
import {
  type AttentionFlags,
  addAttentionOptions,
  addModelOptions,
  addSamplingOptions,
  integer,
  loadOptionsOf,
  type ModelFlags,
  type SamplingFlags,
  samplingOf,
} from './options.js';

interface GenerateFlags extends ModelFlags, AttentionFlags, SamplingFlags {
  promptFile?: string;
  system?: string;
  maxTokens?: number;
  seed?: number;
  stop?: string[];
  raw?: boolean;
}

/** `magicpig generate`: one answer, streamed to the terminal. */
export function generateCommand(context: CommandContext): Command {
  const command = new Command('generate')
    .description('answer one question, about a file if one is given, streaming to the terminal')
    .argument('[question]', 'what to ask; read from standard input when there is neither question nor file')
    .option('-f, --prompt-file <file>', 'text that comes before the question; - is standard input')
    .option('--system <text>', 'system message of the chat')
    .option('--max-tokens <n>', 'length of the answer at most (default: what the context leaves)', integer(1))
    .option('--seed <n>', 'seed of the sampler', integer(0))
    .option('--stop <texts...>', 'end the answer before any of these')
    .option('--raw', 'continue the text as it is, without the chat template');
  addSamplingOptions(addAttentionOptions(addModelOptions(command)));
  return command.action((question: string | undefined) => generate(context, question, command.opts<GenerateFlags>()));
}

async function generate(context: CommandContext, question: string | undefined, flags: GenerateFlags): Promise<void> {
  if (flags.raw && flags.system !== undefined) {
    throw new CommandError('--system belongs to the chat template, which --raw leaves out: use one of the two.');
  }
  const prompt = await readPrompt(context, question, flags.promptFile);
  await using model = await loadWithProgress(context, flags.model, { ...loadOptionsOf(flags), maxSequences: 1 });
  const system = flags.system === undefined ? [] : [{ role: 'system', content: flags.system }];
  const events = model.generate(flags.raw ? prompt : { messages: [...system, { role: 'user', content: prompt }] }, {
    ...samplingOf(flags),
    ...(flags.maxTokens === undefined ? {} : { maxTokens: flags.maxTokens }),
    ...(flags.seed === undefined ? {} : { seed: flags.seed }),
    ...(flags.stop === undefined ? {} : { stop: flags.stop }),
    signal: context.signal,
  });
  const written = { text: false };
  try {
    await show(context, events, written);
    if (flags.profile) context.stderr.write(`\n${(await model.profile()).table}`);
  } catch (error) {
    if (written.text) context.stdout.write('\n');
    throw error;
  }
}

async function show(
  context: CommandContext,
  events: AsyncIterable<GenerationEvent>,
  written: { text: boolean },
): Promise<void> {
  using progress = new Progress(context.stderr);
  for await (const event of events) {
    if (event.type === 'prefill') {
      progress.update('Reading the prompt', event.done, event.total);
      continue;
    }
    progress[Symbol.dispose]();
    if (event.text !== '') {
      context.stdout.write(event.text);
      written.text = true;
    }
    if (event.type === 'end') {
      const cut = event.finishReason === 'length' ? ' (cut off at the limit of tokens)' : '';
      context.stdout.write('\n');
      context.stderr.write(`${describeReport(reportOf(event), usageOf(event))}${cut}\n`);
    }
  }
}

async function readPrompt(
  context: CommandContext,
  question: string | undefined,
  file: string | undefined,
): Promise<string> {
  const fromStdin = file === '-' || (file === undefined && question === undefined);
  let body: string | undefined;
  if (fromStdin) {
    if (context.stdin.isTTY) context.stderr.write('Type the prompt, and Ctrl-D at its end:\n');
    body = await text(context.stdin);
  } else if (file !== undefined) {
    body = await readFile(file, 'utf8').catch((error: Error) => {
      throw new CommandError(`Cannot read the prompt file '${file}': ${error.message}`);
    });
  }
  const prompt = [body?.trimEnd(), question].filter((part) => part !== undefined && part !== '').join('\n\n');
  if (prompt === '') throw new CommandError('There is nothing to answer: the prompt is empty.');
  return prompt;
}
