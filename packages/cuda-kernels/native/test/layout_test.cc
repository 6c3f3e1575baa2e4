// The index arithmetic of the kernels, over whole grids, on the CPU. No GPU and no emulator involved.
#include "../device/layout.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>
#include <utility>
#include <vector>

#include "../kernels/kv_view.h"
#include "harness.h"
#include "../kernels/simhash.h"
#include "../kernels/sketch_math.h"
#include "../kernels/table_build.h"
#include "../kernels/weights.h"

namespace magicpig::test {

int layout_failures = 0;

#define EXPECT(condition)                                                          \
  do {                                                                             \
    if (!(condition)) {                                                            \
      ++layout_failures;                                                           \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                              \
  } while (false)

namespace {

// 16-byte chunks are conflict-free when the eight that one phase of a shared-memory access touches lie in different bank groups.
bool conflict_free(const std::vector<int>& chunks) {
  std::set<int> banks;
  for (const int chunk : chunks) banks.insert(chunk % 8);
  return banks.size() == chunks.size();
}

void test_swizzle() {
  for (const int chunks : {8, 16}) {
    std::set<int> places;
    for (int row = 0; row < 128; ++row) {
      for (int chunk = 0; chunk < chunks; ++chunk) {
        const int place = swizzled_chunk(row, chunk, chunks);
        EXPECT(place / chunks == row);
        EXPECT(further_chunks(swizzled_chunk(row, chunk % 2, chunks), chunk / 2) == place);
        EXPECT(places.insert(place).second);
      }
    }
    for (int row = 0; row < 128; row += 8) {
      for (int chunk = 0; chunk < chunks; ++chunk) {
        std::vector<int> column;
        for (int i = 0; i < 8; ++i) column.push_back(swizzled_chunk(row + i, chunk, chunks));
        EXPECT(conflict_free(column));
      }
      for (int first = 0; first < chunks; first += 8) {
        std::vector<int> along;
        for (int i = 0; i < 8; ++i) along.push_back(swizzled_chunk(row, first + i, chunks));
        EXPECT(conflict_free(along));
      }
    }
  }
}

void test_fragments() {
  std::set<std::pair<int, int>> cells;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      EXPECT(fragment_row(lane, i) < 16 && fragment_column(lane, i) < 8);
      EXPECT(cells.insert({fragment_row(lane, i), fragment_column(lane, i)}).second);
    }
  }
  EXPECT(cells.size() == 16 * 8);

  // ldmatrix.x4: result r of a lane holds row lane / 4, elements 2 (lane % 4) and + 1 of the matrix whose rows lanes 8 r .. 8 r + 7
  // point at. Seen as a 16 x 16 block, that has to be what mma wants.
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int r = 0; r < 4; ++r) {
      const int pointer = 8 * r + group;  // the lane that points at the row which `lane` receives
      // A operand, m16n8k16: a_r at row group + 8 (r % 2), k = pair + 8 (r / 2).
      EXPECT(a_block_row(pointer) == group + 8 * (r % 2));
      EXPECT(a_block_chunk(pointer) * 8 + pair == pair + 8 * (r / 2));
      // Two B operands from [column][k]: register r is b_(r % 2) of columns 8 (r / 2) ..; column group, k = pair + 8 (r % 2).
      EXPECT(b_block_row(pointer) == group + 8 * (r / 2));
      EXPECT(b_block_chunk(pointer) * 8 + pair == pair + 8 * (r % 2));
    }
    for (int r = 0; r < 4; ++r) {
      // Two B operands from [k][column] through .trans: the lane receives rows pair, pair + 1 of matrix r at column group: of
      // register r, k = pair + 8 (r % 2), column group + 8 (r / 2).
      const int pointer = 8 * r + pair;
      EXPECT(a_block_row(pointer) == pair + 8 * (r % 2));
      EXPECT(a_block_chunk(pointer) * 8 + group == group + 8 * (r / 2));
    }
  }
}

void test_causal_tiles() {
  for (int64_t first_key : {int64_t{0}, int64_t{5}, int64_t{70}, int64_t{1} << 33}) {
    for (int keys : {0, 1, 63, 64, 65, 200}) {
      for (int64_t query = first_key - 3; query < first_key + 210; ++query) {
        int count = 0;
        for (int j = 0; j < keys; ++j) {
          const bool visible = first_key + j <= query;
          EXPECT(visible == (j < visible_keys(query, first_key, keys)));
          count += visible;
        }
        EXPECT(count == visible_keys(query, first_key, keys));
      }
    }
  }
  for (int group : {1, 2, 3, 4, 7, 8}) {
    std::set<std::pair<int, int>> rows;
    for (int row = 0; row < 50 * group; ++row) {
      EXPECT(packed_head(row, group) < group);
      EXPECT(rows.insert({packed_query(row, group), packed_head(row, group)}).second);
      EXPECT(row == 0 || packed_query(row, group) >= packed_query(row - 1, group));  // a tile's last row sees the most
    }
  }
}

void test_splits() {
  for (int split : {64, 256, 512}) {
    for (int keys = 0; keys < 1200; ++keys) {
      int covered = 0;
      for (int i = 0; i < split_count(keys, split); ++i) {
        EXPECT(i * split == covered && split_end(i, split, keys) > covered);
        covered = split_end(i, split, keys);
      }
      EXPECT(covered == keys);
    }
  }
}

void test_kv_view() {
  const int tokens = 200, heads = 3, dim = 8;
  const int32_t pages[] = {5, 0, 3, 1};
  for (const bool paged : {false, true}) {
    KvView view{};
    view.page_stride = kPageTokens * heads * dim;
    view.token_stride = heads * dim;
    view.head_stride = dim;
    std::set<int64_t> rows;
    for (int token = 0; token < tokens; ++token) {
      for (int head = 0; head < heads; ++head) {
        const int64_t row = view.row(paged ? pages : nullptr, token, head);
        const int64_t place = paged ? pages[token / 64] * 64 + token % 64 : token;
        EXPECT(row == (place * heads + head) * dim);
        EXPECT(rows.insert(row).second);
      }
    }
  }
}

void test_code_packing() {
  Random random(1);
  for (int bits = 1; bits <= kMaxHashBits; ++bits) {
    const int tables = 64;
    std::vector<uint32_t> words(tables * bits / 32 + 2, 0xffffffffu);
    std::vector<int> sign(tables * bits);
    for (int i = 0; i < tables * bits; ++i) {
      sign[i] = random.integer(0, 1);
      words[i / 32] = (words[i / 32] & ~(1u << i % 32)) | static_cast<uint32_t>(sign[i]) << i % 32;
    }
    for (int table = 0; table < tables; ++table) {
      uint32_t code = 0;
      for (int j = 0; j < bits; ++j) code |= static_cast<uint32_t>(sign[table * bits + j]) << j;
      EXPECT(code_from_signs(words.data(), table, bits) == code);
    }
  }
  for (int x = -32767; x <= 32767; ++x) {
    EXPECT(256 * high_byte(x) + low_byte(x) == x);
    EXPECT(high_byte(x) >= -128 && high_byte(x) <= 127 && low_byte(x) >= 0 && low_byte(x) <= 255);
  }
  for (int dim = 4; dim <= kMaxHashDim; dim += 4) {
    EXPECT(projection_stride(dim) >= dim && projection_stride(dim) % 64 == 0);
    EXPECT(static_cast<int64_t>(rounding_limit(dim)) * 127 * dim <= INT32_MAX);
  }
}

void test_projection_weights() {
  const WeightQuantiles quantiles = weight_quantiles();
  for (int m = 0; m < 63; ++m) {
    // The quantiles are round(2^31 erf(m / (16 sqrt 2))).
    EXPECT(quantiles.at[m] == static_cast<uint32_t>(std::llround(2147483648.0 * std::erf((m + 1) / (16 * std::sqrt(2.0))))));
    EXPECT(projection_weight(quantiles, quantiles.at[m]) == 2 * (m + 1) + 1);
    EXPECT(projection_weight(quantiles, quantiles.at[m] - 1) == 2 * m + 1);
  }
  EXPECT(projection_weight(quantiles, 0) == 1 && projection_weight(quantiles, 0x80000000u) == -1);
  EXPECT(projection_weight(quantiles, 0x7fffffffu) == 127 && projection_weight(quantiles, 0xffffffffu) == -127);
  // Known answers of Philox4x32-10 (Random123's kat_vectors).
  const PhiloxWords zero = philox({{0, 0, 0, 0}}, 0, 0);
  EXPECT(zero.word[0] == 0x6627e8d5 && zero.word[1] == 0xe169c58d && zero.word[2] == 0xbc57ac4c && zero.word[3] == 0x9b00dbd8);
  const PhiloxWords pi = philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0);
  EXPECT(pi.word[0] == 0xd16cfe09 && pi.word[1] == 0x94fdcceb && pi.word[2] == 0x5001e420 && pi.word[3] == 0x24126ea1);
}

void test_sketch() {
  for (const int size : {64, 128, 256}) {
    for (const int width : {1, 2, 4}) {
      std::set<std::pair<int, int>> places;
      for (int i = 0; i < size; ++i) {
        const int word = field_word(size, width, i), bit = field_bit(size, width, i);
        EXPECT(word < size * width / 32 && bit % width == 0 && bit < 32);
        EXPECT(places.insert({word, bit}).second && field_coordinate(size, width, word, bit) == i);
        // The four coordinates of one operand register lie in one word, a byte apart.
        EXPECT(word == field_word(size, width, i / 4 * 4) && bit == field_bit(size, width, i / 4 * 4) + 8 * (i % 4));
      }
      EXPECT(places.size() == static_cast<size_t>(size));
    }
    for (int bits = 1; bits <= kMaxSketchBits; ++bits) {
      for (const int step : sketch_grid(size, bits).steps) {
        EXPECT(step > 0);
        for (int y = -20000; y <= 20000; y += 7) {
          const int level = static_cast<int>(std::floor(static_cast<double>(y) / step)) + (1 << (bits - 1));
          EXPECT(sketch_level(y, step, bits) == std::min(std::max(level, 0), (1 << bits) - 1));
        }
      }
    }
  }
  // Scores: significands of 16 bits, sums lifted as far as those have room for, rounded products.
  for (int half = 0; half <= 22950; ++half) {
    const int lift = sketch_lift(half);
    EXPECT(half << lift <= 32767 && (lift == 14 || half << (lift + 1) > 32767));
  }
  for (uint32_t bits = 0; bits < 0x7f80; bits += 3) {
    const int largest = std::max(factor_exponent(bits), 100);
    const double factor = to_float(bf16{static_cast<uint16_t>(bits)}), unit = std::ldexp(1.0, largest - 141);
    const int significand = factor_significand(bits, largest);
    EXPECT(significand <= 32640 && (factor_exponent(bits) == 0 ? significand == 0 : factor / unit - significand >= 0 && factor / unit - significand < 1));
  }
  for (int a = -32767; a <= 32767; a += 997) {
    for (int b = 0; b <= 32767; b += 991) EXPECT(mulhrs(a, b) == std::floor(a * static_cast<double>(b) / 32768 + 0.5));
  }
  EXPECT(sketch_gain(0.0f, 127, 14) == 0 && sketch_gain(1e30f, 200, 0) == 16384 && sketch_gain(1.0f, 120, 3) == 512);
  // Draws: thresholds and their logarithms.
  for (double p = 1e-12; p < 1.5; p *= 1.07) {
    const double threshold = sketch_threshold(p), wanted = p * 65536;
    EXPECT(p < 1 ? threshold >= 1 && threshold < 65536 : threshold == 65536);
    EXPECT(wanted < 1 || p >= 1 || std::fabs(threshold - wanted) <= (wanted + 16) / 32);
    EXPECT(std::fabs(sketch_log(sketch_threshold(p)) - std::log(threshold / 65536)) < 1.1e-6);
  }
  EXPECT(sketch_log(65536) == 0.0f);
  for (const double variance : {0.0, 0.5, 3.0}) EXPECT(std::fabs(noise_inflation(variance) / std::exp(variance / 2) - 1) < 0.002 * (1 + variance * variance));
  const SketchWeights weights = sketch_weights();
  for (int i = 0; i < kSketchBins; ++i) EXPECT(std::fabs(weights.at[i] / std::exp(-i / 4.0) - 1) < 1e-13);
  for (int i = 0; i < 8; ++i) EXPECT(random_half({{0x10000, 0x30002, 0x50004, 0x70006}}, i) == static_cast<uint32_t>(i));
}

void test_segment_layout() {
  for (int bits : {1, 10, 16}) {
    for (int keys : {1, 100, 65535}) {
      for (int table = 0; table < 5; ++table) {
        EXPECT(segment_starts(table + 1, bits) - segment_starts(table, bits) == (1 << bits) + 1);
        EXPECT(segment_ids(table + 1, keys) - segment_ids(table, keys) == keys);
      }
    }
  }
}

void test_weight_pairs() {
  std::set<int> places, bits;
  for (int i = 0; i < kWeightPair; ++i) EXPECT(places.insert(pair_place(i)).second && pair_place(i) >= 0 && pair_place(i) < kWeightPair);
  // What a lane loads is its eight inputs of the first block, then of the second.
  for (int lane = 0; lane < 4; ++lane) {
    for (int e = 0; e < 8; ++e) {
      EXPECT(pair_place(8 * lane + e) == 16 * lane + e);
      EXPECT(pair_place(kWeightBlock + 8 * lane + e) == 16 * lane + 8 + e);
    }
  }
  for (int e = 0; e < 8; ++e) EXPECT(nibble_bit(e) % 4 == 0 && bits.insert(nibble_bit(e)).second);
  for (int e = 0; e < 8; e += 2) EXPECT(nibble_bit(e + 1) == nibble_bit(e) + 16 && nibble_bit(e) == 2 * e);
  for (const int columns : {32, 64, 96, 4096}) {
    EXPECT(weight_value_bytes(WeightKind::kQ8, columns) >= columns && weight_value_bytes(WeightKind::kQ8, columns) % 64 == 0);
    EXPECT(2 * weight_value_bytes(WeightKind::kQ4, columns) == weight_value_bytes(WeightKind::kQ8, columns));
  }
}

}  // namespace

int test_layout() {
  test_weight_pairs();
  test_swizzle();
  test_fragments();
  test_causal_tiles();
  test_splits();
  test_kv_view();
  test_code_packing();
  test_projection_weights();
  test_sketch();
  test_segment_layout();
  return layout_failures;
}

}  // namespace magicpig::test
