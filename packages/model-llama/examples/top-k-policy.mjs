// An attention policy that is no part of the package: decoded tokens attend to the `keys` keys of largest score, and
// exactly to the first `sink` and the last `window` tokens. Exact TopK has to look at every key to find them, so it saves
// no time; it is the yardstick that cheaper selections are measured against.
import { TopKSelector } from '@magicpig/kv-offload';
import { AttentionMeter } from '@magicpig/model-llama';

/** @type {import('@magicpig/model-llama').AttentionPolicyModule} */
export default function topK({ keys = 256, sink = 4, window = 64, ...unknown }, { config }) {
  for (const [name, value] of Object.entries({ keys, sink, window })) {
    if (!Number.isInteger(value) || value < 1) throw new Error(`${name} must be a positive integer, not ${value}`);
  }
  if (Object.keys(unknown).length > 0) throw new Error(`unknown options: ${Object.keys(unknown).join(', ')}`);

  return {
    name: 'top-k',
    sampledPromptTokens: 0,
    bytesFor: () => 0, // nothing beside the KV cache
    open(sequence) {
      const { selector } = new TopKSelector({ sequence, begin: sink, keys });
      const meter = new AttentionMeter('top-k', { ...config, sampledLayers: config.layers - 1 });
      // In a step, the sequence's length includes the step's own token.
      const end = () => sequence.length - window;
      return {
        bytes: 0,
        ready: true, // there are no tables to bring up to date
        prepare() {},
        sampling: (layer) => (layer === 0 || end() <= sink ? null : { selector, begin: sink, end: end() }),
        afterDecode: (context, keysRead) => meter.add(context, Math.max(end() - sink, 0), keysRead),
        report: () => meter.report(),
        [Symbol.dispose]() {},
      };
    },
  };
}
