// Exact causal attention for many queries of one sequence (FlashAttention-2, Dao 2023): scores never reach memory.
#ifndef MAGICPIG_KERNELS_ATTENTION_PREFILL_H_
#define MAGICPIG_KERNELS_ATTENTION_PREFILL_H_

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../device/layout.h"
#include "kv_view.h"

namespace magicpig {

struct PrefillShape {
  int queries, keys;             // rows of q; tokens of the view that may be seen
  int query_heads, kv_heads;     // query_heads is a multiple of kv_heads
  int head_dim;                  // at most 128, a multiple of 8
  int64_t query_position;        // absolute position of q's first row
  int64_t key_position;          // absolute position of the view's first token; query p sees the keys at positions <= p
  float scale;                   // of the scores, 1 / sqrt(head_dim)
};

// out [queries][query_heads][head_dim] = softmax(scale q k^T) v over the visible keys; q [queries][query_heads][head_dim] bf16.
// Written as float32, or as bf16 when out_f32 is null. lse [queries][query_heads] f32, may be null: the logarithm of the
// softmax's denominator (of the scaled scores), by which partial results merge (merge_attention). A query that sees no key
// gets zeros and -infinity.
cudaError_t attention_prefill(cudaStream_t stream, float* out_f32, bf16* out_bf16, float* lse, const bf16* q, const KvView& kv,
                              const PrefillShape& shape);

namespace reference {

// One query row over `keys` keys, of which key j is k + offsets[j], v + offsets[j].
inline double attention_row(double* out, const bf16* q, const bf16* k, const bf16* v, const int64_t* offsets, int keys, int head_dim,
                            double scale) {
  std::vector<double> scores(keys);
  double largest = -std::numeric_limits<double>::infinity();
  for (int j = 0; j < keys; ++j) {
    double score = 0;
    for (int i = 0; i < head_dim; ++i) score += static_cast<double>(to_float(q[i])) * to_float(k[offsets[j] + i]);
    scores[j] = score * scale;
    largest = std::max(largest, scores[j]);
  }
  for (int i = 0; i < head_dim; ++i) out[i] = 0;
  double sum = 0;
  for (int j = 0; j < keys; ++j) {
    const double weight = std::exp(scores[j] - largest);
    sum += weight;
    for (int i = 0; i < head_dim; ++i) out[i] += weight * to_float(v[offsets[j] + i]);
  }
  if (keys > 0) {
    for (int i = 0; i < head_dim; ++i) out[i] /= sum;
  }
  return largest + std::log(sum);  // -infinity without keys
}

}  // namespace reference
}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_ATTENTION_PREFILL_H_
