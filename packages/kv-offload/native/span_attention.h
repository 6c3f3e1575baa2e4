// Exact attention of a few query heads over a span of adjacent tokens: a tile of scores at a time, an online softmax, and a
// weighted sum.
#ifndef MAGICPIG_KV_SPAN_ATTENTION_H_
#define MAGICPIG_KV_SPAN_ATTENTION_H_

#include <cstdint>

#include "kernels.h"
#include "row_block.h"
#include "softmax.h"

namespace magicpig::kv {

// Bytes between the prefetch of a line into the second cache and its use, measured: the rows of a page lie one behind the
// other, token by token and head by head, so that what is ahead in memory is what is read next. At least half a tile and more,
// because a tile's keys are read before the values between them.
MAGICPIG_INLINE uint32_t AheadInSpan(uint32_t row_bytes) {
  constexpr uint32_t kBytes = 24576, kRows = 96;
  return row_bytes * kRows > kBytes ? row_bytes * kRows : kBytes;
}
// Rows of a tile whose lines ahead are prefetched during the softmax, which reads none: its share of the time.
inline constexpr uint32_t kRowsInSoftmax = 12;
inline constexpr int kMaxGroup = 4;  // query heads that share one pass over the rows

template <class Core, int G>
MAGICPIG_INLINE void ExtendHeads(const HeadRows& rows, const RowBlock& tile, const ReadNext& after, const void* queries,
                                 float* states) {
  const uint32_t dim = rows.dim, stride = StateSize(dim), ahead = AheadInSpan(rows.row_bytes);
  alignas(64) float scores[G * kTileKeys + Core::V::kLanes];
  Core::template Scores<G>(tile.keys, tile.n, queries, dim, scores,
                           [&](uint32_t j) { return after.Ahead(tile.Row(j), ahead); });
  uint32_t row = tile.n;
  float scale[G];
  for (int g = 0; g < G; ++g) {
    float* state = states + g * stride;
    for (uint32_t i = 0; i < kRowsInSoftmax / G; ++i) PrefetchRow(after.Ahead(tile.Row(row++), ahead), rows.row_bytes);
    scale[g] = Softmax<typename Core::V>(scores + g * kTileKeys, tile.n, kTileKeys, StateMax(state, dim),
                                         StateSum(state, dim));
  }
  Core::template Accumulate<G>(tile.values, tile.n, scores, dim, scale, states, stride,
                               [&](uint32_t j) { return after.Ahead(tile.Row(row + j), ahead); });
}

template <class Core>
void ExtendSpan(const HeadRows& rows, uint32_t begin, uint32_t end, const ReadNext& after, const void* queries,
                uint32_t count, float* states) {
  const uint32_t query_bytes = Core::QueryBytes(rows.dim), stride = StateSize(rows.dim);
  RowBlock tile;
  for (uint32_t token = begin; token < end; token += tile.n) {
    const uint32_t next = (token / kTileKeys + 1) * kTileKeys;
    tile.n = (next < end ? next : end) - token;
    for (uint32_t j = 0; j < tile.n; ++j) tile.Set(j, rows, token + j);
    for (uint32_t done = 0; done < count;) {
      const auto* query = static_cast<const uint8_t*>(queries) + done * query_bytes;
      float* state = states + done * stride;
      switch (count - done) {
        case 1: ExtendHeads<Core, 1>(rows, tile, after, query, state); break;
        case 2: ExtendHeads<Core, 2>(rows, tile, after, query, state); break;
        case 3: ExtendHeads<Core, 3>(rows, tile, after, query, state); break;
        default: ExtendHeads<Core, 4>(rows, tile, after, query, state); break;
      }
      done += count - done < kMaxGroup ? count - done : kMaxGroup;
    }
  }
}

template <class Core>
void ScoreSpan(const HeadRows& rows, uint32_t begin, uint32_t end, const void* prepared, float* scores) {
  const uint32_t ahead = AheadInSpan(rows.row_bytes);
  for (uint32_t token = begin; token < end; token += kTileKeys) {
    const uint8_t* keys[kTileKeys];
    const uint32_t n = end - token < kTileKeys ? end - token : kTileKeys;
    for (uint32_t j = 0; j < n; ++j) keys[j] = rows.Key(token + j);
    Core::template Scores<1>(keys, n, prepared, rows.dim, scores + (token - begin),
                             [&](uint32_t j) { return keys[j < n ? j : n - 1] + ahead; });
  }
}

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_SPAN_ATTENTION_H_
