// Key sketches: a few bits a dimension that estimate every key's score, so that keys can be drawn with probabilities that follow the
// softmax. The estimator is that of RaBitQ and extended RaBitQ (Gao and Long 2024; Gao et al. 2025); draws are Poisson sampling. The
// same integers and the same draws as @magicpig/lsh's KeySketch, bit for bit: everything is integers, or floats that are rounded after
// each operation (these files are compiled without contraction).
//
// Encoding. k - centre is rounded to integers of norm 11,500 and rotated (hadamard.h: one block of three rotations) to y. Coordinate i
// becomes v_i = 2 u_i - (2^b - 1), u_i = clamp(floor(y_i / step) + 2^(b-1), 0, 2^b - 1): a symmetric mid-rise grid. Of four steps the
// one with the largest cosine between v and y is taken. With it goes factor = |k - centre|^2 / <k - centre, v>, both in the rotated
// frame, as a bfloat16: factor <v, R q> estimates <k - centre, q> without bias.
//
// Scores. A query is rotated likewise and multiplied by a gain, then rounded to integers q whose magnitudes add up to at most 255 in
// each span of 64 coordinates (24, 24 and 16 from 3 bits on). D = (<v, q> - 1 or 0) / 2 of a key fits in 16 bits; factors become 16-bit
// integers F relative to the largest exponent E among them; S = the tempered score in quarters of a nat, by two rounding products of 16
// bits: mulhrs(mulhrs(D << lift, F), G), mulhrs(a, b) = (a b + 2^14) >> 15.
//
// Draws. From a histogram of the depths M - S below the largest score follows tau, and with it a threshold on 16 random bits for each of 64
// levels, level l standing for depth base + l: pi = min(1, tau (e^(-depth / 4) + floor)), rounded to five leading bits. The random bits are
// half i % 8 of Philox({i / 8, head, step, 3}, seed): query heads of one KV head share them, so that they read fewer different keys, and
// nothing depends on the order of threads.
#ifndef MAGICPIG_KERNELS_SKETCH_H_
#define MAGICPIG_KERNELS_SKETCH_H_

#include "hadamard.h"

namespace magicpig {

constexpr int kMaxSketchBits = 4;
// Keys that are stored together, and that one block of threads scans or collects.
constexpr int kSketchPage = 1024;

struct SketchShape {
  int dim;       // at most 256
  int bits;      // 1..4 a dimension
  int kv_heads;
  int group;     // query heads kv_head * group .. + group - 1 share a KV head
};
constexpr bool sketch_fits(const SketchShape& shape) {
  return shape.dim > 0 && shape.dim <= kMaxHashDim && shape.bits >= 1 && shape.bits <= kMaxSketchBits && shape.kv_heads >= 1 &&
         shape.kv_heads <= 65535 && shape.group >= 1 && static_cast<int64_t>(shape.kv_heads) * shape.group <= 65535;
}

// 32-bit words of one key's levels.
__host__ __device__ constexpr int sketch_words(int size, int bits) { return size / 32 * bits; }

// Sketches in pages of 1,024 keys: key i of sequence s is key i % 1024 of page pages[s][i / 1024].
struct SketchView {
  uint32_t* codes;       // [page][kv_heads][kSketchPage][sketch_words]: fields of levels, sketch_math.h
  uint16_t* factors;     // [page][kv_heads][kSketchPage] bfloat16 bits
  const int32_t* pages;  // [sequences][pages_stride], or null: page s * pages_stride + i / 1024
  int pages_stride;

  __host__ __device__ int64_t page(int sequence, int index) const {
    const int64_t at = static_cast<int64_t>(sequence) * pages_stride + index;
    return pages != nullptr ? pages[at] : at;
  }
};

// flips [3][size / 32] u32 of the rotation.
cudaError_t sketch_flips(cudaStream_t stream, uint32_t* flips, int dim, uint64_t seed);

struct SketchKeys {
  int sequence, first_key, rows;     // rows become keys first_key .. of that sequence, in each KV head
  int64_t row_stride, head_stride;   // elements of x between rows, and between KV heads
};
// Encodes x [rows][kv_heads][dim] f32 (or bf16: x_bf16), relative to centres [kv_heads][dim] f32 or, when null, as they are. A key that is
// its centre gets factor 0: it scores as the centre does. So does one that is not finite or longer than 2^60, counted in rejected [1] i32
// (added; may be null).
cudaError_t sketch_encode(cudaStream_t stream, const SketchView& view, int32_t* rejected, const void* x, bool x_bf16, const float* centres,
                          const uint32_t* flips, const SketchShape& shape, const SketchKeys& keys);

// How many keys to read: a count, a share of the keys, or as many as bring the relative standard error of the sum of all weights down to
// `value`, at least the share `least` and at most the share `most`.
struct SketchBudget {
  enum Kind : int { kCount, kShare, kError };
  int kind;
  double value, least, most;
};

struct SketchDraw {
  int sequences, max_keys;  // of each sequence, not more than max_keys take part
  int room;                 // ids that a query head's row of samples can take
  int64_t q_stride;         // elements of q between sequences
  SketchBudget budget;
  double floor_share;       // the floor in units of the mean weight, about 0.02
  double scale;             // scores are scale q.k
  uint32_t first_head;      // of the layer: layer * kv_heads
  uint64_t seed;
};

// 32-bit words of one query head's row of samples: the number of keys drawn as i32 (-1: the query is not finite or longer than 2^60;
// more than `room`: the last are missing), the estimated relative standard error of the sum of e^score over all keys as f32, `room` ids
// as u32 of which the drawn ones ascend, and `room` f32, the logarithms of the probabilities they were drawn with.
__host__ __device__ constexpr int64_t sketch_sample_words(int room) { return 2 + 2 * static_cast<int64_t>(room); }
constexpr int kSketchCountWord = 0, kSketchErrorWord = 1, kSketchIdsWord = 2;

// Bytes of the workspace of sketch_draw.
size_t sketch_draw_workspace(const SketchShape& shape, int sequences, int max_keys);

// Draws keys for every query head of one layer and step of many sequences: samples [sequences][kv_heads * group][sketch_sample_words],
// in one piece for one transfer. q [sequences][kv_heads * group][dim] f32; keys [sequences] i32: the first so many of each sequence take
// part; steps [sequences] u32: the position of the query's token. Centres do not matter: they shift all scores of a query alike.
cudaError_t sketch_draw(cudaStream_t stream, uint32_t* samples, void* workspace, const SketchView& view, const float* q,
                        const uint32_t* flips, const int32_t* keys, const uint32_t* steps, const SketchShape& shape,
                        const SketchDraw& draw);

}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_SKETCH_H_
