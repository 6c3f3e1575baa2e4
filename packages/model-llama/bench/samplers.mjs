// Which keys should a decoded token read? Samplers side by side on one model and several texts: after an exact prefill of the
// context, the text's next tokens are decoded under all of them at once, and each is compared with exact attention: the
// attention's output for the same queries in every sampled layer, and the distribution of the next token.
//
//   node bench/samplers.mjs --texts luke        one text, some two minutes; results of other texts are kept
//   node bench/samplers.mjs                     all texts
//
// Weights and activations are float32, so that nothing but attention differs; keys and values are bfloat16, as in use.
import { parseArgs } from 'node:util';
import { MagicPigPolicy, resolveAttention, SketchPolicy } from '../dist/index.js';
import { benchText, readResults, writeResults } from './common.mjs';
import { openLlama, prefill } from './open-llama.mjs';
import { comparedCache, emptyErrors } from './samplers/compared-cache.mjs';
import { divergence } from './samplers/divergence.mjs';
import { mergeTexts, printTable } from './samplers/merge.mjs';
import { oracle, topK } from './samplers/selections.mjs';

const TEXTS = ['constitution', 'job', 'luke', 'proverbs'];
const CONTEXT_TOKENS = 7700;
const STEPS = 132;
/** Positions for the oracle, which is slow here. */
const ORACLE_STEPS = 24;
/** Positions whose mean divergence is kept: neighbours are alike, blocks much less. */
const BLOCK = 12;
const SHARES = [0.02, 0.05, 0.1];

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: 'smollm2' },
    threads: { type: 'string' },
    texts: { type: 'string', default: TEXTS.join() },
  },
});
let compared;
const { config, tokenizer, backend, store, llama } = await openLlama({
  source: flags.model,
  ...(flags.threads && { threads: Number(flags.threads) }),
  format: 'f32',
  dtype: 'bf16',
  watch(store, config) {
    compared = comparedCache(store, config);
    return compared.cache;
  },
});

const { queryHeads, kvHeads, headDim } = config;

const samplers = [
  ...SHARES.map((share) => sampler(`topk ${share}`, { kind: 'topk', share })),
  ...[150, 300].map((L) => sampler(`magicpig 10,${L}`, { kind: 'magicpig', K: 10, L })),
  ...[1, 2, 3, 4].flatMap((bits) =>
    SHARES.map((share) => sampler(`sketch ${bits} ${share}`, { kind: 'sketch', bits, share })),
  ),
  ...SHARES.map((share) => sampler(`oracle ${share}`, { kind: 'oracle', share })),
  sampler('all', { kind: 'sketch', bits: 2, share: 1 }),
];
for (const text of flags.texts.split(',')) {
  const begin = performance.now();
  const parts = measure(text);
  console.log(`${text}: ${((performance.now() - begin) / 1e3).toFixed(0)} s`);
  const before = readResults('samplers');
  const about = { model: flags.model, contextTokens: CONTEXT_TOKENS, steps: STEPS, blockSteps: BLOCK };
  const same = before && Object.entries(about).every(([name, value]) => before[name] === value);
  const texts = { ...(same && before.texts), [text]: parts };
  writeResults('samplers', { ...about, shape: { queryHeads, kvHeads, headDim }, rows: mergeTexts(texts), texts });
}
printTable(readResults('samplers').rows);

function sampler(name, setting) {
  const options = {
    topk: { policy: 'magicpig' }, // for the schedule
    oracle: { policy: 'magicpig' },
    magicpig: { policy: 'magicpig', K: setting.K, L: setting.L },
    sketch: { policy: 'sketch', bits: setting.bits, budget: { share: setting.share } },
  }[setting.kind];
  const settings = resolveAttention({ ...options, minContext: 0 }, config.layers);
  const context = { settings, config, cache: store, pool: backend.pool };
  const opens = {
    topk: () => topK(setting.share, settings, config),
    oracle: () => oracle(setting.share, settings, config, store),
    magicpig: () => openPolicy(new MagicPigPolicy(context)),
    sketch: () => openPolicy(new SketchPolicy(context)),
  };
  return { name, setting, steps: setting.kind === 'oracle' ? ORACLE_STEPS : STEPS, open: opens[setting.kind]() };
}

function openPolicy(policy) {
  return (sequence) => policy.open(sequence);
}

/** What each sampler gave on one text, by name. */
function measure(text) {
  const tokens = tokenizer.encode(benchText(text)).subarray(0, CONTEXT_TOKENS + STEPS);
  if (tokens.length < CONTEXT_TOKENS + STEPS) throw new Error(`${text}.txt has ${tokens.length} tokens only`);
  const context = store.open();
  prefill(llama, context, tokens.subarray(0, CONTEXT_TOKENS));

  const exact = { sequence: context.fork(), attention: undefined };
  const runs = samplers.map(({ name, setting, steps, open }) => {
    const sequence = context.fork();
    return { name, setting, steps, sequence, attention: open(sequence), errors: emptyErrors(), kl: [], same: 0 };
  });
  const draws = ({ attention, errors }) => ({ errors, draw: (layer, queries) => attention.draw?.(layer, queries) });
  for (let i = CONTEXT_TOKENS; i < CONTEXT_TOKENS + STEPS; i += 1) {
    const active = runs.filter(({ steps }) => i - CONTEXT_TOKENS < steps);
    compared.watch([{ errors: emptyErrors() }, ...active.map(draws)]);
    for (const { attention } of active) while (!attention.ready) attention.prepare(Number.POSITIVE_INFINITY);
    const entries = [exact, ...active].map(({ sequence, attention }) => {
      return { sequence, attention, tokens: tokens.subarray(i, i + 1), promptTokens: CONTEXT_TOKENS, logits: 'last' };
    });
    const { logits, keysRead } = llama.forward(entries);
    for (const [at, run] of active.entries()) {
      run.attention.afterDecode(i + 1, keysRead[at + 1]);
      const { kl, same } = divergence(logits[0], logits[at + 1]);
      run.kl.push(kl);
      run.same += same ? 1 : 0;
    }
  }
  const parts = runs.map(({ name, setting, steps, attention, errors, kl, same }) => {
    const blocks = Array.from({ length: steps / BLOCK }, (_, i) => mean(kl.slice(i * BLOCK, (i + 1) * BLOCK)));
    const { sampledShare } = attention.report();
    return [
      name,
      { ...setting, sampledShare, indexBytes: indexBytes(attention), errors, klBlocks: blocks, same: same / steps },
    ];
  });
  for (const { sequence, attention } of [...runs, exact, { sequence: context }]) {
    attention?.[Symbol.dispose]();
    sequence[Symbol.dispose]();
  }
  return Object.fromEntries(parts);
}

/** Bytes of an index for each key of each KV head. */
function indexBytes(attention) {
  const { sink, window, denseLayers } = resolveAttention({ policy: 'magicpig' }, config.layers);
  const heads = (config.layers - denseLayers.length) * config.kvHeads;
  return attention.bytes / (heads * (CONTEXT_TOKENS - sink - window));
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
