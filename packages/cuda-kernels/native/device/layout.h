// Index arithmetic shared by the tensor-core kernels. Everything here is __host__ __device__ and checked over whole grids on
// the CPU (test/layout_test.cc).
//
// Warp-level matrix fragments, as the PTX ISA lays them out ("Matrix Fragments for mma.m16n8k16", "...m16n8k32"): lane l
// belongs to group l / 4 and is member l % 4 of it. Accumulators hold (row, column) = (group + 8 * (i / 2), 2 * member + i % 2).
#ifndef MAGICPIG_DEVICE_LAYOUT_H_
#define MAGICPIG_DEVICE_LAYOUT_H_

#include <cuda_runtime.h>

#include <cstdint>

namespace magicpig {

constexpr int kChunkBytes = 16;  // one vector load, one row of an 8x8 matrix of 16-bit elements

// ---- Accumulators, and A operands loaded from memory without ldmatrix -------------------------------------------------

__host__ __device__ constexpr int fragment_row(int lane, int i) { return lane / 4 + 8 * (i / 2); }
__host__ __device__ constexpr int fragment_column(int lane, int i) { return 2 * (lane % 4) + i % 2; }

// ---- Shared memory tiles and ldmatrix ---------------------------------------------------------------------------------

// A tile is rows of `chunks` 16-byte chunks, `chunks` a multiple of 8. Chunk c of row r is stored at place c ^ (r % 8) of its
// row: eight rows read at one chunk (ldmatrix), and eight chunks read along one row, both touch all 32 banks once.
// Returns the index of the chunk in the tile.
__host__ __device__ constexpr int swizzled_chunk(int row, int chunk, int chunks) {
  return row * chunks + (chunk ^ (row & 7));
}

// swizzled_chunk(row, chunk + 2 d, chunks), chunk 0 or 1, out of swizzled_chunk(row, chunk, chunks): one operation where d is known.
__host__ __device__ constexpr int further_chunks(int swizzled, int d) { return swizzled ^ (2 * d); }

// Where the lanes of ldmatrix.x4 point for a 16x16 block of 16-bit elements (two chunks wide).
// (a) so that the four results are the A operand of m16n8k16, the block holding A [16 rows][16 k]; with .trans, so that they
//     are (b0, b1) of two adjacent 8-column B operands, the block holding B [16 k][16 columns].
__host__ __device__ constexpr int a_block_row(int lane) { return lane & 15; }
__host__ __device__ constexpr int a_block_chunk(int lane) { return lane >> 4; }
// (b) so that they are (b0, b1) of two adjacent 8-column B operands, the block holding B transposed [16 columns][16 k].
__host__ __device__ constexpr int b_block_row(int lane) { return (lane & 7) | ((lane & 16) >> 1); }
__host__ __device__ constexpr int b_block_chunk(int lane) { return (lane >> 3) & 1; }

// ---- Packed query rows of grouped-query attention ---------------------------------------------------------------------

// The query heads that share a KV head are packed as rows: row r is head r % group of query r / group.
__host__ __device__ constexpr int packed_query(int row, int group) { return row / group; }
__host__ __device__ constexpr int packed_head(int row, int group) { return row % group; }

// Keys visible to the query at absolute position `query`, of `keys` keys the first of which is at position `first_key`:
// a prefix of them, by causality.
__host__ __device__ constexpr int visible_keys(int64_t query, int64_t first_key, int keys) {
  const int64_t visible = query - first_key + 1;
  return visible <= 0 ? 0 : visible < keys ? static_cast<int>(visible) : keys;
}

// ---- Stretches of keys in decode attention ----------------------------------------------------------------------------

// Splits sit at fixed multiples of `split` keys, so that a row's sums do not depend on what else is in the batch.
__host__ __device__ constexpr int split_count(int keys, int split) { return (keys + split - 1) / split; }
__host__ __device__ constexpr int split_end(int index, int split, int keys) {
  return (index + 1) * split < keys ? (index + 1) * split : keys;
}

}  // namespace magicpig

#endif  // MAGICPIG_DEVICE_LAYOUT_H_
