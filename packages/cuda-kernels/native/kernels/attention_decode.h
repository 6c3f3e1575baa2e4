// Exact attention of one query a sequence over that sequence's keys, split along the keys (Flash-Decoding), and the merge of
// partial attention results.
#ifndef MAGICPIG_KERNELS_ATTENTION_DECODE_H_
#define MAGICPIG_KERNELS_ATTENTION_DECODE_H_

#include "attention_prefill.h"  // reference::attention_row

namespace magicpig {

struct DecodeShape {
  int sequences;
  int query_heads, kv_heads;  // query_heads is a multiple of kv_heads
  int head_dim;               // at most 128, a multiple of 8
  int pages_stride;           // of kv.pages; unused when that is null
  int64_t sequence_stride;    // elements between the views of two sequences when kv.pages is null
  int max_keys;               // bound on every length: sizes the grid, so that lengths may change between graph replays
  int split;                  // keys a block takes, a multiple of 64. Splits sit at fixed multiples of it.
  float scale;                // of the scores, 1 / sqrt(head_dim)
};

// Bytes of the workspace that attention_decode needs: none when one split covers max_keys.
size_t attention_decode_workspace(const DecodeShape& shape);

// out [sequences][query_heads][head_dim] = softmax(scale q k^T) v over keys 0 .. lengths[s] - 1 of sequence s; q as out, bf16;
// lengths [sequences] i32. Keys gaps[s][0] .. gaps[s][1] - 1, gaps [sequences][2] i32, are left out; null leaves out none. Written as float32, or as bf16 when out_f32 is null; lse [sequences][query_heads] f32 as for
// attention_prefill, may be null. A sequence without keys gets zeros and -infinity. A row's result depends only on its own
// keys and on `split`.
cudaError_t attention_decode(cudaStream_t stream, float* out_f32, bf16* out_bf16, float* lse, void* workspace, const bf16* q,
                             const KvView& kv, const int32_t* lengths, const int32_t* gaps, const DecodeShape& shape);

// Merges two softmax results over disjoint keys: a, b [rows][head_dim] f32 with lse_a, lse_b [rows]. out as float32, or as bf16
// when out_f32 is null (out_f32 may be a); lse [rows] may be null (or lse_a). head_dim is a multiple of 4.
cudaError_t merge_attention(cudaStream_t stream, float* out_f32, bf16* out_bf16, float* lse, const float* a, const float* lse_a,
                            const float* b, const float* lse_b, int rows, int head_dim);

}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_ATTENTION_DECODE_H_
