import type { DeviceArray } from '../device-array.js';
import { checkKv, type KvView, PAGE_TOKENS } from '../kv-view.js';
import type { Stream } from '../stream.js';
import { checkArray, checkFinite, checkInteger, checkMultiple, checkOptional, checkWorkspace } from '../validate.js';
import { checkHeads, type Heads } from './heads.js';

/** Keys that one block attends to, unless told otherwise. */
const DEFAULT_SPLIT = 512;

/** Sizes of {@link attentionDecode} that its workspace depends on. */
export interface DecodeSizes extends Heads {
  sequences: number;
  /** Bound on every sequence's length; the grid is made for it, so that lengths may change between replays of a graph. */
  maxKeys: number;
  /** Keys a block takes, a multiple of 64; default 512. Results depend on it in their last bits, and on nothing else. */
  split?: number;
}

function checkSizes(sizes: DecodeSizes) {
  return {
    ...checkHeads(sizes),
    sequences: checkInteger('sequences', sizes.sequences, 0, 65535),
    maxKeys: checkInteger('maxKeys', sizes.maxKeys, 0, 2 ** 30),
    split: checkMultiple('split', sizes.split ?? DEFAULT_SPLIT, PAGE_TOKENS, PAGE_TOKENS, 2 ** 30),
  };
}

/** Bytes of the workspace that {@link attentionDecode} needs for partial results; 0 when one split covers maxKeys. */
export function attentionDecodeWorkspace(stream: Stream, sizes: DecodeSizes): number {
  const { sequences, queryHeads, headDim, maxKeys, split } = checkSizes(sizes);
  return stream.device.native.attentionDecodeWorkspace(sequences, queryHeads, headDim, maxKeys, split);
}

/**
 * Exact attention of one query for each of many sequences, split along the keys (Flash-Decoding): static tokens and dense layers.
 * A sequence without keys gets zeros, and -Infinity as its log-sum-exp.
 *
 * @param args.out [sequences, queryHeads, headDim] bf16 or f32
 * @param args.q [sequences, queryHeads, headDim] bf16, rotated
 * @param args.kv keys and values; with pages, [sequences, pagesStride] of them
 * @param args.pagesStride pages a sequence has room for; default ceil(maxKeys / 64)
 * @param args.sequenceStride without pages: elements from one sequence's keys to the next's; default maxKeys * tokenStride
 * @param args.lengths [sequences] i32: keys of each sequence
 * @param args.gaps [sequences, 2] i32, optional: keys gaps[s][0] up to, not including, gaps[s][1] are left out
 * @param args.workspace {@link attentionDecodeWorkspace} bytes, not shared with work on other streams
 * @param args.logSumExp [sequences, queryHeads] f32, optional
 * @param args.scale default 1 / sqrt(headDim)
 */
export function attentionDecode(
  stream: Stream,
  args: DecodeSizes & {
    out: DeviceArray<'bf16'> | DeviceArray<'f32'>;
    q: DeviceArray<'bf16'>;
    kv: KvView;
    lengths: DeviceArray<'i32'>;
    gaps?: DeviceArray<'i32'>;
    pagesStride?: number;
    sequenceStride?: number;
    workspace?: DeviceArray<'u8'>;
    logSumExp?: DeviceArray<'f32'>;
    scale?: number;
  },
): void {
  const { queryHeads, kvHeads, headDim, sequences, maxKeys, split } = checkSizes(args);
  const mostPages = Math.ceil(maxKeys / PAGE_TOKENS);
  const pagesStride = checkInteger(
    'pagesStride',
    args.pagesStride ?? mostPages,
    args.kv.pages === undefined ? 0 : mostPages,
  );
  const sequenceStride = checkMultiple(
    'sequenceStride',
    args.sequenceStride ?? maxKeys * args.kv.tokenStride,
    8,
    0,
    Number.MAX_SAFE_INTEGER,
  );
  const scale = checkFinite('scale', args.scale ?? 1 / Math.sqrt(headDim));
  const elements = sequences * queryHeads * headDim;
  const out = checkArray(stream, 'out', args.out, ['bf16', 'f32'], elements);
  const q = checkArray(stream, 'q', args.q, 'bf16', elements);
  const lengths = checkArray(stream, 'lengths', args.lengths, 'i32', sequences);
  const gaps = checkOptional(stream, 'gaps', args.gaps, 'i32', 2 * sequences);
  const lse = checkOptional(stream, 'logSumExp', args.logSumExp, 'f32', sequences * queryHeads);
  const bytes = stream.device.native.attentionDecodeWorkspace(sequences, queryHeads, headDim, maxKeys, split);
  const workspace = checkWorkspace(stream, args.workspace, bytes);
  const kv = checkKv(stream, args.kv, sequences === 0 ? 0 : maxKeys, {
    kvHeads,
    headDim,
    pages: sequences * pagesStride,
    base: Math.max(0, sequences - 1) * sequenceStride,
  });
  const [f32, bf16] = args.out.dtype === 'f32' ? [out, 0] : [0, out];
  stream.run('attentionDecode', (native, queue) =>
    native.attentionDecode(
      queue,
      f32,
      bf16,
      lse,
      workspace,
      q,
      ...kv,
      lengths,
      gaps,
      sequences,
      queryHeads,
      kvHeads,
      headDim,
      pagesStride,
      sequenceStride,
      maxKeys,
      split,
      scale,
    ),
  );
}
