// The specification of the sketch kernels.
#include "sketch_lanes.h"

namespace magicpig::lsh {
namespace {

void Scan(const uint8_t* codes, size_t blocks, uint32_t bits, size_t size, const uint8_t* tables, size_t count, uint16_t* sums,
          size_t stride) {
  const size_t groups = size / 8, units = size / kSketchUnit;
  for (size_t block = 0; block < blocks; ++block, codes += bits * groups * kSketchKeys) {
    for (size_t query = 0; query < count; ++query) {
      uint16_t* out = sums + query * stride + block * kSketchKeys;
      for (size_t key = 0; key < kSketchKeys; ++key) out[key] = 0;
      for (uint32_t plane = 0; plane < bits; ++plane) {
        for (size_t key = 0; key < kSketchKeys; ++key) out[key] = static_cast<uint16_t>(out[key] * 2);
        for (size_t group = 0; group < groups; ++group) {
          const uint8_t* byte = codes + (plane * groups + group) * kSketchKeys;
          const uint8_t* table = tables + (query * units + group / 8) * kSketchTableBytes + group % 8 * 32;
          for (size_t key = 0; key < kSketchKeys; ++key) {
            out[key] = static_cast<uint16_t>(out[key] + table[byte[key] & 15] + table[16 + (byte[key] >> 4)]);
          }
        }
      }
    }
  }
}

size_t Draw(const uint8_t* depths, int32_t offset, const uint8_t* ranks, size_t n, const SketchDraw& draw, uint32_t first, uint32_t* ids,
            float* logs) {
  size_t count = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t level = LevelOf(depths[i], offset);
    if (ranks[i] >= draw.ranks[level]) continue;
    ids[count] = first + static_cast<uint32_t>(i);
    logs[count++] = draw.logs[level];
  }
  return count;
}

}  // namespace

const SketchKernels kPortableSketchKernels = {"portable",          SketchRotate,    SketchEncode,   NibbleTables, Scan,
                                              SketchDepths<&Scan>, SketchHistogram, SketchCountTop, SketchRanks,  Draw};

}  // namespace magicpig::lsh
