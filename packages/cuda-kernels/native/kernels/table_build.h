// SimHash tables from codes: a stable counting sort of each table, straight into the segment layout of @magicpig/lsh.
#ifndef MAGICPIG_KERNELS_TABLE_BUILD_H_
#define MAGICPIG_KERNELS_TABLE_BUILD_H_

#include <algorithm>
#include <numeric>
#include <vector>

#include "../device/bf16.h"

namespace magicpig {

// Keys of one segment at most: positions fit in 16 bits.
constexpr int kSegmentKeys = 65535;

// A segment is, for each table, the starts of its buckets and the ids sorted by bucket:
//   starts u16 [tables][2^bits + 1]   bucket b of table t holds ids[t][starts[t][b] .. starts[t][b + 1])
//   ids    u16 [tables][keys]         relative to the segment's first key, ascending within a bucket
__host__ __device__ constexpr int64_t segment_starts(int table, int bits) { return static_cast<int64_t>(table) * ((1 << bits) + 1); }
__host__ __device__ constexpr int64_t segment_ids(int table, int keys) { return static_cast<int64_t>(table) * keys; }

// Codes of up to this many bits are sorted in one pass, wider ones by their low and then by their high bits.
constexpr int kOnePassBits = 11;
constexpr int kTwoPassLowBits = 8;

// Bytes of the workspace that table_build needs: none for one pass.
size_t table_build_workspace(int keys, int bits, int tables);

// starts and ids as above from codes [tables][keys] u16 (table_stride elements from one table to the next), all below 2^bits.
// keys is 1..65535, bits 1..16. `tables` may count the tables of several heads, one after the other.
cudaError_t table_build(cudaStream_t stream, uint16_t* starts, uint16_t* ids, void* workspace, const uint16_t* codes, int keys,
                        int bits, int tables, int64_t table_stride);

namespace reference {

inline void table_build(uint16_t* starts, uint16_t* ids, const uint16_t* codes, int keys, int bits) {
  std::vector<int> order(keys);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return codes[a] < codes[b]; });
  for (int i = 0; i < keys; ++i) ids[i] = static_cast<uint16_t>(order[i]);
  for (int bucket = 0, at = 0; bucket <= 1 << bits; ++bucket) {
    while (at < keys && codes[order[at]] < bucket) ++at;
    starts[bucket] = static_cast<uint16_t>(at);
  }
}

}  // namespace reference
}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_TABLE_BUILD_H_
