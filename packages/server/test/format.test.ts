import { expect, test } from 'vitest';
import { formatBytes } from '../src/format-bytes.js';
import { parseSize } from '../src/parse-size.js';
import { describeReport, type Report } from '../src/report.js';

test.each([
  ['4', 4 * 2 ** 30],
  ['0.5', 2 ** 29],
  ['512MB', 2 ** 29],
  ['512 MiB', 2 ** 29],
  ['2g', 2 ** 31],
  ['300000b', 300_000],
  ['1T', 2 ** 40],
])('the size %s', (text, bytes) => {
  expect(parseSize(text)).toBe(bytes);
});

test.each(['', 'lots', '-1', '0', '4 GHz', '1e3', 'GB'])('%j is no size', (text) => {
  expect(() => parseSize(text)).toThrow(RangeError);
});

test.each([
  [0, '0 B'],
  [1023, '1023 B'],
  [1536, '1.5 KiB'],
  [98_362_432, '93.8 MiB'],
  [200 * 2 ** 20, '200 MiB'],
  [2 ** 50, '1024 TiB'],
])('%d bytes read %s', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

test('a report in words', () => {
  const usage = {
    prompt_tokens: 6012,
    completion_tokens: 40,
    total_tokens: 6052,
    prompt_tokens_details: { cached_tokens: 0 },
  };
  const report: Report = {
    policy: 'magicpig',
    decodeSteps: 39,
    sampledSteps: 39,
    exactTokens: 99.6,
    sampledShare: 0.0213,
    keysReadShare: 0.114,
    queueMs: 0,
    prefillMs: 7000,
    decodeMs: 500,
    prefillTokensPerSecond: 858.9,
    decodeTokensPerSecond: 78.04,
    split: { denseMs: 400, attendMs: 80, indexMs: 10, otherMs: 10 },
  };
  const speeds = '6012 prompt tokens at 859 tok/s, 40 answered at 78.0 tok/s';
  expect(describeReport(report, usage)).toBe(
    `${speeds}, magicpig read 11.4% of the keys (2.1% of the sampled part, 100 tokens exactly)`,
  );
  expect(describeReport({ ...report, sampledSteps: 0 }, usage)).toBe(
    `${speeds}, magicpig (context too short to sample)`,
  );
  expect(describeReport({ ...report, policy: 'sketch', samplingError: 0.0418 }, usage)).toBe(
    `${speeds}, sketch read 11.4% of the keys (2.1% of the sampled part, 100 tokens exactly, estimated error 4.2%)`,
  );
  expect(describeReport({ ...report, policy: 'dense' }, usage)).toBe(`${speeds}, dense`);
  expect(describeReport(report, { ...usage, prompt_tokens_details: { cached_tokens: 5952 } })).toMatch(
    /^6012 prompt tokens \(5952 cached\) at 859 tok\/s, /,
  );
});
