// The kernels, written once over a vector type V that each instruction set provides (see kernels_portable.cc for the
// plainest one):
//   V::kLanes, V::kRows (most rows of a register tile), V::kRegisters (vector registers there are)
//   V::Load(p), V::LoadPart(p, n < kLanes, rest zero), V::Broadcast(x), v.Store(p), v.StorePart(p, n)
//   V::Add, V::Mul, V::Div, V::MulAdd(a, b, c) = a b + c, v.Sum()
//   V::Even(p), V::Odd(p): first and second elements of kLanes bfloat16 pairs
//   V::Exp(v), V::Abs(v), V::Max(a, b), v.Largest(), V::LoadHalves(p)
//   V::Opaque(v): the same value, but the compiler does not know that, and must compute it
#ifndef MAGICPIG_CPU_KERNELS_GENERIC_H_
#define MAGICPIG_CPU_KERNELS_GENERIC_H_

#include <math.h>

#include <cstddef>

#include "dequantize.h"
#include "kernels.h"
#include "random_normal.h"

namespace magicpig::cpu {
namespace {

// --- Activations -----------------------------------------------------------------------------------------------------

// out = x / sqrt(mean(x^2) + epsilon) * weight.
template <typename V>
void RmsNorm(const float* x, size_t cols, const float* weight, float epsilon, float* out) {
  constexpr size_t n = V::kLanes;
  V a = V::Broadcast(0), b = V::Broadcast(0);  // two sums: the additions of one would wait for each other
  size_t i = 0;
  for (; i + 2 * n <= cols; i += 2 * n) {
    const V u = V::Load(x + i), v = V::Load(x + i + n);
    a = V::MulAdd(u, u, a);
    b = V::MulAdd(v, v, b);
  }
  for (; i < cols; i += n) {
    const V u = i + n <= cols ? V::Load(x + i) : V::LoadPart(x + i, cols - i);
    a = V::MulAdd(u, u, a);
  }
  const V scale = V::Broadcast(1.0f / sqrtf(V::Add(a, b).Sum() / static_cast<float>(cols) + epsilon));
  for (i = 0; i + n <= cols; i += n) V::Mul(V::Mul(V::Load(x + i), scale), V::Load(weight + i)).Store(out + i);
  if (i < cols) {
    V::Mul(V::Mul(V::LoadPart(x + i, cols - i), scale), V::LoadPart(weight + i, cols - i)).StorePart(out + i, cols - i);
  }
}

// Rows of x as float32, normalised if asked: points into x or into scratch.
template <typename V>
struct PreparedRows {
  const float* rows[kMaxTileRows];

  PreparedRows(const float* x, size_t stride, int count, size_t cols, const float* norm, float epsilon, float* scratch) {
    for (int r = 0; r < count; ++r) {
      rows[r] = x + r * stride;
      if (norm) {
        RmsNorm<V>(rows[r], cols, norm, epsilon, scratch + r * cols);
        rows[r] = scratch + r * cols;
      }
    }
  }
};

template <typename V, bool kRound>
void PackFloat(const float* x, size_t stride, int rows, size_t cols, const float* norm, float epsilon, float* scratch,
               void* tile) {
  PreparedRows<V> prepared(x, stride, rows, cols, norm, epsilon, scratch);
  if (kRound) {
    for (int r = 0; r < rows; ++r) {
      float* rounded = scratch + r * cols;
      for (size_t k = 0; k < cols; ++k) rounded[k] = RoundToBf16(prepared.rows[r][k]);
      prepared.rows[r] = rounded;
    }
  }
  float* out = static_cast<float*>(tile);
  for (size_t k = 0; k < cols; ++k) {
    for (int r = 0; r < rows; ++r) *out++ = prepared.rows[r][k];
  }
}

// q = values * inverse, rounded to nearest even, for half a block; returns their sum. No product is larger than 127.
inline int32_t RoundToInt8(const float* values, float inverse, int8_t* q) {
  // Adding this to a number of at most 2^22 rounds it to an integer, which is then in the low bits.
  constexpr float kRound = 0x1.8p23f;
  int32_t total = 0;
  for (size_t i = 0; i < kQuantBlock / 2; ++i) {
    q[i] = static_cast<int8_t>(BitsOf(values[i] * inverse + kRound) - BitsOf(kRound));
    total += q[i];
  }
  return total;
}

// Four activations for processors that multiply 16-bit integers: even (first and third) and odd ones as pairs.
struct PairInput {
  int16_t even[2], odd[2];
};

// The eight groups of a block of 32.
inline void MakePairInputs(const int8_t* q, PairInput* inputs) {
  int16_t both[16], even[16], odd[16];  // two little-endian bytes, the first, the second
  memcpy(both, q, sizeof both);
  for (int i = 0; i < 16; ++i) {
    even[i] = static_cast<int16_t>(static_cast<int16_t>(static_cast<uint16_t>(both[i]) << 8) >> 8);
    odd[i] = static_cast<int16_t>(both[i] >> 8);
  }
  for (int group = 0; group < 8; ++group) {
    memcpy(inputs[group].even, even + 2 * group, sizeof inputs[group].even);
    memcpy(inputs[group].odd, odd + 2 * group, sizeof inputs[group].odd);
  }
}

// Blocks of 32 activations as 8-bit integers.
template <typename Q>
void PackInt8(const float* x, size_t stride, int rows, size_t cols, const float* norm, float epsilon, float* scratch,
              void* tile) {
  using V = typename Q::V;
  // Smaller blocks count as zero: 127 / largest must not overflow.
  constexpr float kSmallest = 1e-30f;
  const PreparedRows<V> prepared(x, stride, rows, cols, norm, epsilon, scratch);
  std::byte* out = static_cast<std::byte*>(tile);
  for (size_t k = 0; k < cols; k += kQuantBlock) {
    auto* inputs = reinterpret_cast<typename Q::Input*>(out);
    out += 8 * rows * sizeof(typename Q::Input);
    auto* scales = reinterpret_cast<QuantScale*>(out);
    out += rows * sizeof(QuantScale);
    for (int r = 0; r < rows; ++r) {
      const float* values = prepared.rows[r] + k;
      V largest = V::Broadcast(0);
      for (size_t i = 0; i < kQuantBlock; i += V::kLanes) largest = V::Max(largest, V::Abs(V::Load(values + i)));
      const float most = largest.Largest();
      const bool empty = !(most > kSmallest);
      const float inverse = empty ? 0 : 127.0f / most;
      int8_t q[kQuantBlock];
      const int32_t first = Q::RoundToInt8(values, inverse, q);
      const int32_t last = Q::RoundToInt8(values + kQuantBlock / 2, inverse, q + kQuantBlock / 2);
      typename Q::Input groups[8];
      Q::MakeInputs(q, groups);
      for (int group = 0; group < 8; ++group) inputs[group * rows + r] = groups[group];
      const float scale = empty ? 0 : most / 127.0f;
      scales[r] = {scale, scale * static_cast<float>(first + last), {-first, -last}};
    }
  }
}

// --- Register tiles --------------------------------------------------------------------------------------------------

// Vectors of outputs that a tile of so many rows takes at a time: as many as the registers hold, with the weights and one input.
template <typename V>
constexpr int TileVectors(int rows) {
  int vectors = static_cast<int>(kPanel / V::kLanes);
  while (vectors > 1 && rows * vectors + vectors + 1 > V::kRegisters) vectors /= 2;
  return vectors;
}

// float32 weights.
template <typename V, int kRows>
void MultiplyF32(const float* tile, const PanelPart& part, float* sums) {
  const float* panel = reinterpret_cast<const float*>(part.panel) + part.first * kPanel;
  constexpr size_t n = V::kLanes;
  constexpr int vectors = TileVectors<V>(kRows);
  for (size_t first = 0; first < kPanel; first += n * vectors) {
    V acc[kRows][vectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        acc[r][v] = part.first > 0 ? V::Load(sums + r * kPanel + first + v * n) : V::Broadcast(0);
      }
    }
    const float* x = tile;
    const float* w = panel + first;
    for (size_t k = 0; k < part.count; ++k, x += kRows, w += kPanel) {
      V weights[vectors];
      for (int v = 0; v < vectors; ++v) weights[v] = V::Load(w + v * n);
      for (int r = 0; r < kRows; ++r) {
        const V input = V::Broadcast(x[r]);
        for (int v = 0; v < vectors; ++v) acc[r][v] = V::MulAdd(weights[v], input, acc[r][v]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) acc[r][v].Store(sums + r * kPanel + first + v * n);
    }
  }
}

// bfloat16 weights widened to float32, for processors that do not multiply bfloat16.
template <typename V, int kRows>
void MultiplyBf16(const float* tile, const PanelPart& part, float* sums) {
  const uint16_t* panel = reinterpret_cast<const uint16_t*>(part.panel) + part.first * kPanel;
  constexpr size_t n = V::kLanes;
  constexpr int vectors = TileVectors<V>(kRows);
  for (size_t first = 0; first < kPanel; first += n * vectors) {
    V acc[kRows][vectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        acc[r][v] = part.first > 0 ? V::Load(sums + r * kPanel + first + v * n) : V::Broadcast(0);
      }
    }
    const float* x = tile;
    const uint16_t* w = panel + 2 * first;
    for (size_t k = 0; k < part.count; k += 2, x += 2 * kRows, w += 2 * kPanel) {
      V weights[vectors];
      for (int v = 0; v < vectors; ++v) weights[v] = V::Even(w + 2 * v * n);
      for (int r = 0; r < kRows; ++r) {
        const V input = V::Broadcast(x[r]);
        for (int v = 0; v < vectors; ++v) acc[r][v] = V::MulAdd(weights[v], input, acc[r][v]);
      }
      for (int v = 0; v < vectors; ++v) weights[v] = V::Odd(w + 2 * v * n);
      for (int r = 0; r < kRows; ++r) {
        const V input = V::Broadcast(x[kRows + r]);
        for (int v = 0; v < vectors; ++v) acc[r][v] = V::MulAdd(weights[v], input, acc[r][v]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) acc[r][v].Store(sums + r * kPanel + first + v * n);
    }
  }
}

// Quantised weights. Q holds what integers take:
//   Q::V; Q::RoundToInt8 as above; Q::Input (four activations), Q::MakeInputs(q, inputs) (a block's eight); Q::Ints (as many int32 as V has lanes), Q::Splat(i), Q::ShiftLeft(i, n),
//   Q::ToFloat(i); Q::Bytes (V's lanes by four unsigned bytes), Q::Load(p), Q::LoadLow(p), Q::LoadHigh(p) (nibbles),
//   Q::LoadSix(nibbles, pairs, i): six bits, of group i of the four that share the pairs;
//   Q::Dot(i, bytes, input) = i + the dot product of four bytes and four inputs, exactly.
// Adds to the sums what the inputs of part kPart of kParts of a block make: a scale each.
template <typename Q, int kRows, PanelFormat kFormat, int kPart, int kParts, int kVectors>
inline void MultiplyBlockPart(const std::byte* block, const typename Q::Input* inputs, const QuantScale* scales,
                              typename Q::V (&acc)[kRows][kVectors]) {
  using V = typename Q::V;
  using Ints = typename Q::Ints;
  constexpr size_t n = V::kLanes;
  constexpr size_t kGroupBytes = 4 * kHalfPanel;
  constexpr bool kMin = kFormat == PanelFormat::kQ4Min;
  // What is subtracted from q, as a power of two: its product with the sum of the activations is known beforehand.
  constexpr int kOffsetBits = kFormat == PanelFormat::kQ8 ? 7 : kFormat == PanelFormat::kQ6 ? 5 : 3;
  Ints dots[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    const int32_t* totals = scales[r].negative_totals;
    const int32_t total = kMin ? 0 : kParts == 2 ? totals[kPart] : totals[0] + totals[1];
    for (int v = 0; v < kVectors; ++v) dots[r][v] = Q::ShiftLeft(Q::Splat(total), kOffsetBits);
  }
#pragma GCC unroll 8
  for (int group = 8 / kParts * kPart; group < 8 / kParts * (kPart + 1); ++group) {
    for (int v = 0; v < kVectors; ++v) {
      const std::byte* bytes = block + v * 4 * n + (kFormat == PanelFormat::kQ8 ? group : group / 2) * kGroupBytes;
      typename Q::Bytes weights;
      if constexpr (kFormat == PanelFormat::kQ8) {
        weights = Q::Load(bytes);
      } else if constexpr (kFormat == PanelFormat::kQ6) {
        weights = Q::LoadSix(bytes, block + v * 4 * n + (4 + kPart) * kGroupBytes, group % 4);
      } else {
        weights = group % 2 == 0 ? Q::LoadLow(bytes) : Q::LoadHigh(bytes);
      }
      for (int r = 0; r < kRows; ++r) dots[r][v] = Q::Dot(dots[r][v], weights, inputs[group * kRows + r]);
    }
  }
  constexpr size_t kScales = QuantBlockBytes(kFormat) - 2 * kHalfPanel * (kMin ? 2 : kParts);
  const auto* halves = reinterpret_cast<const uint16_t*>(block + kScales) + kPart * kHalfPanel;
  for (int v = 0; v < kVectors; ++v) {
    const V scale = V::LoadHalves(halves + v * n);
    for (int r = 0; r < kRows; ++r) {
      acc[r][v] = V::MulAdd(V::Mul(Q::ToFloat(dots[r][v]), scale), V::Broadcast(scales[r].scale), acc[r][v]);
    }
  }
  if constexpr (kMin) {
    for (int v = 0; v < kVectors; ++v) {
      const V min = V::LoadHalves(halves + kHalfPanel + v * n);
      for (int r = 0; r < kRows; ++r) acc[r][v] = V::MulAdd(min, V::Broadcast(scales[r].scaled_total), acc[r][v]);
    }
  }
}

template <typename Q, int kRows, PanelFormat kFormat>
void MultiplyQuantised(const std::byte* tile, const PanelPart& part, float* sums) {
  using V = typename Q::V;
  constexpr size_t n = V::kLanes;
  constexpr int vectors = kHalfPanel / n;
  for (size_t half = 0; half < 2; ++half) {
    float* const half_sums = sums + half * kHalfPanel;
    V acc[kRows][vectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        acc[r][v] = part.first > 0 ? V::Load(half_sums + r * kPanel + v * n) : V::Broadcast(0);
      }
    }
    const std::byte* x = tile;
    const std::byte* panel =
        part.panel + (half * part.cols + part.first) / kQuantBlock * QuantBlockBytes(kFormat);
    for (size_t k = 0; k < part.count; k += kQuantBlock) {
      const auto* inputs = reinterpret_cast<const typename Q::Input*>(x);
      x += 8 * kRows * sizeof(typename Q::Input);
      const auto* scales = reinterpret_cast<const QuantScale*>(x);
      x += kRows * sizeof(QuantScale);
      const auto multiply = [&]<int kPart, int kParts>() {
        MultiplyBlockPart<Q, kRows, kFormat, kPart, kParts>(panel, inputs, scales, acc);
      };
      if constexpr (kFormat == PanelFormat::kQ6) {
        multiply.template operator()<0, 2>();
        multiply.template operator()<1, 2>();
      } else {
        multiply.template operator()<0, 1>();
      }
      panel += QuantBlockBytes(kFormat);
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) acc[r][v].Store(half_sums + r * kPanel + v * n);
    }
  }
}

// Calls f.template operator()<rows>() with the run-time `rows` (1..kMost) as a constant.
template <int kMost, typename F>
inline void WithRows(int rows, F&& f) {
  if constexpr (kMost == 1) {
    f.template operator()<1>();
  } else {
    if (rows == kMost) {
      f.template operator()<kMost>();
    } else {
      WithRows<kMost - 1>(rows, f);
    }
  }
}

template <typename V>
void MultiplyF32(const std::byte* tile, int rows, const PanelPart& part, float* sums) {
  WithRows<V::kRows>(
      rows, [&]<int kRows>() { MultiplyF32<V, kRows>(reinterpret_cast<const float*>(tile), part, sums); });
}

template <typename V>
void MultiplyBf16(const std::byte* tile, int rows, const PanelPart& part, float* sums) {
  WithRows<V::kRows>(
      rows, [&]<int kRows>() { MultiplyBf16<V, kRows>(reinterpret_cast<const float*>(tile), part, sums); });
}

template <typename Q, PanelFormat kFormat>
void MultiplyQuantised(const std::byte* tile, int rows, const PanelPart& part, float* sums) {
  WithRows<Q::kRows>(rows, [&]<int kRows>() { MultiplyQuantised<Q, kRows, kFormat>(tile, part, sums); });
}

// --- Weights ---------------------------------------------------------------------------------------------------------

inline void PackPanelF32(const float* rows, size_t cols, void* panel) {
  float* out = static_cast<float*>(panel);
  for (size_t k = 0; k < cols; ++k) {
    for (size_t row = 0; row < kPanel; ++row) *out++ = rows[row * kMaxBlockValues + k];
  }
}

inline void PackPanelBf16(const float* rows, size_t cols, void* panel) {
  uint16_t* out = static_cast<uint16_t*>(panel);
  for (size_t k = 0; k < cols; k += 2) {
    for (size_t row = 0; row < kPanel; ++row) {
      *out++ = FloatToBf16(rows[row * kMaxBlockValues + k]);
      *out++ = FloatToBf16(rows[row * kMaxBlockValues + k + 1]);
    }
  }
}

// --- Element-wise ----------------------------------------------------------------------------------------------------

template <typename V>
void Swiglu(const float* sums, size_t count, float* out) {
  constexpr size_t n = V::kLanes;
  const V one = V::Broadcast(1);
  for (size_t i = 0; i < count; i += n) {
    const V gate = V::Load(sums + i);  // sums has kPanel elements: loads past count stay inside
    const V up = V::Load(sums + kPanel / 2 + i);
    const V silu = V::Div(gate, V::Add(one, V::Exp(V::Mul(gate, V::Broadcast(-1)))));
    if (i + n <= count) {
      V::Mul(silu, up).Store(out + i);
    } else {
      V::Mul(silu, up).StorePart(out + i, count - i);
    }
  }
}

inline void Rotate(float* row, const float* table, size_t heads, size_t head_dim) {
  const size_t half = head_dim / 2;
  const float* __restrict cosine = table;
  const float* __restrict sine = table + half;
  for (size_t head = 0; head < heads; ++head) {
    float* __restrict a = row + head * head_dim;
    float* __restrict b = a + half;
    for (size_t j = 0; j < half; ++j) {
      const float x = a[j], y = b[j];
      a[j] = x * cosine[j] - y * sine[j];
      b[j] = y * cosine[j] + x * sine[j];
    }
  }
}

// e^x to about one unit in the last place, for vector types with the integer operations it takes: e^x = 2^n e^r with
// n = round(x / ln 2), r in [-ln 2 / 2, ln 2 / 2] by a two-part ln 2, e^r by Cephes' polynomial (expf). The argument is kept
// where 2^n is a normal number: below it the result is close to float32's smallest, above it close to its largest.
template <typename V>
inline V ExpPolynomial(V x) {
  x = V::Min(V::Max(x, V::Broadcast(-87.0f)), V::Broadcast(88.0f));
  const V n = V::Round(V::Mul(x, V::Broadcast(1.44269504088896341f)));
  V r = V::MulAdd(n, V::Broadcast(-0.693359375f), x);
  r = V::MulAdd(n, V::Broadcast(2.12194440e-4f), r);
  V p = V::Broadcast(1.9875691500e-4f);
  p = V::MulAdd(p, r, V::Broadcast(1.3981999507e-3f));
  p = V::MulAdd(p, r, V::Broadcast(8.3334519073e-3f));
  p = V::MulAdd(p, r, V::Broadcast(4.1665795894e-2f));
  p = V::MulAdd(p, r, V::Broadcast(1.6666665459e-1f));
  p = V::MulAdd(p, r, V::Broadcast(5.0000001201e-1f));
  p = V::MulAdd(p, V::Mul(r, r), V::Add(r, V::Broadcast(1)));
  return V::ScaleByPowerOf2(p, n);
}

template <typename V>
double LogSumExp(const float* values, size_t count, size_t* largest) {
  constexpr size_t n = V::kLanes;
  const size_t whole = count / n * n;
  V most = V::Broadcast(values[0]);
  V check = V::Broadcast(0);  // not a number after a value that is not finite
  for (size_t i = 0; i < whole; i += n) {
    const V x = V::Load(values + i);
    most = V::Max(most, x);
    check = V::MulAdd(x, V::Broadcast(0), check);
  }
  float top = most.Largest(), rest = 0;
  for (size_t i = whole; i < count; ++i) {
    top = values[i] > top ? values[i] : top;
    rest += values[i] * 0.0f;
  }
  if (const float finite = check.Sum() + rest; finite != 0) return finite;
  *largest = 0;
  while (values[*largest] != top) ++*largest;

  // In float32 over a few vectors, whose rounding is that of the exponentials, and in float64 over those.
  constexpr size_t kTogether = 8 * n;
  double sum = 0;
  for (size_t first = 0; first < whole; first += kTogether) {
    V part = V::Broadcast(0);
    for (size_t i = first; i < first + kTogether && i < whole; i += n) {
      part = V::Add(part, V::Exp(V::Add(V::Load(values + i), V::Broadcast(-top))));
    }
    sum += part.Sum();
  }
  for (size_t i = whole; i < count; ++i) sum += exp(values[i] - top);
  return top + log(sum);
}

// --- Ceilings --------------------------------------------------------------------------------------------------------

template <typename V>
uint64_t PeakF32(size_t iterations) {
  constexpr int kSums = 10;  // enough to hide the latency, few enough for sixteen registers
  V sums[kSums];
  for (V& sum : sums) sum = V::Broadcast(1);
  const V a = V::Broadcast(0.5f), b = V::Broadcast(0.25f);
  for (size_t i = 0; i < iterations; ++i) {
    for (V& sum : sums) sum = V::Opaque(V::MulAdd(sum, a, b));
  }
  return iterations * kSums * V::kLanes * 2;
}

template <typename Q>
uint64_t PeakInt8(size_t iterations) {
  constexpr int kSums = 8;
  alignas(64) static constexpr std::byte kBytes[64] = {};
  const std::byte* unknown = kBytes;
  asm volatile("" : "+r"(unknown));
  const typename Q::Bytes bytes = Q::Load(unknown);
  typename Q::Ints sums[kSums];
  int8_t q[kQuantBlock];
  for (size_t i = 0; i < kQuantBlock; ++i) q[i] = static_cast<int8_t>(i);
  typename Q::Input inputs[kSums];
  Q::MakeInputs(q, inputs);
  for (auto& sum : sums) sum = Q::Splat(1);
  for (size_t i = 0; i < iterations; ++i) {
    const typename Q::Input* changing = inputs;
    asm volatile("" : "+r"(changing));  // may point anywhere now: no part of a product moves out of the loop
#pragma GCC unroll 8
    for (int j = 0; j < kSums; ++j) sums[j] = Q::Opaque(Q::Dot(sums[j], bytes, changing[j]));
  }
  return iterations * kSums * Q::V::kLanes * 4 * 2;
}

template <typename V>
void Read(const void* data, size_t bytes) {
  const float* p = static_cast<const float*>(data);
  constexpr size_t n = V::kLanes;
  // Nothing is computed: Opaque makes the compiler load each vector.
  for (const float* end = p + bytes / sizeof(float); p < end; p += 4 * n) {
    V::Opaque(V::Load(p));
    V::Opaque(V::Load(p + n));
    V::Opaque(V::Load(p + 2 * n));
    V::Opaque(V::Load(p + 3 * n));
  }
}

// The table of an instruction set whose vector type is V and whose integers are Q, without bfloat16 products.
template <typename V, typename Q>
constexpr Kernels MakeKernels() {
  return {
      {
          {V::kRows, 32 * sizeof(float), PackFloat<V, false>, PeakF32<V>},
          {V::kRows, 32 * sizeof(float), PackFloat<V, true>, PeakF32<V>},
          {Q::kRows, 8 * sizeof(typename Q::Input) + sizeof(QuantScale), PackInt8<Q>, PeakInt8<Q>},
      },
      {
          MultiplyF32<V>,
          MultiplyBf16<V>,
          MultiplyQuantised<Q, PanelFormat::kQ8>,
          MultiplyQuantised<Q, PanelFormat::kQ4>,
          MultiplyQuantised<Q, PanelFormat::kQ4Min>,
          MultiplyQuantised<Q, PanelFormat::kQ6>,
      },
      PackPanelF32,
      PackPanelBf16,
      DequantizeRow,
      RandomNormal,
      Swiglu<V>,
      LogSumExp<V>,
      Rotate,
      Read<V>,
  };
}

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_KERNELS_GENERIC_H_
