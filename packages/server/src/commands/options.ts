import { type AttentionOptions, type LoadOptions, WEIGHT_FORMATS, type WeightFormat } from '@magicpig/model-llama';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { SamplingDefaults } from '../generate-options.js';
import { parseSize } from '../parse-size.js';
import { CommandError } from './command-error.js';

/** Flags of {@link addModelOptions}. */
export interface ModelFlags {
  model: string;
  backend: 'cpu' | 'cuda';
  vram?: number;
  threads?: number;
  weights?: WeightFormat;
  context?: number;
  cacheGb?: number;
  memoryGb?: number;
  maxSequences?: number;
  maxStall?: number;
  prefixCache?: 'all' | 'prompts' | 'off';
  snapshotDir?: string;
  snapshotGb?: number;
  cacheDir?: string;
  randomSeed?: number;
  profile?: boolean;
}

type AttentionPolicyName = 'dense' | 'magicpig' | 'sketch';
type SketchBudget = NonNullable<Extract<AttentionOptions, { policy: 'sketch' }>['budget']>;

/** Flags of {@link addAttentionOptions}. */
export interface AttentionFlags {
  policy: AttentionPolicyName;
  k?: number;
  l?: number;
  bits?: number;
  budget?: SketchBudget;
  floor?: number;
  sink?: number;
  window?: number;
  denseLayers?: number[];
  minContext?: number;
  attentionSeed?: number;
  sampledPromptTokens?: number;
}

/** Flags of {@link addSamplingOptions}. */
export interface SamplingFlags {
  temperature?: number;
  topP?: number;
  topK?: number;
  minP?: number;
  repetitionPenalty?: number;
}

/** Which model, where and how it is held. */
export function addModelOptions(command: Command): Command {
  return command
    .option(
      '-m, --model <source>',
      'a folder in Hugging Face format, a .gguf file, a hub id, a short name, or random:<preset>',
      'smollm2',
    )
    .addOption(new Option('--backend <name>', 'where the model computes').choices(['cpu', 'cuda']).default('cpu'))
    .option(
      '--vram <size>',
      'cuda: device memory to use at most, in GiB or as 512MB (default: most of what is free)',
      size,
    )
    .option('--threads <n>', 'threads that compute (default: the cores this process may use)', integer(1, 1024))
    .addOption(
      new Option(
        '--weights <format>',
        'format of the weights in memory (default: q8, their own blocks, for quantised files, and bf16 for others)',
      ).choices(WEIGHT_FORMATS),
    )
    .option('--context <tokens>', "longest context, prompt and answer (default: the model's own)", integer(1))
    .option(
      '--cache-gb <size>',
      'memory for KV cache and tables, in GiB or as 512MB (default: half of what is free)',
      size,
    )
    .option('--memory-gb <size>', 'memory for everything, the weights included, instead of --cache-gb', size)
    .option('--max-sequences <n>', 'requests that decode together (default: 16)', integer(1, 1024))
    .option('--max-stall <ms>', 'longest time that reading prompts holds up running streams (default: 250)', integer(1))
    .addOption(
      new Option(
        '--prefix-cache <what>',
        'what later requests go on from: prompts and answers, prompts alone (bit for bit the same tokens), or nothing (default: all)',
      ).choices(['all', 'prompts', 'off']),
    )
    .option('--snapshot-dir <folder>', 'keep the prefix cache there across restarts')
    .option('--snapshot-gb <size>', 'size of that folder, in GiB or as 512MB (default: 4)', size)
    .option('--cache-dir <folder>', "where downloads are kept (default: the user's cache folder, or MAGICPIG_CACHE)")
    .option('--random-seed <n>', 'seed of the weights of a random: model', integer(0))
    .option('--profile', 'measure every operator, and print where the time went at the end');
}

/** How decoded tokens attend to the context. */
export function addAttentionOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--policy <name>', 'attention of decoded tokens')
        .choices(['magicpig', 'sketch', 'dense'])
        .default('magicpig'),
    )
    .option('--k <bits>', 'magicpig: bits of a hash code (default: 10)', integer(1, 16))
    .option('--l <tables>', 'magicpig: hash tables (default: 150)', integer(1, 4096))
    .option('--bits <n>', 'sketch: bits a dimension of the keys (default: 2)', integer(1, 4))
    .option(
      '--budget <keys>',
      'sketch: keys to read, as a share (5%), a count (400), or an error to stay under (error=0.05,min=0.5%,max=25%) (default: 5%)',
      budget,
    )
    .option('--floor <x>', 'sketch: added to weights, in units of their mean (default: 0.02)', number(0, 1))
    .option('--sink <tokens>', 'first tokens, always attended exactly (default: 4)', integer(0))
    .option('--window <tokens>', 'last tokens, always attended exactly (default: 64)', integer(0))
    .option('--dense-layers <list>', 'layers that stay exact (default: 0 and every 16th)', integers)
    .option('--min-context <tokens>', 'shorter contexts are attended exactly', integer(0))
    .option('--attention-seed <n>', 'seed of the hash projections, or of sketches and draws', integer(0))
    .option(
      '--sampled-prompt-tokens <n>',
      "magicpig: sample for the prompt's last tokens too (default: 0)",
      integer(0),
    );
}

/** How tokens are drawn. */
export function addSamplingOptions(command: Command): Command {
  return command
    .option('--temperature <t>', '0 is greedy (default: 0)', number(0, 2))
    .option('--top-p <p>', 'keep the likeliest tokens that hold this probability', number(0, 1))
    .option('--top-k <n>', 'keep this many of the likeliest tokens', integer(0))
    .option('--min-p <p>', "keep tokens with at least this share of the likeliest one's probability", number(0, 1))
    .option('--repetition-penalty <x>', 'above 1, tokens that have occurred become less likely', number(0));
}

export function loadOptionsOf(flags: ModelFlags & AttentionFlags): LoadOptions {
  return {
    backend: flags.backend,
    ...(flags.vram === undefined ? {} : { vramBytes: flags.vram }),
    attention: attentionOf(flags),
    ...(flags.weights === undefined ? {} : { weights: flags.weights }),
    ...(flags.threads === undefined ? {} : { threads: flags.threads }),
    ...(flags.context === undefined ? {} : { contextTokens: flags.context }),
    ...(flags.cacheGb === undefined ? {} : { cacheBytes: flags.cacheGb }),
    ...(flags.memoryGb === undefined ? {} : { memoryBytes: flags.memoryGb }),
    ...(flags.maxSequences === undefined ? {} : { maxSequences: flags.maxSequences }),
    ...(flags.maxStall === undefined ? {} : { maxStallMs: flags.maxStall }),
    ...(flags.prefixCache === undefined ? {} : { prefixCache: flags.prefixCache }),
    ...(flags.snapshotDir === undefined ? {} : { snapshotDir: flags.snapshotDir }),
    ...(flags.snapshotGb === undefined ? {} : { snapshotBytes: flags.snapshotGb }),
    ...(flags.cacheDir === undefined ? {} : { cacheDir: flags.cacheDir }),
    ...(flags.randomSeed === undefined ? {} : { randomSeed: flags.randomSeed }),
    ...(flags.profile ? { profile: true } : {}),
  };
}

/** Flags that only one policy has, by the names of its settings. */
const OWN_SETTINGS = {
  dense: [],
  magicpig: ['K', 'L', 'sampledPromptTokens'],
  sketch: ['bits', 'budget', 'floor'],
} as const satisfies Record<AttentionPolicyName, readonly string[]>;

export function attentionOf(flags: AttentionFlags): AttentionOptions {
  const { policy, k: K, l: L, attentionSeed: seed, ...others } = flags;
  const { bits, budget, floor, sink, window, denseLayers, minContext, sampledPromptTokens } = others;
  const own: Record<string, unknown> = { K, L, bits, budget, floor, sampledPromptTokens };
  const given = Object.entries({ ...own, sink, window, denseLayers, minContext, seed }).filter(
    ([, value]) => value !== undefined,
  );
  for (const [name] of given) {
    if (policy === 'dense') {
      throw new CommandError(`The policy "dense" has no settings: leave ${name} out, or use another --policy.`);
    }
    const allowed: readonly string[] = OWN_SETTINGS[policy];
    if (name in own && !allowed.includes(name)) {
      throw new CommandError(`The policy "${policy}" has no setting ${name}: leave it out, or use another --policy.`);
    }
  }
  return { policy, ...Object.fromEntries(given) };
}

export function samplingOf(flags: SamplingFlags): SamplingDefaults {
  const { temperature, topP, topK, minP, repetitionPenalty } = flags;
  return Object.fromEntries(
    Object.entries({ temperature, topP, topK, minP, repetitionPenalty }).filter(([, value]) => value !== undefined),
  );
}

/** A commander parser of whole numbers in a range. */
export function integer(minimum: number, maximum = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && Number.isSafeInteger(value) && value >= minimum && value <= maximum) return value;
    const range = maximum === Number.MAX_SAFE_INTEGER ? `of at least ${minimum}` : `from ${minimum} to ${maximum}`;
    throw new InvalidArgumentError(`It must be a whole number ${range}.`);
  };
}

function number(minimum: number, maximum = Number.POSITIVE_INFINITY): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && Number.isFinite(value) && value >= minimum && value <= maximum) return value;
    const range = maximum === Number.POSITIVE_INFINITY ? `of at least ${minimum}` : `from ${minimum} to ${maximum}`;
    throw new InvalidArgumentError(`It must be a number ${range}.`);
  };
}

/** `5%`, `400` or `error=0.05,min=0.5%,max=25%`. */
function budget(text: string): SketchBudget {
  const share = (value: string) =>
    value.endsWith('%') ? number(0, 100)(value.slice(0, -1)) / 100 : number(0, 1)(value);
  if (!text.includes('=')) return text.endsWith('%') ? { share: share(text) } : { count: integer(1)(text) };
  const parts = new Map(text.split(',').map((part) => part.split('=', 2) as [string, string | undefined]));
  const [error, min, max] = ['error', 'min', 'max'].map((name) => parts.get(name));
  if (error === undefined || [...parts.keys()].some((name) => !['error', 'min', 'max'].includes(name))) {
    throw new InvalidArgumentError('It must be like 5%, 400 or error=0.05,min=0.5%,max=25%.');
  }
  return {
    error: share(error),
    ...(min === undefined ? {} : { min: share(min) }),
    ...(max === undefined ? {} : { max: share(max) }),
  };
}

function integers(text: string): number[] {
  return text.trim() === '' ? [] : text.split(',').map(integer(0));
}

function size(text: string): number {
  try {
    return parseSize(text);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}
