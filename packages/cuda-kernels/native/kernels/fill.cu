#include "fill.h"

#include "../device/launch.h"

namespace magicpig {
namespace {

constexpr int kThreads = 256;

// One thread four values: one call of the generator. The radius is taken from a logarithm in float64: near u = 1 a float32
// could not tell the smallest radii apart.
__global__ void __launch_bounds__(kThreads)
    fill_kernel(float* out_f32, bf16* out_bf16, int64_t count, uint32_t key0, uint32_t key1, float mean, float deviation, int64_t first_block) {
  const int64_t local = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (local * 4 >= count) return;
  const int64_t block = first_block + local;
  const PhiloxWords words = philox({{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0u, 0u}}, key0, key1);
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    const NormalPair p = normal_pair(words.word[2 * pair], words.word[2 * pair + 1]);
    const float radius = static_cast<float>(sqrt(-2.0 * log(static_cast<double>(p.u))));
    const float signed_radius = p.negate ? -radius : radius;
    float sine, cosine;
    sincospif(p.eighths * 0.25f, &sine, &cosine);
    const float values[2] = {mean + deviation * (signed_radius * (p.swap ? sine : cosine)),
                             mean + deviation * (signed_radius * (p.swap ? -cosine : sine))};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t at = local * 4 + pair * 2 + i;
      if (at >= count) continue;
      if (out_f32 != nullptr) {
        out_f32[at] = values[i];
      } else {
        out_bf16[at] = to_bf16(values[i]);
      }
    }
  }
}

}  // namespace

cudaError_t fill_normal(cudaStream_t stream, float* out_f32, bf16* out_bf16, int64_t count, uint64_t seed, float mean, float deviation,
                        int64_t first) {
  if (count < 0 || first < 0 || first % 4 != 0 || (out_f32 == nullptr) == (out_bf16 == nullptr)) return cudaErrorInvalidValue;
  return launch(fill_kernel, dim3(static_cast<unsigned>(ceil_div(ceil_div(count, 4), kThreads))), dim3(kThreads), 0, stream, out_f32,
                out_bf16, count, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), mean, deviation, first / 4);
}

}  // namespace magicpig
