import type { ForwardOptions, GenerateOptions, LoadOptions } from './api.js';
import { InvalidRequestError } from './errors.js';

type Names<T> = Readonly<Record<keyof T, true>>;

const LOAD: Names<LoadOptions> = {
  backend: true,
  vramBytes: true,
  threads: true,
  weights: true,
  contextTokens: true,
  cacheBytes: true,
  memoryBytes: true,
  maxSequences: true,
  maxQueue: true,
  maxStallMs: true,
  prefixCache: true,
  snapshotDir: true,
  snapshotBytes: true,
  attention: true,
  policies: true,
  profile: true,
  cacheDir: true,
  randomSeed: true,
  signal: true,
  onProgress: true,
};

const GENERATE: Names<GenerateOptions> = {
  maxTokens: true,
  temperature: true,
  topP: true,
  topK: true,
  minP: true,
  repetitionPenalty: true,
  presencePenalty: true,
  frequencyPenalty: true,
  seed: true,
  stop: true,
  ignoreEos: true,
  attention: true,
  signal: true,
};

const FORWARD: Names<ForwardOptions> = { logits: true, from: true, attention: true, tap: true, signal: true };

const TAP: Names<NonNullable<ForwardOptions['tap']>> = {
  layers: true,
  queries: true,
  keys: true,
  values: true,
  outputs: true,
};

const NAMES = { load: LOAD, generate: GENERATE, forward: FORWARD, tap: TAP };

/** @throws InvalidRequestError for an option that there is not: ignored, a misspelt one would change nothing and say nothing. */
export function checkNames(of: keyof typeof NAMES, options: object): void {
  const names = NAMES[of];
  const unknown = Object.keys(options).find((name) => !Object.hasOwn(names, name));
  if (unknown === undefined) return;
  const path = of === 'tap' ? `tap.${unknown}` : unknown;
  throw new InvalidRequestError(`${path} is not an option; there are: ${Object.keys(names).join(', ')}`, path);
}
