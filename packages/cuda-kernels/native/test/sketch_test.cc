// Key sketches and the draws from them.
#include "../kernels/sketch.h"
#include "context.h"

namespace magicpig::test {

void test_sketch(Context& c) {
  struct Shape {
    int keys, dim, bits, kv_heads, group;
    bool centred, bf16_keys;
    double budget;
  };
  std::vector<Shape> shapes = {{1, 8, 1, 1, 1, false, false, 0.5},   {700, 64, 2, 2, 3, true, false, 40},  {130, 80, 3, 1, 4, true, true, 20},
                               {333, 128, 4, 1, 9, false, true, 50}, {90, 256, 2, 1, 2, true, false, 10}, {5000, 64, 1, 1, 2, true, true, 9000}};
  if (!c.quick) shapes.push_back({20000, 128, 2, 2, 4, true, true, 600});
  for (const Shape& s : shapes) {
    const std::string what = "sketch " + shape_text({{"keys", s.keys}, {"dim", s.dim}, {"bits", s.bits}, {"kv_heads", s.kv_heads}, {"group", s.group}});
    const int size = hadamard_size(s.dim), words = size / 32, heads = s.kv_heads * s.group;
    const SketchShape shape{s.dim, s.bits, s.kv_heads, s.group, s.keys + 37};
    const uint64_t seed = c.random.engine()();
    const float scale = 1.0f / std::sqrt(static_cast<float>(s.dim));
    // Keys of a narrow cone, one of them the centre itself.
    std::vector<float> centre = c.random.normal(s.kv_heads * s.dim, 0.0f, 1.5f), x = c.random.normal(s.kv_heads * s.keys * s.dim, 0.0f, 1.0f);
    for (size_t i = 0; i < x.size(); ++i) x[i] = to_float(magicpig::to_bf16(x[i] + (s.centred ? centre[i / (s.keys * s.dim) * s.dim + i % s.dim] : 0.0f)));
    for (float& value : centre) value = to_float(magicpig::to_bf16(value));
    if (s.keys > 2 && s.centred) std::copy_n(centre.data(), s.dim, &x[s.dim]);
    const std::vector<float> q = c.random.normal(heads * s.dim, 0.0f, 2.0f);

    // Reference: codes and factors, scores, draws.
    std::vector<uint32_t> codes(static_cast<size_t>(s.kv_heads) * shape.capacity * s.bits * words);
    std::vector<uint16_t> factors(static_cast<size_t>(s.kv_heads) * shape.capacity);
    std::vector<std::vector<int>> grids(s.kv_heads * s.keys);
    for (int h = 0; h < s.kv_heads; ++h) {
      for (int key = 0; key < s.keys; ++key) {
        float factor;
        auto& v = grids[h * s.keys + key];
        v = reference::sketch_encode(&factor, &x[(h * s.keys + key) * s.dim], s.centred ? &centre[h * s.dim] : nullptr, s.dim, s.bits, seed);
        const size_t at = h * shape.capacity + key;
        factors[at] = magicpig::to_bf16(factor).bits;
        for (int i = 0; i < size; ++i) {
          const uint32_t u = static_cast<uint32_t>((v[i] + (1 << s.bits) - 1) / 2);
          for (int p = 0; p < s.bits; ++p) codes[(at * s.bits + p) * words + plane_word(size, i)] |= (u >> p & 1u) << plane_bit(size, i);
        }
      }
    }
    DeviceBuffer<uint32_t> flips(kHadamardRotations * words), d_codes(codes.size());
    DeviceBuffer<uint16_t> d_factors(factors.size());
    DeviceBuffer<float> d_centre(centre), d_q(q);
    CHECK_CUDA(sketch_flips(nullptr, flips.get(), s.dim, seed));
    CHECK_CUDA(cudaMemsetAsync(d_codes.get(), 0, d_codes.bytes(), nullptr));
    CHECK_CUDA(cudaMemsetAsync(d_factors.get(), 0, d_factors.bytes(), nullptr));
    std::vector<bf16> x16(x.size());
    for (size_t i = 0; i < x.size(); ++i) x16[i] = magicpig::to_bf16(x[i]);
    DeviceBuffer<float> dx(x);
    DeviceBuffer<bf16> dx16(x16);
    for (int h = 0; h < s.kv_heads; ++h) {
      for (const auto& [first, rows] : {std::pair{0, s.keys / 3}, {s.keys / 3, s.keys - s.keys / 3}}) {  // grows by blocks
        const int64_t at = static_cast<int64_t>(h * s.keys + first) * s.dim;
        const void* from = s.bf16_keys ? static_cast<const void*>(dx16.get() + at) : dx.get() + at;
        CHECK_CUDA(sketch_encode(nullptr, d_codes.get(), d_factors.get(), from, s.bf16_keys, s.centred ? d_centre.get() + h * s.dim : nullptr,
                                 flips.get(), shape, h, first, rows, s.dim));
      }
    }
    c.equal(d_codes, codes, what + " codes");
    c.equal(d_factors, factors, what + " factors");

    const SketchBins bins = sketch_bins();
    DeviceBuffer<char> workspace(sketch_draw_workspace(shape));
    const int room = s.keys;
    for (const uint32_t step : {0u, 77u}) {
      const SketchStep options{s.keys, room, s.budget, 0.02, scale, 5, step, seed};
      std::vector<uint32_t> ids(static_cast<size_t>(heads) * room, 0xffffffffu);
      std::vector<int32_t> counts(heads);
      std::vector<std::vector<float>> logs(heads);
      for (int head = 0; head < heads; ++head) {
        const int h = head / s.group;
        double norm;
        const std::vector<int> y = reference::sketch_rotate(&q[head * s.dim], nullptr, s.dim, seed, &norm);
        int largest = 0;
        for (const int value : y) largest = std::max(largest, std::abs(value));
        std::vector<int> q8(size);
        for (int i = 0; i < size; ++i) q8[i] = static_cast<int>(std::nearbyint(multiply(static_cast<float>(y[i]), 127.0f / static_cast<float>(largest))));
        double sums[8] = {}, offset = 0;
        for (int i = 0; i < s.dim && s.centred; ++i) sums[i % 8] += static_cast<double>(q[head * s.dim + i]) * centre[h * s.dim + i];
        for (const double sum : sums) offset += sum;
        const auto sigma = static_cast<float>(largest * norm / (127.0 * sketch_norm(size)) * static_cast<double>(scale));
        std::vector<float> scores(s.keys);
        float top = -HUGE_VALF;
        for (int key = 0; key < s.keys; ++key) {
          int dot = 0;
          for (int i = 0; i < size; ++i) dot += grids[h * s.keys + key][i] * q8[i];
          const float factor = to_float(bf16{factors[h * shape.capacity + key]});
          scores[key] = sum_of(multiply(multiply(static_cast<float>(dot), sigma), factor), static_cast<float>(offset * scale));
          top = std::max(top, scores[key]);
        }
        std::vector<uint32_t> histogram(kSketchBins);
        for (const float score : scores) ++histogram[sketch_bin(top, score)];
        const SketchDraw draw = sketch_threshold(histogram.data(), bins, top, s.keys, s.budget, options.floor_share);
        for (int key = 0; key < s.keys; ++key) {
          const float pi = sketch_probability(draw, scores[key]);
          if (!sketch_drawn(pi, static_cast<uint32_t>(key), static_cast<uint32_t>(head), options.layer, step, seed)) continue;
          ids[static_cast<size_t>(head) * room + static_cast<size_t>(counts[head]++)] = static_cast<uint32_t>(key);
          logs[head].push_back(-std::log(pi));
        }
      }
      DeviceBuffer<uint32_t> d_ids(ids.size());
      DeviceBuffer<float> d_logs(ids.size());
      DeviceBuffer<int32_t> d_counts(heads);
      CHECK_CUDA(sketch_draw(nullptr, d_ids.get(), d_logs.get(), d_counts.get(), workspace.get(), d_codes.get(), d_factors.get(), d_q.get(),
                             s.centred ? d_centre.get() : nullptr, flips.get(), shape, options));
      c.equal(d_counts, counts, what + " counts");
      c.equal(d_ids, ids, what + " ids");
      c.expect(workspace.check_guard(), what + ": wrote past its workspace");
      const std::vector<float> got = d_logs.download();
      bool close = true;
      for (int head = 0; head < heads; ++head) {
        for (size_t i = 0; i < logs[head].size(); ++i) {
          close = close && std::fabs(got[static_cast<size_t>(head) * room + i] - logs[head][i]) <= 1e-5f * (1 + logs[head][i]);
        }
      }
      c.expect(close, what + " -log pi");
      if (s.budget >= s.keys) c.expect(counts[0] == s.keys, what + ": a budget of all keys draws all");
    }
  }

  // What it is for: unbiased sums. Over many steps the mean of sum e^s / pi over the drawn keys is the sum over all, and the mean
  // number drawn the budget; s here are the true scores, which the sketches only estimate.
  const int keys = 600, dim = 64, steps = 200;
  const double budget = 60;
  const SketchShape shape{dim, 2, 1, 1, keys};
  const std::vector<float> x = c.random.normal(keys * dim), q = c.random.normal(dim, 0.0f, 2.0f);
  DeviceBuffer<uint32_t> flips(kHadamardRotations * 2), codes(keys * 2 * 2), ids(keys);
  DeviceBuffer<uint16_t> factors(keys);
  DeviceBuffer<float> dx(x), dq(q), logs(keys);
  DeviceBuffer<int32_t> count(1);
  DeviceBuffer<char> workspace(sketch_draw_workspace(shape));
  CHECK_CUDA(sketch_flips(nullptr, flips.get(), dim, 9));
  CHECK_CUDA(sketch_encode(nullptr, codes.get(), factors.get(), dx.get(), false, nullptr, flips.get(), shape, 0, 0, keys, dim));
  std::vector<double> weights(keys);
  double total = 0;
  for (int key = 0; key < keys; ++key) {
    double score = 0;
    for (int i = 0; i < dim; ++i) score += static_cast<double>(x[key * dim + i]) * q[i] / 8;
    total += weights[key] = std::exp(score);
  }
  double mean = 0, square = 0, drawn = 0;
  for (int step = 0; step < steps; ++step) {
    CHECK_CUDA(sketch_draw(nullptr, ids.get(), logs.get(), count.get(), workspace.get(), codes.get(), factors.get(), dq.get(), nullptr, flips.get(),
                           shape, SketchStep{keys, keys, budget, 0.02, 0.125f, 0, static_cast<uint32_t>(step), c.random.engine()()}));
    const int n = count.download()[0];
    const std::vector<uint32_t> chosen = ids.download();
    const std::vector<float> log_pi = logs.download();
    double estimate = 0;
    for (int i = 0; i < n; ++i) estimate += weights[chosen[i]] * std::exp(static_cast<double>(log_pi[i]));
    mean += estimate / total / steps;
    square += estimate / total * (estimate / total) / steps;
    drawn += static_cast<double>(n) / steps;
  }
  const double error = std::sqrt((square - mean * mean) / steps);
  c.expect(std::fabs(mean - 1) < 5 * error + 1e-9, "sketch: mean of the estimates " + std::to_string(mean) + " +- " + std::to_string(error));
  c.expect(error * std::sqrt(steps) < 0.2, "sketch: one estimate's relative error " + std::to_string(error * std::sqrt(steps)));
  c.expect(std::fabs(drawn - budget) < 0.06 * budget + 5 * std::sqrt(budget / steps), "sketch: " + std::to_string(drawn) + " keys drawn");
}

}  // namespace magicpig::test
