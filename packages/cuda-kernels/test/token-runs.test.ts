// Which tokens sequences have in common, beside the tokens themselves.
import { expect, it } from 'vitest';
import { TokenRuns } from '../src/cuda-backend/token-runs.js';
import { randoms } from './randoms.js';

it('sequences have in common what they were forked with and neither has forgotten', () => {
  const { uniform } = randoms(5);
  const below = (n: number) => Math.floor(uniform() * n);
  let next = 0;
  const sequences = [{ runs: new TokenRuns(), tokens: [] as number[] }];
  let shared = 0;
  for (let turn = 0; turn < 2000; turn += 1) {
    const one = sequences[below(sequences.length)]!;
    const what = below(4);
    if (what === 0 && sequences.length < 12) {
      sequences.push({ runs: one.runs.fork(), tokens: [...one.tokens] });
    } else if (what === 1) {
      const length = below(one.tokens.length + 1);
      one.tokens.length = length;
      one.runs.cut(length);
    } else {
      for (let i = below(5); i >= 0; i -= 1) one.tokens.push(next++);
      one.runs.grow(one.tokens.length);
    }
    const other = sequences[below(sequences.length)]!;
    let same = 0;
    while (same < one.tokens.length && one.tokens[same] === other.tokens[same]) same += 1;
    expect(one.runs.common(other.runs), `turn ${turn}`).toBe(same);
    if (one !== other) shared += same;
  }
  expect(shared).toBeGreaterThan(0);
});
