// The machine's read bandwidth, against which the attention kernels are measured.
#ifndef MAGICPIG_KV_BANDWIDTH_H_
#define MAGICPIG_KV_BANDWIDTH_H_

#include <cstddef>

#include "magicpig/pool.h"

namespace magicpig::kv {

// Bytes a second of the fastest of `rounds` reads of `bytes` bytes by all threads of the pool, each reading its own
// contiguous share. Throws std::bad_alloc.
double MeasureReadBandwidth(const magicpig_pool& pool, size_t bytes, int rounds);

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_BANDWIDTH_H_
