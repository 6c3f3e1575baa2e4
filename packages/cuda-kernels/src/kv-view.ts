import type { DeviceArray } from './device-array.js';
import { InvalidArgumentError } from './errors.js';
import type { Address } from './native.js';
import type { Stream } from './stream.js';
import { checkArray, checkMultiple, checkOptional } from './validate.js';

/** Tokens of a page of keys and values. */
export const PAGE_TOKENS = 64;

/**
 * Where attention finds keys and values: bf16 rows of headDim values in pages of 64 tokens. Token t of a sequence is row t % 64
 * of page pages[t / 64], or of page t / 64 without `pages` (one contiguous run). Strides count elements.
 */
export interface KvView {
  k: DeviceArray<'bf16'>;
  v: DeviceArray<'bf16'>;
  /** Page numbers, i32, [pages] or for decoding [sequences, pagesStride]. Those used must exist in k and v: they are on the device and cannot be checked. */
  pages?: DeviceArray<'i32'>;
  /** From one page to the next. */
  pageStride: number;
  /** From one token of a page to the next. */
  tokenStride: number;
  /** From one KV head to the next. */
  headStride: number;
}

/** A view of keys and values [tokens, kvHeads, headDim], tokens in order, or in pages [page, 64, kvHeads, headDim] when `pages` is given. */
export function kvView(
  k: DeviceArray<'bf16'>,
  v: DeviceArray<'bf16'>,
  shape: { kvHeads: number; headDim: number; pages?: DeviceArray<'i32'> },
): KvView {
  const row = shape.kvHeads * shape.headDim;
  return { k, v, pages: shape.pages, pageStride: PAGE_TOKENS * row, tokenStride: row, headStride: shape.headDim };
}

/** @internal Checks that a contiguous view holds `tokens` tokens, and returns the arguments of the kernels. */
export function checkKv(
  stream: Stream,
  kv: KvView,
  tokens: number,
  shape: { kvHeads: number; headDim: number; pages: number; base: number },
): [Address, Address, Address, number, number, number] {
  for (const name of ['pageStride', 'tokenStride', 'headStride'] as const) {
    checkMultiple(`kv.${name}`, kv[name], 8, 8, Number.MAX_SAFE_INTEGER);
  }
  const last = tokens - 1;
  const rowEnd = (kvHeads: number, offset: number) => offset + (kvHeads - 1) * kv.headStride + shape.headDim;
  const needed =
    tokens === 0
      ? 0
      : kv.pages !== undefined
        ? rowEnd(shape.kvHeads, Math.min(last, PAGE_TOKENS - 1) * kv.tokenStride)
        : rowEnd(
            shape.kvHeads,
            shape.base +
              Math.max(
                Math.floor(last / PAGE_TOKENS) * kv.pageStride + (last % PAGE_TOKENS) * kv.tokenStride,
                last >= PAGE_TOKENS
                  ? (Math.floor(last / PAGE_TOKENS) - 1) * kv.pageStride + (PAGE_TOKENS - 1) * kv.tokenStride
                  : 0,
              ),
          );
  if (kv.k.length !== kv.v.length) {
    throw new InvalidArgumentError(
      `kv.k holds ${kv.k.length} elements and kv.v ${kv.v.length}; they must hold as many.`,
    );
  }
  const k = checkArray(stream, 'kv.k', kv.k, 'bf16', needed);
  const v = checkArray(stream, 'kv.v', kv.v, 'bf16', needed);
  const pages = checkOptional(stream, 'kv.pages', kv.pages, 'i32', shape.pages);
  return [k, v, pages, kv.pageStride, kv.tokenStride, kv.headStride];
}
