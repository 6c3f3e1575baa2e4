// The attention kernels behind run-time dispatch: one table of functions for each instruction set and element type.
// None of them allocates or throws.
#ifndef MAGICPIG_KV_KERNELS_H_
#define MAGICPIG_KV_KERNELS_H_

#include <cstddef>
#include <cstdint>

#include "isa.h"
#include "magicpig/selector.h"

// Functions that source files with different instruction sets share are forced inline, so that the linker cannot pick
// the copy that the present CPU does not run.
#define MAGICPIG_INLINE inline __attribute__((always_inline))

namespace magicpig::kv {

// Element types of stored rows. kInt8: signed bytes, and behind them one float32 by which they are multiplied.
enum class Dtype : uint32_t { kBf16, kF16, kF32, kInt8 };

// Keys a tile. Tiles start at multiples of it, so that sums do not depend on where a chunk or a page begins.
inline constexpr uint32_t kTileKeys = 64;

// Elements of a row as the kernels hold it in registers: whole vectors of every instruction set.
constexpr MAGICPIG_INLINE uint32_t PaddedDim(uint32_t dim) { return (dim + 31) / 32 * 32; }

// A partial softmax of one query head, unnormalised: `o` (PaddedDim(dim)) = sum e^{s_i - max} v_i, then max, then
// sum = sum e^{s_i - max}, then unused floats up to a multiple of 64 bytes.
constexpr MAGICPIG_INLINE uint32_t StateSize(uint32_t dim) { return PaddedDim(dim) + 16; }
MAGICPIG_INLINE float& StateMax(float* state, uint32_t dim) { return state[PaddedDim(dim)]; }
MAGICPIG_INLINE float& StateSum(float* state, uint32_t dim) { return state[PaddedDim(dim) + 1]; }

// Where the rows of one KV head of one layer of one sequence lie. A token's key and value are adjacent: a sampled token is then
// one place of memory and not two.
struct HeadRows {
  const uint8_t* const* pages;  // (pages of the sequence)
  size_t offset;                // bytes from a page's start to the head's rows (page_tokens, 2): key, value
  uint32_t page_shift;          // log2 of page_tokens
  uint32_t row_bytes;
  uint32_t dim;

  MAGICPIG_INLINE const uint8_t* Key(uint32_t token) const {
    const size_t in_page = token & ((1u << page_shift) - 1);
    return pages[token >> page_shift] + offset + in_page * 2 * row_bytes;
  }
  MAGICPIG_INLINE const uint8_t* Value(uint32_t token) const { return Key(token) + row_bytes; }
  // Behind the rows of the tokens before `end`.
  const uint8_t* End(uint32_t end) const { return Key(end - 1) + 2 * row_bytes; }
};

// What is read behind `end`, the end of rows that lie in one piece: what lies at `next`. For prefetches only.
struct ReadNext {
  const uint8_t* end;
  const uint8_t* next;

  // The address `bytes` ahead of `row` in the order of reading.
  MAGICPIG_INLINE const uint8_t* Ahead(const uint8_t* row, uint32_t bytes) const {
    const size_t beyond = reinterpret_cast<uintptr_t>(row) + bytes - reinterpret_cast<uintptr_t>(end);
    return beyond < bytes ? next + beyond : row + bytes;
  }
};

// Tile of query rows for ExtendTile: row r belongs to position first + r / group.
struct QueryTile {
  const void* queries;  // (rows), prepared
  uint32_t rows;
  uint32_t group;
  uint32_t first;
};

struct Kernels {
  // Bytes of one prepared query.
  uint32_t (*query_bytes)(uint32_t dim);
  // Bytes of working memory that extend_tile needs.
  size_t (*tile_bytes)(uint32_t dim);

  // float32 row (dim) to a stored row, rounding to nearest even, and back.
  void (*store_row)(const float* row, uint32_t dim, uint8_t* stored);
  void (*load_row)(const uint8_t* stored, uint32_t dim, float* row);

  // query (dim) * scale in the form that the other functions read. Queries are prepared one behind the other.
  void (*prepare_query)(const float* query, float scale, uint32_t dim, void* prepared);

  // scores[j] = prepared query . key of token begin + j, for tokens [begin, end); scores has room for 16 more.
  void (*score_span)(const HeadRows& rows, uint32_t begin, uint32_t end, const void* prepared, float* scores);

  // Extends the states of `count` query heads by the tokens [begin, end), exactly.
  void (*extend_span)(const HeadRows& rows, uint32_t begin, uint32_t end, const ReadNext& after, const void* queries,
                      uint32_t count, float* states);

  // Extends one query head's state by selected tokens, ids relative to `first`, corrected as the selection says. `next` is
  // what the next call will read of the same rows, or nullptr.
  // query (dim) is the raw query and scale the factor it was prepared with. `scores` receives s_i - log u_i and `corrections`
  // -log u_i; both have room for count + 64 floats, or both are nullptr.
  void (*extend_selection)(const HeadRows& rows, uint32_t first, const magicpig_selection& selection,
                           const magicpig_selection* next, const void* prepared, const float* query, float scale,
                           float* scores, float* corrections, float* state);

  // sum_i w_i^2 (1 - u_i) |v_i - mean|^2 over the selected keys, w_i = e^{s_i - log u_i - max}, from what extend_selection
  // left: the variance of the weighted sum when keys are included independently.
  float (*selection_variance)(const HeadRows& rows, uint32_t first, const magicpig_selection& selection,
                              const float* scores, const float* corrections, float max, const float* mean);

  // Extends the states of a tile of queries by the tokens [begin, end) that lie at or before each query's position.
  // begin is a multiple of kTileKeys.
  void (*extend_tile)(const HeadRows& rows, uint32_t begin, uint32_t end, const QueryTile& tile, float* states,
                      void* scratch);
};

const Kernels& KernelsFor(Isa isa, Dtype dtype);

inline constexpr uint32_t RowBytes(Dtype dtype, uint32_t dim) {
  switch (dtype) {
    case Dtype::kF32: return 4 * dim;
    case Dtype::kInt8: return dim + 4;
    default: return 2 * dim;
  }
}

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_KERNELS_H_
