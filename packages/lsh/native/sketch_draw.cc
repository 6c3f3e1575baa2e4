// Scores of key sketches, and draws by them.
#include <algorithm>
#include <bit>
#include <cmath>

#include "sketch.h"

namespace magicpig::lsh {
namespace {

// Variance of an estimated score in units of scale^2 |q|^2 and the mean of factor^2, measured on normal vectors.
constexpr double kNoise[kMaxSketchBits] = {0.364, 0.42, 0.4, 0.39};
// Exponent that draws raise e^score to, with the least error of attention on a language model's keys; about the squared cosine
// between v and y, by which the expected score given an estimate is nearer the mean.
constexpr float kTemper[kMaxSketchBits] = {0.55f, 0.85f, 0.95f, 1.0f};
// Blocks whose factors stand for all.
constexpr size_t kNoiseBlocks = 16;
// Queries are scaled to spans of this sum of magnitudes, or less where rounding would still pass kSpanLimit.
constexpr int32_t kFirstSpan = 248, kSpanStep = 8;
constexpr int32_t kLargestRounded = 127;
// Keys that the histogram takes: all while there are fewer than twice as many, then a half of each block, a quarter, and so on.
constexpr size_t kHistogramKeys = 2048;
constexpr size_t kLeastHistogramLanes = 2;
// Bins of which all keys are counted, at most, and what share of the keys they may hold.
constexpr int kExactBins = 16;
constexpr uint64_t kExactShare = 256;
// What `**` makes of a score stays below this: sums of it do not overflow.
constexpr double kLargestGain = 1 << 14;
// How far above the largest score so far depths are measured from: as far as leaves them exact down to the last level of a draw.
constexpr int32_t kHeadroom = 255 - (kSketchBins - 1) - (kSketchLevels - 1) - 1;

size_t RoundUp(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

size_t HistogramLanes(size_t n) {
  size_t lanes = kSketchKeys;
  for (size_t left = n / 2; left >= kHistogramKeys && lanes > kLeastHistogramLanes; left /= 2) lanes /= 2;
  return lanes;
}

// Largest sum of magnitudes of a span of v [size].
int32_t LargestSpan(const int16_t* v, size_t size, uint32_t bits) {
  constexpr size_t kFine[3] = {24, 24, 16}, kCoarse[1] = {kSketchUnit};
  int32_t largest = 0;
  for (size_t i = 0; i < size;) {
    const auto sum = [&](const size_t* spans, size_t count) {
      for (size_t s = 0; s < count; ++s) {
        int32_t sum = 0;
        for (const size_t end = i + spans[s]; i < end; ++i) sum += std::abs(v[i]);
        largest = std::max(largest, sum);
      }
    };
    FineSpans(bits) ? sum(kFine, 3) : sum(kCoarse, 1);
  }
  return largest;
}

// Rounds y [size] times a gain to q, so that no span exceeds kSpanLimit and no magnitude 127; returns the gain, 0 for a zero vector.
float RoundQuery(const int16_t* y, size_t size, uint32_t bits, int16_t* q) {
  int32_t largest = 0;
  for (size_t i = 0; i < size; ++i) largest = std::max<int32_t>(largest, std::abs(y[i]));
  if (largest == 0) {
    std::fill_n(q, size, int16_t{0});
    return 0;
  }
  const auto span = static_cast<float>(LargestSpan(y, size, bits));
  const float most = static_cast<float>(kLargestRounded) / static_cast<float>(largest);
  for (int32_t target = kFirstSpan;; target -= kSpanStep) {
    const float gain = std::min(static_cast<float>(target) / span, most);
    for (size_t i = 0; i < size; ++i) {
      constexpr float kRound = 0x1.8p23f;
      const float shifted = static_cast<float>(y[i]) * gain + kRound;
      q[i] = static_cast<int16_t>(std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound));
    }
    if (LargestSpan(q, size, bits) <= kSpanLimit) return gain;
  }
}

SketchScale ScaleOf(uint32_t shift, float sigma, int32_t exponent) {
  const uint32_t half = shift >> 1, most = shift - half;
  int lift = 14;
  while (most << lift > INT16_MAX) --lift;
  const double gain = std::floor(std::ldexp(static_cast<double>(sigma), exponent - 108 - lift) + 0.5);
  return {static_cast<uint16_t>(half), static_cast<uint16_t>(lift), static_cast<int16_t>(std::min(gain, kLargestGain))};
}

}  // namespace

// A query, rounded.
struct KeySketch::Query {
  float sigma, offset;
  double norm;     // 0 where it is rounded to zero
  uint32_t shift;
};

// What draws of one thread reuse.
struct KeySketch::Scratch {
  Rotated space;
  Buffer<uint8_t> tables;                // [kSketchQueries][size / kSketchUnit][kSketchTableBytes]
  Query queries[kSketchQueries];
  Buffer<uint16_t> sums;                 // [kSketchChunk]
  Buffer<uint8_t> ranks;                 // [keys]
  Buffer<uint8_t> depths;                // [kSketchQueries][keys]
  Buffer<int32_t> bounds;                // [kSketchQueries][chunks]: what depths of each are below
  int32_t largest[kSketchQueries];       // scores
  struct Drawn {
    Buffer<uint32_t> ids;
    Buffer<float> log_probability;
  };
  std::vector<Drawn> drawn;              // [queries]
  std::vector<Sample> samples;           // [queries]

  Scratch() : sums(kSketchChunk) {}
};

KeySketch::Scratch& KeySketch::ThreadScratch() {
  thread_local Scratch scratch;
  return scratch;
}

// Rounds queries [count][dim], at most kSketchQueries, and makes their tables.
KeySketch::Status KeySketch::Prepare(const Head& head, const float* queries, size_t count, Scratch& scratch) const {
  const size_t dim = options_.dim, table_bytes = size_ / kSketchUnit * kSketchTableBytes;
  scratch.space.Reserve(dim, size_);
  scratch.tables.Reserve(kSketchQueries * table_bytes, 0);
  const Status status = Rotate(queries, count, 0, nullptr, scratch.space);
  if (status != Status::kOk) return status;
  for (size_t i = 0; i < count; ++i) {
    int16_t y[kMaxSketchSize], q[kMaxSketchSize];
    for (size_t k = 0; k < size_; ++k) y[k] = scratch.space.rotated[k * kLanes + i];
    const float gain = RoundQuery(y, size_, options_.bits, q);
    sketch_.tables(q, size_, scratch.tables.data() + i * table_bytes);
    uint32_t sum = 0;
    for (size_t k = 0; k < size_; ++k) sum += static_cast<uint32_t>(std::abs(q[k]));

    Query& query = scratch.queries[i];
    const double inverse_norm = scratch.space.inverse_norms[i];
    query.sigma = gain > 0 ? static_cast<float>(options_.scale / (inverse_norm * norm_ * gain)) : 0.0f;
    query.norm = gain > 0 ? 1 / inverse_norm : 0;
    query.offset = head.centre ? static_cast<float>(kernels_.dot(queries + i * dim, head.centre->data(), dim) * options_.scale) : 0.0f;
    query.shift = ((1u << options_.bits) - 1) * sum;
  }
  return Status::kOk;
}

// Mean of factor^2 over some of the first n keys.
double KeySketch::MeanSquareFactor(const Head& head, size_t n) {
  const size_t blocks = RoundUp(n, kSketchKeys) / kSketchKeys, step = (blocks + kNoiseBlocks - 1) / kNoiseBlocks;
  double sums[4] = {};
  size_t count = 0;
  for (size_t first = 0; first < n; first += step * kSketchKeys) {
    const uint16_t* factors = head.chunks[first / kSketchChunk]->factors + first % kSketchChunk;
    const size_t keys = std::min(kSketchKeys, n - first);
    for (size_t i = 0; i < keys; ++i) {
      const double factor = std::bit_cast<float>(uint32_t{factors[i]} << 16);
      sums[i % 4] += factor * factor;
    }
    count += keys;
  }
  return (sums[0] + sums[1] + sums[2] + sums[3]) / static_cast<double>(count);
}

KeySketch::Status KeySketch::Scores(uint32_t at, const float* query, float* scores) const {
  const Head& head = heads_[at];
  Scratch& scratch = ThreadScratch();
  const Status status = Prepare(head, query, 1, scratch);
  if (status != Status::kOk) return status;
  const Query& made = scratch.queries[0];
  const auto shift = static_cast<float>(made.shift);
  for (size_t first = 0; first < head.size; first += kSketchChunk) {
    const size_t keys = std::min(kSketchChunk, head.size - first);
    const Chunk& chunk = *head.chunks[first / kSketchChunk];
    sketch_.scan(chunk.codes, RoundUp(keys, kSketchKeys) / kSketchKeys, options_.bits, size_, scratch.tables.data(), 1, scratch.sums.data(), 0);
    for (size_t i = 0; i < keys; ++i) {
      const float dot = static_cast<float>(2 * scratch.sums[i]) - shift;  // exact: integers below 2^24
      scores[first + i] = dot * std::bit_cast<float>(uint32_t{chunk.factors[i]} << 16) * made.sigma + made.offset;
    }
  }
  return Status::kOk;
}

// E of the first n keys.
int32_t KeySketch::LargestExponent(const Head& head, size_t n) {
  int16_t largest = 0;  // of bits but the sign's; signed, for which every instruction set has a maximum
  for (size_t first = 0; first < n; first += kSketchChunk) {
    Chunk& chunk = *head.chunks[first / kSketchChunk];
    const size_t keys = std::min(kSketchChunk, n - first);
    int16_t own = keys == kSketchChunk ? chunk.largest_factor.load(std::memory_order_relaxed) : Chunk::kUnknown;
    if (own == Chunk::kUnknown) {
      own = 0;
      for (size_t i = 0; i < keys; ++i) own = std::max(own, static_cast<int16_t>(chunk.factors[i] & 0x7fff));
      if (keys == kSketchChunk) chunk.largest_factor.store(own, std::memory_order_relaxed);
    }
    largest = std::max(largest, own);
  }
  return largest >> 7;
}

// Of the first n keys for `count` queries: scratch.depths, .bounds and .largest.
void KeySketch::Depths(const Head& head, size_t n, size_t count, Scratch& scratch) const {
  const size_t stride = RoundUp(n, kSketchKeys), chunks = (n + kSketchChunk - 1) / kSketchChunk;
  scratch.depths.Reserve(kSketchQueries * stride, 0);
  scratch.bounds.Reserve(kSketchQueries * chunks, 0);
  const int32_t exponent = LargestExponent(head, n);
  SketchScale scales[kSketchQueries];
  for (size_t i = 0; i < count; ++i) {
    const Query& query = scratch.queries[i];
    scales[i] = ScaleOf(query.shift, query.sigma * kTemper[options_.bits - 1], exponent);
  }
  const SketchQueries queries{scratch.tables.data(), scales, count, exponent};
  const auto keys_of = [&](size_t c) { return SketchKeys{head.chunks[c]->codes, head.chunks[c]->factors}; };
  int32_t bounds[kSketchQueries], tops[kSketchQueries];
  // Depths of so many keys of chunk c. Raises bounds that scores are above, and says whether there were none.
  const auto fits = [&](size_t c, size_t keys) {
    sketch_.depths(keys_of(c), keys, keys_of(std::min(c + 1, chunks - 1)), options_.bits, size_, queries, bounds, tops,
                   scratch.depths.data() + c * kSketchChunk, stride);
    bool all = true;
    for (size_t i = 0; i < count; ++i) {
      scratch.largest[i] = std::max(scratch.largest[i], tops[i]);
      if (tops[i] <= bounds[i]) continue;
      bounds[i] = tops[i] + kHeadroom;
      all = false;
    }
    return all;
  };
  std::fill_n(scratch.largest, count, INT16_MIN);
  std::fill_n(bounds, count, INT16_MIN);
  fits(0, std::min(n, kSketchKeys));
  for (size_t c = 0; c < chunks; ++c) {
    while (!fits(c, std::min(kSketchChunk, n - c * kSketchChunk))) {
    }
    for (size_t i = 0; i < count; ++i) scratch.bounds[i * chunks + c] = bounds[i];
  }
}

// Keys of each bin; returns their sum. depths [n], bounds [chunks].
size_t KeySketch::Count(size_t n, const uint8_t* depths, const int32_t* bounds, int32_t largest, uint32_t* counts) const {
  const auto chunks = [&](auto&& visit) {
    for (size_t first = 0; first < n; first += kSketchChunk) {
      visit(depths + first, std::min(kSketchChunk, n - first), largest - bounds[first / kSketchChunk]);
    }
  };
  const size_t lanes = HistogramLanes(n), counted = n / kSketchKeys * lanes + std::min(lanes, n % kSketchKeys);
  uint32_t sets[kSketchCounters][kSketchBins] = {};
  chunks([&](const uint8_t* chunk, size_t keys, int32_t offset) { sketch_.histogram(chunk, keys, lanes, offset, sets); });
  int32_t exact = 0;
  size_t above = 0, sum = 0;
  for (int bin = 0; bin < kSketchBins; ++bin) {
    counts[bin] = sets[0][bin] + sets[1][bin] + sets[2][bin] + sets[3][bin];
    above += counts[bin];
    if (bin == exact && bin < kExactBins && kExactShare * above <= counted) ++exact;
    counts[bin] *= static_cast<uint32_t>(bin < exact ? 0 : kSketchKeys / lanes);
  }
  chunks([&](const uint8_t* chunk, size_t keys, int32_t offset) { sketch_.count_top(chunk, keys, offset, exact, counts); });
  for (int bin = 0; bin < kSketchBins; ++bin) sum += counts[bin];
  return sum;
}

KeySketch::Status KeySketch::Draw(uint32_t at, const float* queries, size_t total, size_t limit, uint32_t step, const SketchBudget& budget,
                                  Sample* samples) const {
  const Head& head = heads_[at];
  const size_t n = std::min(limit, head.size), stride = RoundUp(n, kSketchKeys), chunks = (n + kSketchChunk - 1) / kSketchChunk;
  Scratch& scratch = ThreadScratch();
  if (scratch.drawn.size() < total) scratch.drawn.resize(total);
  scratch.ranks.Reserve(stride, 0);
  sketch_.ranks({options_.seed, at, step}, 0, stride, scratch.ranks.data());
  const double square_factor = n > 0 ? MeanSquareFactor(head, n) : 0;
  for (size_t first = 0; first < total; first += kSketchQueries) {
    const size_t count = std::min(kSketchQueries, total - first);
    const Status status = Prepare(head, queries + first * options_.dim, count, scratch);
    if (status != Status::kOk) return status;
    if (n > 0) Depths(head, n, count, scratch);

    for (size_t i = 0; i < count; ++i) {
      Sample& sample = samples[first + i];
      Scratch::Drawn& drawn = scratch.drawn[first + i];
      drawn.ids.Reserve(n + kDrawSlack, 0);
      drawn.log_probability.Reserve(n + kDrawSlack, 0);
      sample = {drawn.ids.data(), drawn.log_probability.data(), 0, 0};
      if (n == 0) continue;
      const uint8_t* depths = scratch.depths.data() + i * stride;
      const int32_t* bounds = scratch.bounds.data() + i * chunks;
      uint32_t counts[kSketchBins];
      const size_t counted = Count(n, depths, bounds, scratch.largest[i], counts);
      const double length = options_.scale * scratch.queries[i].norm;
      const double inflation = NoiseInflation(kTemper[options_.bits - 1] * kNoise[options_.bits - 1] * length * length * square_factor);
      const SketchPlan plan = PlanDraw(counts, counted, n, budget, options_.floor_share, inflation);
      SketchDraw draw;
      PlanLevels(plan, draw);
      sample.error = plan.error;
      for (size_t c = 0; c < chunks; ++c) {
        const size_t key = c * kSketchChunk;
        sample.count += sketch_.draw(depths + key, scratch.largest[i] - plan.base - bounds[c], scratch.ranks.data() + key,
                                     std::min(kSketchChunk, n - key), draw, static_cast<uint32_t>(key), drawn.ids.data() + sample.count,
                                     drawn.log_probability.data() + sample.count);
      }
    }
  }
  return Status::kOk;
}

int KeySketch::Select(const magicpig_selector_args& args, magicpig_selection* out) const {
  if (disposed_ || args.head >= options_.heads || args.head_dim != options_.dim) return 1;
  std::vector<Sample>& samples = ThreadScratch().samples;
  samples.resize(args.queries);
  if (Draw(args.head, args.query, args.queries, args.indexed, args.step, options_.budget, samples.data()) != Status::kOk) return 1;
  const size_t keys = std::min<size_t>(args.indexed, heads_[args.head].size);
  for (uint32_t i = 0; i < args.queries; ++i) {
    const Sample& sample = samples[i];
    out[i] = {};
    out[i].ids = sample.ids;
    out[i].count = static_cast<uint32_t>(sample.count);
    out[i].correction = MAGICPIG_CORRECTION_LOG_PROBABILITY;
    out[i].log_probability = sample.log_probability;
    if (keys == 0) continue;
    draws_.fetch_add(1, std::memory_order_relaxed);
    read_.fetch_add(sample.count, std::memory_order_relaxed);
    keys_.fetch_add(keys, std::memory_order_relaxed);
    error_.fetch_add(sample.error, std::memory_order_relaxed);
    double largest = largest_error_.load(std::memory_order_relaxed);
    while (sample.error > largest && !largest_error_.compare_exchange_weak(largest, sample.error, std::memory_order_relaxed)) {
    }
  }
  return 0;
}

KeySketch::Stats KeySketch::stats() const { return {draws_, read_, keys_, error_, largest_error_}; }

void KeySketch::ResetStats() {
  draws_ = read_ = keys_ = 0;
  error_ = largest_error_ = 0;
}

}  // namespace magicpig::lsh
