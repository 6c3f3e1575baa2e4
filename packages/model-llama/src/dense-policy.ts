import type { AttentionPolicy } from './attention-policy.js';

/** Exact attention: every key is read. */
export function densePolicy(): AttentionPolicy {
  return {
    name: 'dense',
    sampledPromptTokens: 0,
    bytesFor: () => 0,
    open() {
      let decodeSteps = 0;
      return {
        bytes: 0,
        ready: true,
        prepare() {},
        sampling: () => null,
        afterDecode() {
          decodeSteps += 1;
        },
        report: () => ({
          policy: 'dense',
          decodeSteps,
          sampledSteps: 0,
          exactTokens: 0,
          sampledShare: 0,
          keysReadShare: 1,
        }),
        [Symbol.dispose]() {},
      };
    },
  };
}
