// What the kernels of a draw from key sketches hand to one another.
#ifndef MAGICPIG_KERNELS_SKETCH_WORKSPACE_H_
#define MAGICPIG_KERNELS_SKETCH_WORKSPACE_H_

#include "../device/launch.h"
#include "sketch_math.h"

namespace magicpig {

// A prepared query head.
struct SketchQuery {
  int32_t usable;    // 0: the query is not finite, or too long
  int32_t offset;    // D = <u, q> + offset
  int32_t lift, exponent, gain;
  uint32_t largest;  // 0, then largest S + 32,769
  double inflation;  // noise_inflation
};

// How keys of each level are drawn.
struct SketchLevels {
  int32_t top;                    // level = top - S, within 0 .. 63
  uint32_t threshold[kSketchLevels];  // drawn when the 16 random bits lie below
  float log[kSketchLevels];       // of the probability
};

// Keys of each sequence that take part: never more than the workspace has room for.
struct SketchLengths {
  const int32_t* keys;
  int max_keys;
  __device__ int operator[](int sequence) const { return keys[sequence] < max_keys ? keys[sequence] : max_keys; }
};

struct SketchWorkspace {
  int16_t* scores;      // [heads][max_pages][kSketchPage]
  uint8_t* mask;        // [heads][max_pages][kSketchPage / 8]: bit i % 8 of byte i / 8 for key i
  uint32_t* counts;     // [heads][max_pages] drawn
  uint32_t* histograms; // [heads][kHistogramWords]
  SketchQuery* queries; // [heads]
  SketchLevels* levels; // [heads]
  int8_t* q8;           // [heads][size]
  int max_pages;        // heads: of all sequences
  size_t bytes;

  SketchWorkspace(void* base, const SketchShape& shape, int sequences, int max_keys)
      : max_pages(static_cast<int>(ceil_div(max_keys, kSketchPage))) {
    constexpr size_t kAlignment = 256;
    const size_t heads = static_cast<size_t>(sequences) * static_cast<size_t>(shape.kv_heads) * static_cast<size_t>(shape.group);
    const size_t pages = heads * static_cast<size_t>(max_pages);
    size_t at = 0;
    const auto take = [&](auto*& pointer, size_t count) {
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(static_cast<char*>(base) + at);
      at += (count * sizeof(*pointer) + kAlignment - 1) / kAlignment * kAlignment;
    };
    take(scores, pages * kSketchPage);
    take(mask, pages * kSketchPage / 8);
    take(counts, pages);
    take(histograms, heads * kHistogramWords);
    take(queries, heads);
    take(levels, heads);
    take(q8, heads * static_cast<size_t>(hadamard_size(shape.dim)));
    bytes = at;
  }
};

// The two halves of sketch_draw: queries and scores, and from these the samples.
cudaError_t sketch_scan(cudaStream_t stream, const SketchWorkspace& space, const SketchView& view, const float* q, const uint32_t* flips,
                        const int32_t* keys, const SketchShape& shape, const SketchDraw& draw);
cudaError_t sketch_sample(cudaStream_t stream, uint32_t* samples, const SketchWorkspace& space, const int32_t* keys, const uint32_t* steps,
                          const SketchShape& shape, const SketchDraw& draw);

}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_SKETCH_WORKSPACE_H_
