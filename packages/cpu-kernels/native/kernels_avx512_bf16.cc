// Kernels for AVX-512 with BF16 and VNNI: as AVX-512, but pairs of bfloat16 (vdpbf16ps) and fours of bytes (vpdpbusd) are
// multiplied directly, on Zen 4 pairs at twice the rate of float32.
#include "vnni_avx512.h"

namespace magicpig::cpu {
namespace {

// [cols / 2][rows][2] bfloat16.
void PackPairs(const float* x, size_t stride, int rows, size_t cols, const float* norm, float epsilon, float* scratch,
               void* tile) {
  const PreparedRows<V16> prepared(x, stride, rows, cols, norm, epsilon, scratch);
  uint32_t* out = static_cast<uint32_t*>(tile);
  for (int r = 0; r < rows; ++r) {
    for (size_t k = 0; k < cols; k += 16) {
      const size_t count = cols - k < 16 ? cols - k : 16;
      const V16 values = count == 16 ? V16::Load(prepared.rows[r] + k) : V16::LoadPart(prepared.rows[r] + k, count);
      alignas(32) uint32_t pairs[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(pairs), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values.v)));
      for (size_t i = 0; i < count / 2; ++i) out[(k / 2 + i) * rows + r] = pairs[i];
    }
  }
}

template <int kRows>
void MultiplyPairs(const uint32_t* tile, const PanelPart& part, float* sums) {
  constexpr int kVectors = kPanel / V16::kLanes;
  ForOutputs<V16, kRows, kVectors>(part, sums, [&](V16(&acc)[kRows][kVectors], size_t) {
    const uint32_t* x = tile;
    const uint16_t* w = reinterpret_cast<const uint16_t*>(part.panel) + part.first * kPanel;
    for (size_t k = 0; k < part.count; k += 2, x += kRows, w += 2 * kPanel) {
      const __m512bh w0 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(w));
      const __m512bh w1 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(w + kPanel));
      for (int r = 0; r < kRows; ++r) {
        const __m512bh input = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(x[r])));
        acc[r][0].v = _mm512_dpbf16_ps(acc[r][0].v, w0, input);
        acc[r][1].v = _mm512_dpbf16_ps(acc[r][1].v, w1, input);
      }
    }
  });
}

void MultiplyPairs(const std::byte* tile, int rows, const PanelPart& part, float* sums) {
  WithRows<V16::kRows>(
      rows, [&]<int kRows>() { MultiplyPairs<kRows>(reinterpret_cast<const uint32_t*>(tile), part, sums); });
}

uint64_t PeakPairs(size_t iterations) {
  constexpr int kSums = 12;
  V16 sums[kSums];
  for (V16& sum : sums) sum = V16::Broadcast(1);
  const __m512bh halves = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3f003f00));
  for (size_t i = 0; i < iterations; ++i) {
    for (V16& sum : sums) sum = V16::Opaque({_mm512_dpbf16_ps(sum.v, halves, halves)});
  }
  return iterations * kSums * V16::kLanes * 4;
}

constexpr Kernels MakeBf16Kernels() {
  Kernels kernels = MakeKernels<V16, QVnni>();
  kernels.inputs[static_cast<int>(InputFormat::kBf16)] = {V16::kRows, 32 * sizeof(uint16_t), PackPairs, PeakPairs};
  kernels.multiply[static_cast<int>(PanelFormat::kBf16)] = MultiplyPairs;
  return kernels;
}

}  // namespace

constinit const Kernels kAvx512Bf16Kernels = MakeBf16Kernels();

}  // namespace magicpig::cpu
