// The rows of some tokens of one KV head.
#ifndef MAGICPIG_KV_ROW_BLOCK_H_
#define MAGICPIG_KV_ROW_BLOCK_H_

#include <cstdint>

#include "kernels.h"

namespace magicpig::kv {

// Kernels prefetch the rows of a later block with the rows that they use, line by line and evenly over all that they do: the few
// lines that may be on their way at once limit what is read, and a burst leaves memory idle afterwards.
struct RowBlock {
  const uint8_t* keys[kTileKeys];
  const uint8_t* values[kTileKeys];
  uint32_t n = 0;  // at least 1 when rows are asked for

  MAGICPIG_INLINE void Set(uint32_t i, const HeadRows& rows, uint32_t token) {
    keys[i] = rows.Key(token);
    values[i] = keys[i] + rows.row_bytes;
  }
  // Row i of the 2 n rows in the order of memory; the last ones again beyond.
  MAGICPIG_INLINE const uint8_t* Row(uint32_t i) const {
    const uint32_t token = i / 2 < n ? i / 2 : n - 1;
    return i % 2 == 0 ? keys[token] : values[token];
  }
};

// Always inlined: GCC takes a function of prefetches alone for one without effects, and drops the call.
MAGICPIG_INLINE void PrefetchRow(const uint8_t* row, uint32_t row_bytes) {
  for (uint32_t i = 0; i < row_bytes; i += 64) __builtin_prefetch(row + i, 0, 2);
}

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_ROW_BLOCK_H_
