// Where the attention kernels find keys and values in device memory.
#ifndef MAGICPIG_KERNELS_KV_VIEW_H_
#define MAGICPIG_KERNELS_KV_VIEW_H_

#include "../device/bf16.h"

namespace magicpig {

constexpr int kPageTokens = 64;  // also the number of keys that the kernels take at a time

// bf16 rows of head_dim values in pages of 64 tokens: token t of a sequence is row t % 64 of page pages[t / 64] (page t / 64
// when pages is null: one contiguous run). Strides count elements and are multiples of 8; k and v are 16-byte aligned.
//   contiguous [tokens][kv_heads][head_dim]: page 64 kv_heads head_dim, token kv_heads head_dim, head head_dim
//   contiguous [kv_heads][tokens][head_dim]: page 64 head_dim, token head_dim, head tokens head_dim
struct KvView {
  const bf16* k;
  const bf16* v;
  const int32_t* pages;  // [sequences][pages_stride], or null
  int64_t page_stride, token_stride, head_stride;

  // Element offset of a token's row; `table` is the sequence's row of pages.
  __host__ __device__ int64_t row(const int32_t* table, int token, int kv_head) const {
    const int page = token / kPageTokens;
    return (table != nullptr ? table[page] : page) * page_stride + token % kPageTokens * token_stride + kv_head * head_stride;
  }
};

}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_KV_VIEW_H_
