#include "sketch.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#include "../include/magicpig/thread_pool.h"
#include "philox.h"

namespace magicpig::lsh {
namespace {

constexpr int32_t kRotatedNorm = 11500;  // of vectors that are rounded for rotation
constexpr size_t kRotations = 3;
constexpr uint32_t kFlipDomain = 2;  // last word of the counter that flips are drawn with
// The optimal uniform step for a standard normal at 1..4 bits (Max 1960), and what is tried around it.
constexpr double kOptimalStep[kMaxSketchBits] = {1.5958, 0.9957, 0.5860, 0.3352};
constexpr double kStepScales[kSketchSteps] = {0.8, 0.93, 1.06, 1.2};
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
constexpr float kLeastInverseNorm = 0x1p-60f;
constexpr float kLog2E = 1.44269504f;
// Keys whose scores the histogram takes: all of up to twice as many, then a half, a quarter, and an eighth of each block.
constexpr size_t kHistogramKeys = 16384;
constexpr size_t kLeastHistogramLanes = 8;

// Sections of index 0, and of 1 + head.
constexpr uint32_t kHeaderSection = FourCc("HEAD"), kSizesSection = FourCc("SIZE");
constexpr uint32_t kCodeSection = FourCc("CODE"), kFactorSection = FourCc("FACT"), kCentreSection = FourCc("CENT");
static_assert(kHeaderSection < kSizesSection && kCodeSection < kFactorSection && kFactorSection < kCentreSection);

// heads, dim, bits, seed, centred.
constexpr size_t kHeaderNumbers = 5;

size_t RoundUp(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

uint16_t ToBf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

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

}  // namespace

// What draws and adds of one thread reuse.
struct KeySketch::Scratch {
  Buffer<int16_t> rounded;         // [dim, even]
  Buffer<int16_t> lanes, rotated;  // [size][kLanes]
  Buffer<uint8_t> planes;          // [bits][size / 8][kLanes]
  float inverse_norms[kLanes];
  Buffer<uint8_t> tables;          // [kSketchQueries][size / kSketchUnit][kSketchTableBytes]
  Query queries[kSketchQueries];
  Buffer<float> scores;            // [kSketchQueries][keys]
  alignas(64) float uniforms[kChunkKeys];
  struct Drawn {
    Buffer<uint32_t> ids;
    Buffer<float> log_probability;  // thresholds at first
  };
  std::vector<Drawn> drawn;        // [queries]
  std::vector<Sample> samples;     // [queries]

  void Reserve(size_t dim, size_t size) {
    rounded.Reserve(dim + 1, 0);
    lanes.Reserve(size * kLanes, 0);
    rotated.Reserve(size * kLanes, 0);
    planes.Reserve(kMaxSketchBits * size / 8 * kLanes, 0);
    tables.Reserve(kSketchQueries * size / kSketchUnit * kSketchTableBytes, 0);
  }
};

KeySketch::Scratch& KeySketch::ThreadScratch() {
  thread_local Scratch scratch;
  return scratch;
}

KeySketch::KeySketch(Options options)
    : options_(std::move(options)),
      kernels_(BestKernels()),
      sketch_(BestSketchKernels()),
      size_(std::max(kSketchUnit, std::bit_ceil(size_t{options_.dim}))),
      flips_(kRotations * size_),
      heads_(options_.heads) {
  // The butterflies of a rotation are halved after every second stage; an odd last stage is halved in one of three rotations.
  const bool odd = std::countr_zero(size_) % 2 == 1;
  norm_ = odd ? kRotatedNorm * 1.4142135623730951 : kRotatedNorm;
  const double deviation = norm_ / std::sqrt(static_cast<double>(size_));
  for (int i = 0; i < kSketchSteps; ++i) {
    steps_[i] = static_cast<int32_t>(std::lround(deviation * kOptimalStep[options_.bits - 1] * kStepScales[i]));
  }
  for (uint32_t r = 0; r < kRotations; ++r) {
    PhiloxBlock words{};
    for (uint32_t i = 0; i < size_; ++i) {
      if (i % 128 == 0) {
        words = Philox({i / 128, r, 0, kFlipDomain}, static_cast<uint32_t>(options_.seed), static_cast<uint32_t>(options_.seed >> 32));
      }
      flips_[r * size_ + i] = words[i % 128 / 32] >> i % 32 & 1 ? -1 : 1;
    }
  }
}

size_t KeySketch::BytesFor(uint32_t dim, uint32_t bits, size_t keys) {
  const size_t size = std::max(kSketchUnit, std::bit_ceil(size_t{dim}));
  const size_t chunks = (keys + kChunkKeys - 1) / kChunkKeys;
  return chunks * (sizeof(Chunk) + kChunkKeys * (bits * size / 8 + sizeof(uint16_t))) + dim * sizeof(float);
}

size_t KeySketch::bytes() const {
  size_t sum = sizeof(KeySketch) + flips_.bytes() + heads_.capacity() * sizeof(Head);
  for (const Head& head : heads_) {
    sum += head.chunks.capacity() * sizeof(head.chunks[0]) + (head.centre ? head.centre->bytes() : 0);
    for (const auto& chunk : head.chunks) sum += sizeof(Chunk) + chunk->own_codes.bytes() + chunk->own_factors.bytes();
  }
  return sum;
}

// A chunk of its own, with the first `keys` keys of another.
std::shared_ptr<KeySketch::Chunk> KeySketch::NewChunk(const Chunk* copied, size_t keys) const {
  auto chunk = std::make_shared<Chunk>();
  chunk->own_codes = Buffer<uint8_t>(kChunkKeys / kSketchKeys * block_bytes());
  chunk->own_factors = Buffer<uint16_t>(kChunkKeys);
  chunk->codes = chunk->own_codes.data();
  chunk->factors = chunk->own_factors.data();
  const size_t blocks = (keys + kSketchKeys - 1) / kSketchKeys;
  const size_t code_bytes = blocks * block_bytes(), factors = blocks * kSketchKeys;
  if (keys > 0) {
    std::memcpy(chunk->own_codes.data(), copied->codes, code_bytes);
    std::memcpy(chunk->own_factors.data(), copied->factors, factors * sizeof(uint16_t));
  }
  // Blocks are scanned, and written to files, whole.
  std::memset(chunk->own_codes.data() + code_bytes, 0, chunk->own_codes.bytes() - code_bytes);
  std::memset(chunk->own_factors.data() + factors, 0, (kChunkKeys - factors) * sizeof(uint16_t));
  return chunk;
}

// Vectors [count][dim], less centre, to lanes `lane` and on of scratch.rotated; and their inverse norms.
KeySketch::Status KeySketch::Rotate(const float* vectors, size_t count, size_t lane, const float* centre, Scratch& scratch) const {
  const size_t dim = options_.dim;
  std::memset(scratch.lanes.data(), 0, size_ * kLanes * sizeof(int16_t));
  for (size_t i = 0; i < count; ++i) {
    float* inverse_norm = &scratch.inverse_norms[lane + i];
    if (!kernels_.quantise(vectors + i * dim, centre, dim, kRotatedNorm, true, scratch.rounded.data(), inverse_norm)) {
      return Status::kNonFinite;
    }
    if (*inverse_norm != 0 && *inverse_norm < kLeastInverseNorm) return Status::kTooLarge;
    for (size_t k = 0; k < dim; ++k) scratch.lanes[k * kLanes + lane + i] = scratch.rounded[k];
  }
  sketch_.rotate(scratch.lanes.data(), size_, flips_.data(), scratch.rotated.data());
  return Status::kOk;
}

// Keys [count][dim] to the places `place` and on of a chunk, all within one run of kLanes.
KeySketch::Status KeySketch::EncodeLanesOf(const float* keys, size_t count, const float* centre, size_t place, Chunk& chunk,
                                           Scratch& scratch) const {
  const size_t lane = place % kLanes;
  const Status status = Rotate(keys, count, lane, centre, scratch);
  if (status != Status::kOk) return status;
  int32_t dots[kLanes];
  sketch_.encode(scratch.rotated.data(), size_, options_.bits, steps_, scratch.planes.data(), dots);
  uint8_t* codes = chunk.own_codes.data() + place / kSketchKeys * block_bytes() + place % kSketchKeys;
  for (size_t byte = 0; byte < options_.bits * size_ / 8; ++byte) {
    std::memcpy(codes + byte * kSketchKeys, scratch.planes.data() + byte * kLanes + lane, count);
  }
  for (size_t i = lane; i < lane + count; ++i) {
    // Zero for a key that is its centre: it scores as the centre does.
    const double inverse_norm = scratch.inverse_norms[i];
    const bool usable = inverse_norm > 0 && dots[i] > 0;
    chunk.own_factors[place - lane + i] = ToBf16(usable ? static_cast<float>(norm_ / (inverse_norm * dots[i])) : 0.0f);
  }
  return Status::kOk;
}

KeySketch::Status KeySketch::Add(uint32_t at, const float* keys, size_t n) {
  if (n == 0) return Status::kOk;
  const size_t dim = options_.dim;
  Head& head = heads_[at];
  std::shared_ptr<const Buffer<float>> centre = head.centre;
  if (options_.centred && !centre) {
    auto mean = std::make_shared<Buffer<float>>(dim);
    std::vector<double> sums(dim);
    for (size_t row = 0; row < n; ++row) {
      for (size_t i = 0; i < dim; ++i) sums[i] += keys[row * dim + i];
    }
    for (size_t i = 0; i < dim; ++i) (*mean)[i] = static_cast<float>(sums[i] / static_cast<double>(n));
    centre = std::move(mean);
  }

  // From the chunk that the first key goes to.
  std::vector<std::shared_ptr<Chunk>> chunks;
  const size_t size = head.size, first_chunk = size / kChunkKeys, used = size % kChunkKeys;
  if (used > 0) {
    const auto& last = head.chunks[first_chunk];
    const bool writable = last.use_count() == 1 && last->own_codes.size() > 0;
    chunks.push_back(writable ? last : NewChunk(last.get(), used));
  }
  while ((first_chunk + chunks.size()) * kChunkKeys < size + n) chunks.push_back(NewChunk(nullptr, 0));
  head.chunks.reserve(first_chunk + chunks.size());

  const magicpig_pool& pool = *options_.pool;
  std::vector<Scratch> scratches(pool.threads);
  for (Scratch& each : scratches) each.Reserve(dim, size_);
  std::atomic<Status> status{Status::kOk};
  const size_t first_run = size / kLanes, runs = (size + n + kLanes - 1) / kLanes - first_run;
  constexpr size_t kTaskRuns = 8;
  ParallelFor(pool, static_cast<uint32_t>((runs + kTaskRuns - 1) / kTaskRuns), [&](uint32_t task, uint32_t thread) {
    const size_t end = std::min((task + 1) * kTaskRuns, runs);
    for (size_t run = task * kTaskRuns; run < end && status.load(std::memory_order_relaxed) == Status::kOk; ++run) {
      const size_t begin = std::max((first_run + run) * kLanes, size), stop = std::min((first_run + run + 1) * kLanes, size + n);
      const Status result = EncodeLanesOf(keys + (begin - size) * dim, stop - begin, centre ? centre->data() : nullptr, begin % kChunkKeys,
                                          *chunks[begin / kChunkKeys - first_chunk], scratches[thread]);
      if (result != Status::kOk) status.store(result, std::memory_order_relaxed);
    }
  });
  if (status != Status::kOk) return status;

  head.chunks.resize(first_chunk);
  for (auto& chunk : chunks) head.chunks.push_back(std::move(chunk));
  head.centre = std::move(centre);
  head.size = size + n;
  return Status::kOk;
}

void KeySketch::Truncate(uint32_t at, size_t size) {
  Head& head = heads_[at];
  head.chunks.resize((size + kChunkKeys - 1) / kChunkKeys);
  head.size = size;
}

void KeySketch::Clear() {
  for (Head& head : heads_) head = Head();
}

void KeySketch::Dispose() {
  Clear();
  disposed_ = true;
}

std::shared_ptr<KeySketch> KeySketch::Fork() const {
  auto fork = std::make_shared<KeySketch>(options_);
  fork->heads_ = heads_;
  return fork;
}

std::vector<uint64_t> KeySketch::Header() const {
  std::vector<uint64_t> header{options_.heads, options_.dim, options_.bits, options_.seed, options_.centred};
  for (const Head& head : heads_) header.push_back(head.size);
  return header;
}

void KeySketch::Write(const std::vector<uint64_t>& header, ContainerWriter& file) const {
  file.Add(0, kHeaderSection, header.data(), kHeaderNumbers * sizeof(uint64_t));
  file.Add(0, kSizesSection, header.data() + kHeaderNumbers, options_.heads * sizeof(uint64_t));
  for (uint32_t at = 0; at < options_.heads; ++at) {
    const Head& head = heads_[at];
    const size_t blocks = RoundUp(head.size, kSketchKeys) / kSketchKeys;
    constexpr size_t kChunkBlocks = kChunkKeys / kSketchKeys;
    for (const uint32_t kind : {kCodeSection, kFactorSection}) {
      size_t left = blocks;
      for (const auto& chunk : head.chunks) {
        const size_t count = std::min(left, kChunkBlocks);
        if (kind == kCodeSection) {
          file.Add(at + 1, kind, chunk->codes, count * block_bytes());
        } else {
          file.Add(at + 1, kind, chunk->factors, count * kSketchKeys * sizeof(uint16_t));
        }
        left -= count;
      }
    }
    if (head.centre) file.Add(at + 1, kCentreSection, head.centre->data(), options_.dim * sizeof(float));
  }
}

void KeySketch::ReadHeader(const Container& file, Options& options) {
  const auto* header = file.Get<uint64_t>(0, kHeaderSection, kHeaderNumbers);
  const auto number = [&](size_t i, const char* name, uint64_t least, uint64_t most) {
    if (header[i] < least || header[i] > most) throw Corrupt(std::string(name) + " is " + std::to_string(header[i]) + ".");
    return header[i];
  };
  options.heads = static_cast<uint32_t>(number(0, "heads", 1, kMaxHeads));
  options.dim = static_cast<uint32_t>(number(1, "dim", 1, kMaxSketchSize));
  options.bits = static_cast<uint32_t>(number(2, "bits", 1, kMaxSketchBits));
  options.seed = number(3, "seed", 0, kMaxSeed);
  options.centred = number(4, "centred", 0, 1) != 0;
}

std::shared_ptr<KeySketch> KeySketch::FromFile(std::shared_ptr<const Container> file, Options options) {
  auto sketch = std::make_shared<KeySketch>(std::move(options));
  const Options& made = sketch->options_;
  const auto* sizes = file->Get<uint64_t>(0, kSizesSection, made.heads);
  for (uint32_t at = 0; at < made.heads; ++at) {
    Head& head = sketch->heads_[at];
    if (sizes[at] > kMaxKeys) throw Corrupt("A head has " + std::to_string(sizes[at]) + " keys.");
    head.size = sizes[at];
    const size_t blocks = RoundUp(head.size, kSketchKeys) / kSketchKeys;
    const auto* codes = file->Get<uint8_t>(at + 1, kCodeSection, blocks * sketch->block_bytes());
    const auto* factors = file->Get<uint16_t>(at + 1, kFactorSection, blocks * kSketchKeys);
    for (size_t first = 0; first < head.size; first += kChunkKeys) {
      auto chunk = std::make_shared<Chunk>();
      chunk->codes = codes + first / kSketchKeys * sketch->block_bytes();
      chunk->factors = factors + first;
      chunk->file = file;
      head.chunks.push_back(std::move(chunk));
    }
    // A head that was emptied keeps its centre.
    if (made.centred && (head.size > 0 || file->Has(at + 1, kCentreSection))) {
      auto centre = std::make_shared<Buffer<float>>(made.dim);
      std::memcpy(centre->data(), file->Get<float>(at + 1, kCentreSection, made.dim), centre->bytes());
      head.centre = std::move(centre);
    }
  }
  return sketch;
}

// Rounds queries [count][dim], at most kSketchQueries, and makes their tables.
KeySketch::Status KeySketch::Prepare(const Head& head, const float* queries, size_t count, Scratch& scratch) const {
  const size_t dim = options_.dim, table_bytes = size_ / kSketchUnit * kSketchTableBytes;
  scratch.Reserve(dim, size_);
  const Status status = Rotate(queries, count, 0, nullptr, scratch);
  if (status != Status::kOk) return status;
  for (size_t i = 0; i < count; ++i) {
    int16_t y[kMaxSketchSize], q[kMaxSketchSize];
    for (size_t k = 0; k < size_; ++k) y[k] = scratch.rotated[k * kLanes + i];
    const float gain = RoundQuery(y, size_, options_.bits, q);
    uint8_t* tables = scratch.tables.data() + i * table_bytes;
    sketch_.tables(q, size_, tables);
    int32_t sum = 0;
    for (size_t k = 0; k < size_; ++k) sum += std::abs(q[k]);

    Query& query = scratch.queries[i];
    const double inverse_norm = scratch.inverse_norms[i];
    query.sigma = gain > 0 ? static_cast<float>(options_.scale / (inverse_norm * norm_ * gain)) : 0.0f;
    query.norm = gain > 0 ? 1 / inverse_norm : 0;
    query.offset = head.centre ? static_cast<float>(kernels_.dot(queries + i * dim, head.centre->data(), dim) * options_.scale) : 0.0f;
    query.scan = {tables, static_cast<float>(((1 << options_.bits) - 1) * sum)};
  }
  return Status::kOk;
}

// Mean of factor^2 over some of the first n keys.
double KeySketch::MeanSquareFactor(const Head& head, size_t n) {
  const size_t blocks = RoundUp(n, kSketchKeys) / kSketchKeys, step = (blocks + kNoiseBlocks - 1) / kNoiseBlocks;
  double sums[4] = {};
  size_t count = 0;
  for (size_t first = 0; first < n; first += step * kSketchKeys) {
    const uint16_t* factors = head.chunks[first / kChunkKeys]->factors + first % kChunkKeys;
    const size_t keys = std::min(kSketchKeys, n - first);
    for (size_t i = 0; i < keys; ++i) {
      const double factor = std::bit_cast<float>(uint32_t{factors[i]} << 16);
      sums[i % 4] += factor * factor;
    }
    count += keys;
  }
  return (sums[0] + sums[1] + sums[2] + sums[3]) / static_cast<double>(count);
}

// r of the first n keys, and of the rest of the last block, which are not meant by largest [count].
void KeySketch::Scan(const Head& head, size_t n, const Query* queries, size_t count, float* scores, size_t stride, float* largest) const {
  SketchQuery scan[kSketchQueries];
  for (size_t i = 0; i < count; ++i) scan[i] = queries[i].scan;
  std::fill_n(largest, count, -std::numeric_limits<float>::infinity());
  for (size_t first = 0; first < n; first += kChunkKeys) {
    const Chunk& chunk = *head.chunks[first / kChunkKeys];
    const size_t keys = std::min(kChunkKeys, n - first), blocks = keys / kSketchKeys, rest = keys % kSketchKeys;
    sketch_.scan(chunk.codes, chunk.factors, blocks, options_.bits, size_, scan, count, scores + first, stride, largest);
    if (rest == 0) continue;
    float ignored[kSketchQueries] = {};
    const size_t tail = blocks * kSketchKeys;
    sketch_.scan(chunk.codes + blocks * block_bytes(), chunk.factors + tail, 1, options_.bits, size_, scan, count, scores + first + tail,
                 stride, ignored);
    for (size_t i = 0; i < count; ++i) {
      const float* r = scores + i * stride + first + tail;
      for (size_t k = 0; k < rest; ++k) largest[i] = std::max(largest[i], r[k]);
    }
  }
}

KeySketch::Status KeySketch::Scores(uint32_t at, const float* query, float* scores) const {
  const Head& head = heads_[at];
  Scratch& scratch = ThreadScratch();
  const Status status = Prepare(head, query, 1, scratch);
  if (status != Status::kOk || head.size == 0) return status;
  scratch.scores.Reserve(RoundUp(head.size, kSketchKeys), 0);
  float largest;
  Scan(head, head.size, scratch.queries, 1, scratch.scores.data(), 0, &largest);
  const Query& made = scratch.queries[0];
  for (size_t i = 0; i < head.size; ++i) scores[i] = scratch.scores[i] * made.sigma + made.offset;
  return Status::kOk;
}

KeySketch::Status KeySketch::Draw(uint32_t at, const float* queries, size_t total, size_t limit, uint32_t step, const SketchBudget& budget,
                                  Sample* samples) const {
  const Head& head = heads_[at];
  const size_t n = std::min(limit, head.size), stride = RoundUp(n, kSketchKeys);
  Scratch& scratch = ThreadScratch();
  if (scratch.drawn.size() < total) scratch.drawn.resize(total);
  scratch.scores.Reserve(kSketchQueries * stride, 0);
  const double square_factor = n > 0 ? MeanSquareFactor(head, n) : 0;
  for (size_t first = 0; first < total; first += kSketchQueries) {
    const size_t count = std::min(kSketchQueries, total - first);
    const Status status = Prepare(head, queries + first * options_.dim, count, scratch);
    if (status != Status::kOk) return status;
    float largest[kSketchQueries];
    Scan(head, n, scratch.queries, count, scratch.scores.data(), stride, largest);

    SketchDraw draws[kSketchQueries];
    for (size_t i = 0; i < count; ++i) {
      Sample& sample = samples[first + i];
      Scratch::Drawn& drawn = scratch.drawn[first + i];
      drawn.ids.Reserve(stride + kDrawSlack, 0);
      drawn.log_probability.Reserve(stride + kDrawSlack, 0);
      sample = {drawn.ids.data(), drawn.log_probability.data(), 0, 0};
      if (n == 0) continue;
      uint32_t counts[kSketchBins] = {};
      const size_t lanes = HistogramLanes(n), counted = n / kSketchKeys * lanes + std::min(lanes, n % kSketchKeys);
      const Query& query = scratch.queries[i];
      const float temper = kTemper[options_.bits - 1], sigma = query.sigma * temper;
      sketch_.histogram(scratch.scores.data() + i * stride, n, lanes, largest[i], sigma * 8, counts);
      const double length = options_.scale * query.norm;
      const double inflation = NoiseInflation(temper * kNoise[options_.bits - 1] * length * length * square_factor);
      const SketchPlan plan = PlanDraw(counts, counted, n, budget, options_.floor_share, inflation);
      sample.error = plan.error;
      draws[i] = {largest[i], sigma * kLog2E, plan.tau, plan.floor};
    }

    for (size_t key = 0; key < n; key += kChunkKeys) {
      const size_t keys = std::min(kChunkKeys, stride - key);
      sketch_.uniforms(options_.seed, at, step, static_cast<uint32_t>(key), keys, scratch.uniforms);
      for (size_t k = n - key; k < keys; ++k) scratch.uniforms[k] = std::numeric_limits<float>::infinity();
      for (size_t i = 0; i < count; ++i) {
        Sample& sample = samples[first + i];
        Scratch::Drawn& drawn = scratch.drawn[first + i];
        sample.count += sketch_.draw(scratch.scores.data() + i * stride + key, scratch.uniforms, keys, draws[i], static_cast<uint32_t>(key),
                                     drawn.ids.data() + sample.count, drawn.log_probability.data() + sample.count);
      }
    }
    for (size_t i = 0; i < count; ++i) sketch_.logs(scratch.drawn[first + i].log_probability.data(), samples[first + i].count);
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
