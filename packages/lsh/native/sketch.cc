#include "sketch.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../include/magicpig/thread_pool.h"
#include "philox.h"
#include "vectors.h"

namespace magicpig::lsh {
namespace {

constexpr int32_t kRotatedNorm = 11500;  // of vectors that are rounded for rotation
constexpr size_t kRotations = 3;
constexpr uint32_t kFlipDomain = 2;  // last word of the counter that flips are drawn with
// The optimal uniform step for a standard normal at 1..4 bits (Max 1960), and what is tried around it.
constexpr double kOptimalStep[kMaxSketchBits] = {1.5958, 0.9957, 0.5860, 0.3352};
constexpr double kStepScales[kSketchSteps] = {0.8, 0.93, 1.06, 1.2};
constexpr float kLeastInverseNorm = 0x1p-60f;

// Whole blocks that hold keys [n].
size_t BlocksOf(size_t n) { return (n + kSketchKeys - 1) / kSketchKeys; }

}  // namespace

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
  const size_t chunks = (keys + kSketchChunk - 1) / kSketchChunk;
  return chunks * (sizeof(Chunk) + sizeof(std::shared_ptr<Chunk>)) + BlocksOf(keys) * kSketchKeys * (bits * size / 8 + sizeof(uint16_t)) +
         dim * sizeof(float);
}

size_t KeySketch::bytes() const {
  // Divided among the holders, and rounded up.
  const auto share = [](const auto& shared, size_t bytes) {
    const auto holders = static_cast<size_t>(shared.use_count());
    return (bytes + holders - 1) / holders;
  };
  size_t sum = sizeof(KeySketch) + flips_.bytes() + heads_.capacity() * sizeof(Head);
  for (const Head& head : heads_) {
    sum += head.chunks.capacity() * sizeof(head.chunks[0]) + (head.centre ? share(head.centre, head.centre->bytes()) : 0);
    for (const auto& chunk : head.chunks) sum += share(chunk, sizeof(Chunk) + chunk->memory.bytes());
  }
  return sum;
}

// A chunk of its own with room for so many keys, and the first `keys` keys of another.
std::shared_ptr<KeySketch::Chunk> KeySketch::NewChunk(size_t room, const Chunk* copied, size_t keys) const {
  auto chunk = std::make_shared<Chunk>();
  chunk->room = BlocksOf(room) * kSketchKeys;
  const size_t factors_at = BlocksOf(room) * block_bytes(), bytes = factors_at + chunk->room * sizeof(uint16_t);
  chunk->memory = Buffer<uint8_t>(bytes);
  uint8_t* codes = chunk->memory.data();
  uint8_t* factors = codes + factors_at;
  chunk->codes = codes;
  chunk->factors = reinterpret_cast<const uint16_t*>(factors);
  const size_t code_bytes = BlocksOf(keys) * block_bytes(), factor_bytes = BlocksOf(keys) * kSketchKeys * sizeof(uint16_t);
  if (keys > 0) {
    std::memcpy(codes, copied->codes, code_bytes);
    std::memcpy(factors, copied->factors, factor_bytes);
  }
  // Blocks are scanned, and written to files, whole.
  std::memset(codes + code_bytes, 0, factors_at - code_bytes);
  std::memset(factors + factor_bytes, 0, bytes - factors_at - factor_bytes);
  return chunk;
}

// Vectors [count][dim], less centre, to lanes `lane` and on of space.rotated; and their inverse norms.
KeySketch::Status KeySketch::Rotate(const float* vectors, size_t count, size_t lane, const float* centre, Rotated& space) const {
  const size_t dim = options_.dim;
  std::memset(space.lanes.data(), 0, size_ * kLanes * sizeof(int16_t));
  for (size_t i = 0; i < count; ++i) {
    float* inverse_norm = &space.inverse_norms[lane + i];
    if (!kernels_.quantise(vectors + i * dim, centre, dim, kRotatedNorm, true, space.rounded.data(), inverse_norm)) {
      return Status::kNonFinite;
    }
    if (*inverse_norm != 0 && *inverse_norm < kLeastInverseNorm) return Status::kTooLarge;
    for (size_t k = 0; k < dim; ++k) space.lanes[k * kLanes + lane + i] = space.rounded[k];
  }
  sketch_.rotate(space.lanes.data(), size_, flips_.data(), space.rotated.data());
  return Status::kOk;
}

// Keys [count][dim] to the places `place` and on of a chunk, all within one run of kLanes.
KeySketch::Status KeySketch::EncodeLanesOf(const float* keys, size_t count, const float* centre, size_t place, Chunk& chunk,
                                           Rotated& space) const {
  const size_t lane = place % kLanes;
  const Status status = Rotate(keys, count, lane, centre, space);
  if (status != Status::kOk) return status;
  uint8_t planes[kMaxSketchBits * kMaxSketchSize / 8 * kLanes];
  int32_t dots[kLanes];
  sketch_.encode(space.rotated.data(), size_, options_.bits, steps_, planes, dots);
  uint8_t* codes = chunk.memory.data() + place / kSketchKeys * block_bytes() + place % kSketchKeys;
  for (size_t byte = 0; byte < options_.bits * size_ / 8; ++byte) {
    std::memcpy(codes + byte * kSketchKeys, planes + byte * kLanes + lane, count);
  }
  auto* factors = reinterpret_cast<uint16_t*>(chunk.memory.data() + chunk.room / kSketchKeys * block_bytes());
  for (size_t i = lane; i < lane + count; ++i) {
    // Zero for a key that is its centre: it scores as the centre does.
    const double inverse_norm = space.inverse_norms[i];
    const bool usable = inverse_norm > 0 && dots[i] > 0;
    factors[place - lane + i] = ToBf16(usable ? static_cast<float>(norm_ / (inverse_norm * dots[i])) : 0.0f);
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
  const size_t size = head.size, first_chunk = size / kSketchChunk, used = size % kSketchChunk;
  for (size_t first = first_chunk * kSketchChunk; first < size + n; first += kSketchChunk) {
    const size_t room = std::min(kSketchChunk, size + n - first);
    const auto* last = first < size ? &head.chunks[first_chunk] : nullptr;
    const bool writable = last != nullptr && last->use_count() == 1 && (*last)->room >= room;
    chunks.push_back(writable ? *last : NewChunk(room, last ? last->get() : nullptr, last ? used : 0));
    chunks.back()->largest_factor.store(Chunk::kUnknown, std::memory_order_relaxed);
  }
  head.chunks.reserve(first_chunk + chunks.size());

  const magicpig_pool& pool = *options_.pool;
  std::vector<Rotated> spaces(pool.threads);
  for (Rotated& each : spaces) each.Reserve(dim, size_);
  std::atomic<Status> status{Status::kOk};
  const size_t first_run = size / kLanes, runs = (size + n + kLanes - 1) / kLanes - first_run;
  constexpr size_t kTaskRuns = 8;
  ParallelFor(pool, static_cast<uint32_t>((runs + kTaskRuns - 1) / kTaskRuns), [&](uint32_t task, uint32_t thread) {
    const size_t end = std::min((task + 1) * kTaskRuns, runs);
    for (size_t run = task * kTaskRuns; run < end && status.load(std::memory_order_relaxed) == Status::kOk; ++run) {
      const size_t begin = std::max((first_run + run) * kLanes, size), stop = std::min((first_run + run + 1) * kLanes, size + n);
      const Status result = EncodeLanesOf(keys + (begin - size) * dim, stop - begin, centre ? centre->data() : nullptr, begin % kSketchChunk,
                                          *chunks[begin / kSketchChunk - first_chunk], spaces[thread]);
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
  head.chunks.resize((size + kSketchChunk - 1) / kSketchChunk);
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

}  // namespace magicpig::lsh
