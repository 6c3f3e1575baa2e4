import type { DeviceArray } from '../device-array.js';
import { checkKv, type KvView, PAGE_TOKENS } from '../kv-view.js';
import type { Stream } from '../stream.js';
import { checkArray, checkFinite, checkInteger, checkOptional } from '../validate.js';
import { checkHeads, type Heads } from './heads.js';

/**
 * Exact causal attention of many queries of one sequence, in one pass that never stores scores (FlashAttention-2):
 * out = softmax(scale q k^T) v over the keys at positions up to each query's own.
 *
 * Long contexts may be attended a stretch of keys at a time: the partial results merge by {@link mergeAttention}.
 *
 * @param args.out [queries, queryHeads, headDim] bf16 or f32
 * @param args.q [queries, queryHeads, headDim] bf16, rotated
 * @param args.kv where the keys and values are
 * @param args.keys tokens of `kv` that may be seen
 * @param args.logSumExp [queries, queryHeads] f32, optional: log of the softmax's denominator; -Infinity for a query that sees no
 *   key, whose output is zeros
 * @param args.queryPosition absolute position of the first query; default keys - queries (the queries are the last tokens)
 * @param args.keyPosition absolute position of the first key; default 0
 * @param args.scale default 1 / sqrt(headDim)
 */
export function attentionPrefill(
  stream: Stream,
  args: Heads & {
    out: DeviceArray<'bf16'> | DeviceArray<'f32'>;
    q: DeviceArray<'bf16'>;
    kv: KvView;
    queries: number;
    keys: number;
    logSumExp?: DeviceArray<'f32'>;
    queryPosition?: number;
    keyPosition?: number;
    scale?: number;
  },
): void {
  const { queryHeads, kvHeads, headDim } = checkHeads(args);
  const queries = checkInteger('queries', args.queries, 0);
  const keys = checkInteger('keys', args.keys, 0);
  const keyPosition = checkInteger('keyPosition', args.keyPosition ?? 0, 0, Number.MAX_SAFE_INTEGER);
  const queryPosition = checkInteger(
    'queryPosition',
    args.queryPosition ?? keyPosition + keys - queries,
    0,
    Number.MAX_SAFE_INTEGER,
  );
  const scale = checkFinite('scale', args.scale ?? 1 / Math.sqrt(headDim));
  const elements = queries * queryHeads * headDim;
  const out = checkArray(stream, 'out', args.out, ['bf16', 'f32'], elements);
  const q = checkArray(stream, 'q', args.q, 'bf16', elements);
  const lse = checkOptional(stream, 'logSumExp', args.logSumExp, 'f32', queries * queryHeads);
  const kv = checkKv(stream, args.kv, keys, { kvHeads, headDim, pages: Math.ceil(keys / PAGE_TOKENS), base: 0 });
  const [f32, bf16] = args.out.dtype === 'f32' ? [out, 0] : [0, out];
  stream.run('attentionPrefill', (native, queue) =>
    native.attentionPrefill(
      queue,
      f32,
      bf16,
      lse,
      q,
      ...kv,
      queries,
      keys,
      queryHeads,
      kvHeads,
      headDim,
      queryPosition,
      keyPosition,
      scale,
    ),
  );
}
