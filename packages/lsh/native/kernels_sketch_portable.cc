// The specification of the sketch kernels.
#include "sketch_lanes.h"

namespace magicpig::lsh {
namespace {

void Scan(const uint8_t* codes, const uint16_t* factors, size_t blocks, uint32_t bits, size_t size, const SketchQuery* queries,
          size_t count, float* scores, size_t stride, float* largest) {
  const size_t groups = size / 8;
  for (size_t block = 0; block < blocks; ++block, codes += bits * groups * kSketchKeys) {
    for (size_t query = 0; query < count; ++query) {
      uint32_t sums[kSketchKeys] = {};
      for (uint32_t plane = 0; plane < bits; ++plane) {
        for (size_t key = 0; key < kSketchKeys; ++key) sums[key] *= 2;
        for (size_t group = 0; group < groups; ++group) {
          const uint8_t* byte = codes + (plane * groups + group) * kSketchKeys;
          const uint8_t* table = queries[query].tables + group / 8 * kSketchTableBytes + group % 8 * 32;
          for (size_t key = 0; key < kSketchKeys; ++key) sums[key] += table[byte[key] & 15] + table[16 + (byte[key] >> 4)];
        }
      }
      float* out = scores + query * stride + block * kSketchKeys;
      for (size_t key = 0; key < kSketchKeys; ++key) {
        const float dot = static_cast<float>(2 * sums[key]) - queries[query].shift;
        out[key] = dot * FactorOf(factors[block * kSketchKeys + key]);
        largest[query] = out[key] > largest[query] ? out[key] : largest[query];
      }
    }
  }
}

size_t Draw(const float* scores, const float* uniforms, size_t n, const SketchDraw& draw, uint32_t first, uint32_t* ids,
            float* thresholds) {
  size_t count = 0;
  for (size_t i = 0; i < n; ++i) {
    const float threshold = SketchThreshold(scores[i], draw);
    ids[count] = first + static_cast<uint32_t>(i);
    thresholds[count] = threshold;
    count += uniforms[i] < threshold;
  }
  return count;
}

}  // namespace

const SketchKernels kPortableSketchKernels = {"portable",   SketchRotate,    SketchEncode, NibbleTables, Scan,
                                              SketchUniforms, SketchHistogram, Draw,         SketchLogs};

}  // namespace magicpig::lsh
