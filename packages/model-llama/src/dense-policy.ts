import { AttentionMeter } from './attention-meter.js';
import type { AttentionPolicy } from './attention-policy.js';

/** Exact attention: every key is read. */
export function densePolicy(): AttentionPolicy {
  return {
    name: 'dense',
    sampledPromptTokens: 0,
    bytesFor: () => 0,
    open() {
      const meter = new AttentionMeter('dense', { layers: 1, queryHeads: 1, sampledLayers: 0 });
      return {
        bytes: 0,
        ready: true,
        prepare() {},
        sampling: () => null,
        afterDecode: (context) => meter.add(context, 0, 0),
        report: () => meter.report(),
        [Symbol.dispose]() {},
      };
    },
  };
}
