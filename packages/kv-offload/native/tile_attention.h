// Exact attention of a tile of queries (flash style): matrix products of packed tiles around the online softmax.
#ifndef MAGICPIG_KV_TILE_ATTENTION_H_
#define MAGICPIG_KV_TILE_ATTENTION_H_

#include <cstdint>

#include "kernels.h"
#include "softmax.h"

namespace magicpig::kv {

// c[r][..] = c[r][..] * scale[r] + a[r] . b for R rows and N vectors of columns; a (R, steps) words, b (steps, b_stride).
template <class Core, int R, int N>
MAGICPIG_INLINE void MultiplyBlock(const uint8_t* a, uint32_t a_bytes, const float* b, uint32_t b_stride,
                                   uint32_t steps, const float* scale, float* c, uint32_t c_stride) {
  using V = typename Core::V;
  using F = typename V::F;
  F sum[R][N];
  for (int r = 0; r < R; ++r) {
    for (int k = 0; k < N; ++k) {
      sum[r][k] = scale == nullptr ? V::Zero()
                                   : V::Mul(V::Load(c + r * c_stride + k * V::kLanes), V::Set1(scale[r]));
    }
  }
  for (uint32_t i = 0; i < steps; ++i) {
    F column[N];
    for (int k = 0; k < N; ++k) column[k] = Core::LoadPacked(b + i * b_stride + k * V::kLanes);
    for (int r = 0; r < R; ++r) {
      const F x = Core::Broadcast(a + r * a_bytes + 4 * i);
      for (int k = 0; k < N; ++k) sum[r][k] = Core::Multiply(x, column[k], sum[r][k]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int k = 0; k < N; ++k) V::Store(c + r * c_stride + k * V::kLanes, sum[r][k]);
  }
}

template <class Core, int R>
MAGICPIG_INLINE void MultiplyRows(const uint8_t* a, uint32_t a_bytes, const float* b, uint32_t columns, uint32_t steps,
                                  const float* scale, float* c, uint32_t c_stride) {
  constexpr uint32_t kVectors = Core::V::kTileVectors, kLanes = Core::V::kLanes;
  uint32_t i = 0;
  for (; i + kVectors * kLanes <= columns; i += kVectors * kLanes) {
    MultiplyBlock<Core, R, kVectors>(a, a_bytes, b + i, columns, steps, scale, c + i, c_stride);
  }
  for (; i < columns; i += kLanes) {
    MultiplyBlock<Core, R, 1>(a, a_bytes, b + i, columns, steps, scale, c + i, c_stride);
  }
}

// R query rows against one packed tile of keys and values.
template <class Core, int R>
void TileRows(const QueryTile& tile, uint32_t row, uint32_t token, uint32_t n, const float* keys, const float* values,
              uint32_t dim, float* states) {
  using V = typename Core::V;
  alignas(64) float scores[R * kTileKeys];
  alignas(64) uint8_t weights[R * Core::kWeightBytes];
  const uint32_t query_bytes = Core::QueryBytes(dim), stride = StateSize(dim);
  float* state = states + row * stride;
  MultiplyRows<Core, R>(static_cast<const uint8_t*>(tile.queries) + row * query_bytes, query_bytes, keys, kTileKeys,
                        Core::KeySteps(dim), nullptr, scores, kTileKeys);
  float scale[R];
  for (int r = 0; r < R; ++r) {
    const uint32_t seen = tile.first + (row + r) / tile.group + 1 - token;  // keys of this tile up to the query itself
    scale[r] = Softmax<V>(scores + r * kTileKeys, seen < n ? seen : n, kTileKeys, StateMax(state + r * stride, dim),
                          StateSum(state + r * stride, dim));
    Core::PackWeights(scores + r * kTileKeys, weights + r * Core::kWeightBytes);
  }
  MultiplyRows<Core, R>(weights, Core::kWeightBytes, values, PaddedDim(dim), Core::kValueSteps, scale, state, stride);
}

template <class Core, int R = Core::V::kTileRows>
void TileRowsUpTo(uint32_t count, const QueryTile& tile, uint32_t row, uint32_t token, uint32_t n, const float* keys,
                  const float* values, uint32_t dim, float* states) {
  if (count >= R) {
    TileRows<Core, R>(tile, row, token, n, keys, values, dim, states);
  } else if constexpr (R > 1) {
    TileRowsUpTo<Core, R - 1>(count, tile, row, token, n, keys, values, dim, states);
  }
}

template <class Core>
size_t TileBytes(uint32_t dim) {
  return 2 * sizeof(float) * kTileKeys * PaddedDim(dim) / Core::kPack;
}

template <class Core>
void ExtendTile(const HeadRows& rows, uint32_t begin, uint32_t end, const QueryTile& tile, float* states,
                void* scratch) {
  const uint32_t dim = rows.dim;
  auto* packed_keys = static_cast<float*>(scratch);
  float* packed_values = packed_keys + kTileKeys * PaddedDim(dim) / Core::kPack;
  const uint8_t* keys[kTileKeys];
  const uint8_t* values[kTileKeys];
  for (uint32_t token = begin; token < end; token += kTileKeys) {
    // Rows whose position lies before this tile see none of it.
    const uint32_t row = token > tile.first ? (token - tile.first) * tile.group : 0;
    if (row >= tile.rows) return;
    const uint32_t n = end - token < kTileKeys ? end - token : kTileKeys;
    for (uint32_t j = 0; j < n; ++j) {
      keys[j] = rows.Key(token + j);
      values[j] = rows.Value(token + j);
    }
    Core::PackKeys(keys, n, dim, packed_keys);
    Core::PackValues(values, n, dim, packed_values);
    for (uint32_t r = row; r < tile.rows; r += Core::V::kTileRows) {
      TileRowsUpTo<Core>(tile.rows - r, tile, r, token, n, packed_keys, packed_values, dim, states);
    }
  }
}

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_TILE_ATTENTION_H_
