// Attention of a step's queries over its sequences: cuts the work into tasks and merges the parts.
#ifndef MAGICPIG_KV_ATTENTION_H_
#define MAGICPIG_KV_ATTENTION_H_

#include <cstdint>
#include <vector>

#include "sampling.h"
#include "store.h"

namespace magicpig::kv {

struct AttendArgs {
  uint32_t layer;
  ConstRows queries;   // (rows, query_heads * dim)
  MutableRows output;  // (rows, query_heads * dim)
  const std::vector<Sampling>* sampling = nullptr;  // (entries), or nullptr when all are exact
  float* log_sum_exp = nullptr;                     // (rows, query_heads)
  float* standard_error = nullptr;                  // (rows, query_heads)
  double* keys_read = nullptr;                      // (rows), added to
  double* sampled_ms = nullptr;                     // (2) of all threads: selection, all of sampled attention; added to
};

// Throws std::bad_alloc before anything is computed.
Status Attend(const Step& step, const AttendArgs& args);

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_ATTENTION_H_
