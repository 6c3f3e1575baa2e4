// Key sketches and the draws from them.
#include "context.h"
#include "sketch_reference.h"

namespace magicpig::test {
namespace {

struct Shape {
  std::vector<int> keys;  // of each sequence
  int dim, bits, kv_heads, group;
  bool centred, bf16_keys, paged;
  SketchBudget budget;
  double floor_share;
};

// Everything on the device that sketches of some sequences need.
struct Sketches {
  Sketches(const SketchShape& shape, int sequences, int pages_per_sequence, uint64_t seed, bool paged, Random& random)
      : words(sketch_words(hadamard_size(shape.dim), shape.bits)),
        codes(static_cast<size_t>(sequences) * pages_per_sequence * shape.kv_heads * kSketchPage * words),
        factors(static_cast<size_t>(sequences) * pages_per_sequence * shape.kv_heads * kSketchPage),
        flips(static_cast<size_t>(kHadamardRotations) * hadamard_size(shape.dim) / 32),
        pages(static_cast<size_t>(sequences) * pages_per_sequence) {
    CHECK_CUDA(sketch_flips(nullptr, flips.get(), shape.dim, seed));
    std::vector<int32_t> order(pages.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    if (paged) std::shuffle(order.begin(), order.end(), random.engine());
    pages.upload(order);
    table = order;
    view = {codes.get(), factors.get(), paged ? pages.get() : nullptr, pages_per_sequence};
  }
  int words;
  DeviceBuffer<uint32_t> codes;
  DeviceBuffer<uint16_t> factors;
  DeviceBuffer<uint32_t> flips;
  DeviceBuffer<int32_t> pages;
  std::vector<int32_t> table;
  SketchView view;
};

void test_shape(Context& c, const Shape& s) {
  const int sequences = static_cast<int>(s.keys.size()), heads = s.kv_heads * s.group, size = hadamard_size(s.dim);
  const int max_keys = *std::max_element(s.keys.begin(), s.keys.end());
  const std::string what = "sketch " + shape_text({{"keys", max_keys},
                                                   {"sequences", sequences},
                                                   {"dim", s.dim},
                                                   {"bits", s.bits},
                                                   {"kv_heads", s.kv_heads},
                                                   {"group", s.group}});
  const SketchShape shape{s.dim, s.bits, s.kv_heads, s.group};
  const uint64_t seed = c.random.engine()();
  const int pages_per_sequence = max_keys / kSketchPage + 1;
  Sketches sketches(shape, sequences, pages_per_sequence, seed, s.paged, c.random);
  const int64_t centre_words = static_cast<int64_t>(s.kv_heads) * s.dim, row = centre_words + 8;

  std::vector<std::vector<reference::Sketch>> references(static_cast<size_t>(sequences * s.kv_heads));
  std::vector<uint32_t> codes = sketches.codes.download();
  std::vector<uint16_t> factors = sketches.factors.download();
  DeviceBuffer<int32_t> rejected(1);
  rejected.upload({0});
  int32_t bad = 0;
  for (int sequence = 0; sequence < sequences; ++sequence) {
    // Keys of a narrow cone; one of them the centre itself, one not finite, one too long.
    const int keys = s.keys[sequence];
    std::vector<float> centre = c.random.normal(centre_words, 0.0f, 1.5f),
                       x = c.random.normal(static_cast<size_t>(keys) * row, 0.0f, 1.0f);
    for (float& value : centre) value = to_float(magicpig::to_bf16(value));
    for (size_t i = 0; i < x.size(); ++i) {
      const size_t column = i % row;
      x[i] = to_float(magicpig::to_bf16(x[i] + (s.centred && column < centre.size() ? centre[column] : 0.0f)));
    }
    if (keys > 90) {
      if (s.centred) std::copy_n(centre.data(), s.dim, &x[row]);
      x[60 * row + s.dim - 1] = to_float(bf16{0x7fc0});
      x[85 * row + 1] = 0x1p64f;
      bad += 2;
    }
    std::vector<bf16> x16(x.size());
    for (size_t i = 0; i < x.size(); ++i) x16[i] = magicpig::to_bf16(x[i]);
    DeviceBuffer<float> dx(x), d_centre(centre);
    DeviceBuffer<bf16> dx16(x16);
    // Grows in blocks, within a page and across pages.
    for (int first = 0; first < keys;) {
      const int rows = std::min(keys - first, first == 0 ? keys / 3 + 1 : keys);
      const void* from = s.bf16_keys ? static_cast<const void*>(dx16.get() + first * row) : dx.get() + first * row;
      CHECK_CUDA(sketch_encode(nullptr, sketches.view, rejected.get(), from, s.bf16_keys,
                               s.centred ? d_centre.get() : nullptr, sketches.flips.get(), shape,
                               SketchKeys{sequence, first, rows, row, s.dim}));
      first += rows;
    }
    CHECK_CUDA(cudaDeviceSynchronize());
    for (int h = 0; h < s.kv_heads; ++h) {
      for (int key = 0; key < keys; ++key) {
        const reference::Rotated rotated =
            reference::rotate(&x[key * row + h * s.dim], s.centred ? &centre[h * s.dim] : nullptr, s.dim, seed);
        const reference::Sketch sketch = reference::encode(rotated, s.bits);
        const int64_t page = sketches.table[sequence * pages_per_sequence + key / kSketchPage];
        const int64_t place = (page * s.kv_heads + h) * kSketchPage + key % kSketchPage;
        factors[place] = static_cast<uint16_t>(float_to_bits(sketch.factor) >> 16);
        std::fill_n(&codes[place * sketches.words], sketches.words, 0u);
        const int width = field_width(s.bits);
        for (int i = 0; i < size; ++i) {
          const auto level = static_cast<uint32_t>(sketch.levels[i]);
          codes[place * sketches.words + field_word(size, width, i)] |= (level & ((1u << width) - 1u))
                                                                        << field_bit(size, width, i);
          if (s.bits == 3)
            codes[place * sketches.words + size / 16 + field_word(size, 1, i)] |= (level >> 2) << field_bit(size, 1, i);
        }
        references[sequence * s.kv_heads + h].push_back(sketch);
      }
    }
  }
  c.equal(sketches.codes, codes, what + " codes");
  c.equal(sketches.factors, factors, what + " factors");
  c.equal(rejected, {bad}, what + " rejected keys");

  const int64_t q_stride = static_cast<int64_t>(heads) * s.dim + 4;
  std::vector<float> q = c.random.normal(sequences * q_stride, 0.0f, 2.0f);
  if (heads > 1) std::fill_n(&q[s.dim], s.dim, 0.0f);
  if (heads > 2) q[2 * s.dim] = HUGE_VALF;
  std::vector<uint32_t> steps(sequences);
  for (uint32_t& step : steps) step = static_cast<uint32_t>(c.random.engine()());
  const int room = heads > 3 ? max_keys : max_keys / 2 + 1;  // too small, where a budget asks for more
  const SketchDraw draw{sequences,       max_keys, room, q_stride, s.budget, s.floor_share, 1 / std::sqrt(s.dim),
                        5u * s.kv_heads, seed};
  const int64_t words = sketch_sample_words(room);
  DeviceBuffer<uint32_t> samples(static_cast<size_t>(sequences * heads * words)), d_steps(steps);
  std::vector<int32_t> lengths = s.keys;
  for (int32_t& length : lengths) {
    if (length == max_keys) length += 5000;  // not more than max_keys take part
  }
  DeviceBuffer<int32_t> d_keys(lengths);
  DeviceBuffer<float> d_q(q);
  DeviceBuffer<char> workspace(sketch_draw_workspace(shape, sequences, max_keys));
  CHECK_CUDA(sketch_draw(nullptr, samples.get(), workspace.get(), sketches.view, d_q.get(), sketches.flips.get(),
                         d_keys.get(), d_steps.get(), shape, draw));
  std::vector<uint32_t> expected = samples.download(), got = expected;
  for (int head = 0; head < sequences * heads; ++head) {
    const int sequence = head / heads, kv_head = head % heads / s.group;
    const reference::Sample sample =
        reference::draw(references[sequence * s.kv_heads + kv_head].data(), s.keys[sequence],
                        reference::rotate(&q[sequence * q_stride + head % heads * s.dim], nullptr, s.dim, seed), s.bits,
                        draw, draw.first_head + kv_head, steps[sequence]);
    uint32_t* row_of = &expected[head * words];
    row_of[kSketchCountWord] = static_cast<uint32_t>(sample.count);
    row_of[kSketchErrorWord] = float_to_bits(sample.error);
    std::fill_n(row_of + kSketchIdsWord, 2 * room, 0xffffffffu);  // as poisoned
    for (int i = 0; i < std::min(sample.count, room); ++i) {
      row_of[kSketchIdsWord + i] = sample.ids[i];
      row_of[kSketchIdsWord + room + i] = float_to_bits(sample.logs[i]);
    }
    if (s.budget.kind == SketchBudget::kCount && s.budget.value >= max_keys && sample.count >= 0) {
      c.expect(sample.count == s.keys[sequence], what + ": a budget of all keys draws all");
    }
  }
  c.equal(samples, expected, what + " samples");
  c.expect(workspace.check_guard(), what + ": wrote past its workspace");
}

// What it is for: unbiased sums. Over many steps the mean of sum e^s / pi over the drawn keys is the sum over all, and
// the mean number drawn the budget; s here are the true scores, which the sketches only estimate.
void test_estimates(Context& c) {
  const int keys = 300, dim = 64, steps = 100;
  const double budget = 60;
  const SketchShape shape{dim, 2, 1, 1};
  const uint64_t seed = 9;
  Sketches sketches(shape, 1, 1, seed, false, c.random);
  const std::vector<float> x = c.random.normal(keys * dim), q = c.random.normal(dim, 0.0f, 2.0f);
  DeviceBuffer<float> dx(x), dq(q);
  DeviceBuffer<int32_t> length(std::vector<int32_t>{keys});
  DeviceBuffer<uint32_t> step_at(1), sample(sketch_sample_words(keys));
  DeviceBuffer<char> workspace(sketch_draw_workspace(shape, 1, keys));
  CHECK_CUDA(sketch_encode(nullptr, sketches.view, nullptr, dx.get(), false, nullptr, sketches.flips.get(), shape,
                           SketchKeys{0, 0, keys, dim, dim}));
  std::vector<double> weights(keys);
  double total = 0;
  for (int key = 0; key < keys; ++key) {
    double score = 0;
    for (int i = 0; i < dim; ++i) score += static_cast<double>(x[key * dim + i]) * q[i] / 8;
    total += weights[key] = std::exp(score);
  }
  const SketchDraw draw{1, keys, keys, dim, {SketchBudget::kCount, budget, 0, 1}, 0.02, 0.125, 0, c.random.engine()()};
  double mean = 0, square = 0, drawn = 0, claimed = 0;
  for (int step = 0; step < steps; ++step) {
    step_at.upload({static_cast<uint32_t>(step)});
    CHECK_CUDA(sketch_draw(nullptr, sample.get(), workspace.get(), sketches.view, dq.get(), sketches.flips.get(),
                           length.get(), step_at.get(), shape, draw));
    const std::vector<uint32_t> row = sample.download();
    const int n = static_cast<int>(row[kSketchCountWord]);
    double estimate = 0;
    for (int i = 0; i < n; ++i) {
      estimate += weights[row[kSketchIdsWord + i]] *
                  std::exp(-static_cast<double>(bits_to_float(row[kSketchIdsWord + keys + i])));
    }
    mean += estimate / total / steps;
    square += estimate / total * (estimate / total) / steps;
    drawn += static_cast<double>(n) / steps;
    claimed = bits_to_float(row[kSketchErrorWord]);
  }
  const double error = std::sqrt((square - mean * mean) / steps), one = error * std::sqrt(steps);
  c.expect(std::fabs(mean - 1) < 5 * error + 1e-9,
           "sketch: mean of the estimates " + std::to_string(mean) + " +- " + std::to_string(error));
  c.expect(one < 0.2, "sketch: one estimate's relative error " + std::to_string(one));
  c.expect(claimed > one / 2 && claimed < one * 2,
           "sketch: claims an error of " + std::to_string(claimed) + ", which is " + std::to_string(one));
  c.expect(std::fabs(drawn - budget) < 0.06 * budget + 5 * std::sqrt(budget / steps),
           "sketch: " + std::to_string(drawn) + " keys drawn");
}

}  // namespace

void test_sketch(Context& c) {
  const auto count = [](double value) { return SketchBudget{SketchBudget::kCount, value, 0, 1}; };
  const auto share = [](double value) { return SketchBudget{SketchBudget::kShare, value, 0, 1}; };
  const auto error = [](double value, double least, double most) {
    return SketchBudget{SketchBudget::kError, value, least, most};
  };
  std::vector<Shape> shapes = {
      {{1}, 8, 1, 1, 1, false, false, false, count(1), 0.02},
      {{150, 0, 65}, 64, 2, 2, 3, true, false, true, count(40), 0.02},
      {{130}, 80, 3, 1, 4, true, true, false, share(0.2), 0.5},
      {{200}, 128, 4, 1, 9, false, true, false, error(0.1, 0.01, 0.5), 0.02},
      {{90, 64}, 256, 3, 1, 2, true, false, true, count(10), 0.1},
      {{1030, 64}, 64, 1, 1, 2, true, true, true, count(9000), 0.02},
      {{192}, 100, 2, 2, 8, false, false, false, error(0.05, 0.001, 1), 0.02},
      {{200}, 64, 3, 1, 2, true, false, false, error(1e-9, 0.001, 0.3), 0.02},
      {{120}, 256, 1, 1, 1, true, true, false, share(0.1), 1e-6},
  };
  if (!c.quick) {
    // Of 4,096 keys and more, and again of 8,192, and so on, the histogram takes a smaller part.
    shapes.push_back({{8200, 4100}, 64, 4, 1, 2, true, false, false, error(0.03, 0.01, 0.2), 0.02});
    shapes.push_back({{16400}, 128, 2, 1, 4, true, true, true, share(0.05), 0.02});
  }
  for (const Shape& s : shapes) test_shape(c, s);
  test_estimates(c);
}

}  // namespace magicpig::test
