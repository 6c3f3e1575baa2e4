#include "table_build.h"

#include "../device/warp.h"

namespace magicpig {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;

// Keys that one warp sorts: a run of whole groups of 32, so that the runs of the warps follow one another.
__host__ __device__ constexpr int run_length(int keys) {
  return static_cast<int>(ceil_div(ceil_div(keys, kWarps), kWarp) * kWarp);
}

// One stable counting sort of a block's keys by bits [shift, shift + bits) of their codes. Every warp owns a run of the keys and
// counters of its own, [kWarps][bins] in shared memory: it counts its run, the counts become the places where its keys of each
// bin begin (all bins in order, within a bin the warps in order), and it walks its run again, 32 keys at a time, placing equal
// digits in lane order. With `in` null the keys are 0, 1, 2, ...; `starts` gets the place where each bin begins, unless null.
__device__ void counting_sort(uint16_t* out, const uint16_t* in, uint16_t* starts, const uint16_t* codes, int keys, int shift, int bits,
                              uint32_t* counters, uint32_t* scratch) {
  const int bins = 1 << bits;
  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const int begin = warp * run_length(keys);
  const int end = begin + run_length(keys) < keys ? begin + run_length(keys) : keys;
  uint32_t* own = counters + warp * bins;
  const auto id_at = [&](int i) { return in != nullptr ? static_cast<int>(in[i]) : i; };
  const auto digit_of = [&](int id) { return static_cast<uint32_t>(codes[id]) >> shift & static_cast<uint32_t>(bins - 1); };

  for (int i = threadIdx.x; i < kWarps * bins; i += kThreads) counters[i] = 0;
  __syncthreads();
  for (int i = begin + lane; i < end; i += static_cast<int>(kWarp)) atomicAdd(own + digit_of(id_at(i)), 1u);
  __syncthreads();

  // Exclusive sum over (bin, warp): a thread takes neighbouring bins.
  const int per_thread = (bins + kThreads - 1) / kThreads;
  const int first_bin = static_cast<int>(threadIdx.x) * per_thread;
  const int last_bin = first_bin + per_thread < bins ? first_bin + per_thread : bins;
  uint32_t total = 0;
  for (int bin = first_bin; bin < last_bin; ++bin) {
    for (int w = 0; w < kWarps; ++w) total += counters[w * bins + bin];
  }
  uint32_t all;
  uint32_t place = block_prefix(total, scratch, all);
  for (int bin = first_bin; bin < last_bin; ++bin) {
    if (starts != nullptr) starts[bin] = static_cast<uint16_t>(place);
    for (int w = 0; w < kWarps; ++w) {
      const uint32_t count = counters[w * bins + bin];
      counters[w * bins + bin] = place;
      place += count;
    }
  }
  if (starts != nullptr && threadIdx.x == 0) starts[bins] = static_cast<uint16_t>(keys);
  __syncthreads();

  for (int i = begin + lane; i - lane < end; i += static_cast<int>(kWarp)) {
    const bool live = i < end;
    const int id = live ? id_at(i) : 0;
    const uint32_t digit = live ? digit_of(id) : 0xffffffffu;  // lanes past the end match each other only
    const uint32_t peers = __match_any_sync(kAllLanes, digit);
    const uint32_t before = peers & ((1u << lane) - 1u);
    const uint32_t base = live ? own[digit] : 0u;
    __syncwarp();  // all have read their counter
    if (live && before == 0) own[digit] = base + static_cast<uint32_t>(__popc(peers));
    __syncwarp();
    if (live) out[base + static_cast<uint32_t>(__popc(before))] = static_cast<uint16_t>(id);
  }
}

__global__ void __launch_bounds__(kThreads)
    table_build_kernel(uint16_t* starts, uint16_t* ids, uint16_t* half_sorted, const uint16_t* codes, int keys, int bits,
                       int64_t table_stride) {
  __shared__ uint32_t scratch[kWarps];
  uint32_t* counters = dynamic_shared<uint32_t>();
  const int table = static_cast<int>(blockIdx.x);
  codes += table * table_stride;
  starts += segment_starts(table, bits);
  ids += segment_ids(table, keys);
  if (bits <= kOnePassBits) {
    counting_sort(ids, nullptr, starts, codes, keys, 0, bits, counters, scratch);
    return;
  }
  half_sorted += segment_ids(table, keys);
  counting_sort(half_sorted, nullptr, nullptr, codes, keys, 0, kTwoPassLowBits, counters, scratch);
  __syncthreads();  // a block sees its own writes to global memory after a barrier
  counting_sort(ids, half_sorted, nullptr, codes, keys, kTwoPassLowBits, bits - kTwoPassLowBits, counters, scratch);
  __syncthreads();
  // Key at place i begins all buckets after its predecessor's up to its own; the end closes the rest.
  const int mask = (1 << bits) - 1;
  for (int i = threadIdx.x; i <= keys; i += kThreads) {
    const int after = i == 0 ? -1 : codes[ids[i - 1]] & mask;
    const int upto = i == keys ? 1 << bits : codes[ids[i]] & mask;
    for (int bucket = after + 1; bucket <= upto; ++bucket) starts[bucket] = static_cast<uint16_t>(i);
  }
}

}  // namespace

size_t table_build_workspace(int keys, int bits, int tables) {
  return bits <= kOnePassBits ? 0 : static_cast<size_t>(keys) * static_cast<size_t>(tables) * sizeof(uint16_t);
}

cudaError_t table_build(cudaStream_t stream, uint16_t* starts, uint16_t* ids, void* workspace, const uint16_t* codes, int keys,
                        int bits, int tables, int64_t table_stride) {
  if (keys < 1 || keys > kSegmentKeys || bits < 1 || bits > 16 || tables < 0 || (bits > kOnePassBits && workspace == nullptr)) {
    return cudaErrorInvalidValue;
  }
  const int bins = 1 << (bits <= kOnePassBits ? bits : std::max(kTwoPassLowBits, bits - kTwoPassLowBits));
  return launch(table_build_kernel, dim3(static_cast<unsigned>(tables)), dim3(kThreads), kWarps * static_cast<size_t>(bins) * 4, stream,
                starts, ids, static_cast<uint16_t*>(workspace), codes, keys, bits, table_stride);
}

}  // namespace magicpig
