// Key sketches of many heads: a few bits a dimension that estimate every key's score, and draws of keys by those estimates.
#ifndef MAGICPIG_LSH_SKETCH_H_
#define MAGICPIG_LSH_SKETCH_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "../include/magicpig/selector.h"
#include "buffer.h"
#include "container.h"
#include "kernels.h"
#include "pool_handle.h"
#include "sketch_kernels.h"
#include "sketch_plan.h"

namespace magicpig::lsh {

class KeySketch {
 public:
  struct Options {
    uint32_t heads, dim, bits;
    uint64_t seed;
    double scale;  // of scores: scale q.k
    bool centred;  // on the mean of the keys of a head's first add
    SketchBudget budget;
    double floor_share;
    PoolHandle pool;
  };
  static constexpr uint32_t kMaxHeads = 1u << 20;
  static constexpr uint64_t kMaxKeys = UINT32_MAX - 1024;
  static constexpr uint64_t kMaxSeed = (uint64_t{1} << 53) - 1;

  // kTooLarge: a vector is longer than 2^60.
  enum class Status { kOk, kNonFinite, kTooLarge };

  // All functions that allocate throw std::bad_alloc, and then nothing has changed.
  explicit KeySketch(Options options);
  static constexpr ContainerKind kFileKind = {FourCc("SKCH"), 1};
  // What a file says of a sketch: heads, dim, bits, seed and centred. Throws FileError.
  static void ReadHeader(const Container& file, Options& options);
  // The keys of a file, which stay there until they are changed. options has what ReadHeader said. Throws FileError.
  static std::shared_ptr<KeySketch> FromFile(std::shared_ptr<const Container> file, Options options);

  const Options& options() const { return options_; }
  size_t size(uint32_t head) const { return heads_[head].size; }
  // Bytes that a head of `keys` keys takes, centre included.
  static size_t BytesFor(uint32_t dim, uint32_t bits, size_t keys);
  // Bytes held; parts shared with forks are divided among them, those of a mapped file do not count.
  size_t bytes() const;
  // [dim], or null for zero.
  const float* centre(uint32_t head) const { return heads_[head].centre ? heads_[head].centre->data() : nullptr; }

  // Appends keys [n][dim]. Unless the result is kOk, nothing has changed.
  Status Add(uint32_t head, const float* keys, size_t n);
  void Truncate(uint32_t head, size_t size);
  void Clear();
  // Frees everything; select fails from then on.
  void Dispose();
  // A sketch with the same keys, which shares their memory until one of the two writes to it.
  std::shared_ptr<KeySketch> Fork() const;
  // The numbers at the head of a file, and everything as sections of one. Neither may change before it is written.
  std::vector<uint64_t> Header() const;
  void Write(const std::vector<uint64_t>& header, ContainerWriter& file) const;

  // Estimated scores [size(head)] of query [dim].
  Status Scores(uint32_t head, const float* query, float* scores) const;

  // Keys drawn for one query; valid until the next draw of this thread.
  struct Sample {
    const uint32_t* ids;           // (count) ascending
    const float* log_probability;  // (count)
    size_t count;
    double error;                  // estimated relative standard error of the sum of e^score over all keys
  };
  // Draws among the first `limit` keys for queries [count][dim]; samples [count].
  Status Draw(uint32_t head, const float* queries, size_t count, size_t limit, uint32_t step, const SketchBudget& budget,
              Sample* samples) const;

  // What all selectors of this sketch have drawn since the last Reset.
  struct Stats {
    uint64_t draws = 0, read = 0, keys = 0;  // draws, keys drawn, and keys that were there, summed over the draws
    double error = 0, largest_error = 0;     // sum and largest of Sample::error
  };
  Stats stats() const;
  void ResetStats();

  // magicpig_selector::select.
  int Select(const magicpig_selector_args& args, magicpig_selection* out) const;

 private:
  // Keys in memory of its own, or within a file: kSketchChunk of them, or as many as the last one needs.
  struct Chunk {
    const uint8_t* codes;     // [blocks][bits][size / 8][kSketchKeys]
    const uint16_t* factors;  // [blocks][kSketchKeys] bfloat16
    Buffer<uint8_t> memory;   // codes, then factors
    size_t room = 0;          // keys that memory has room for
    std::shared_ptr<const Container> file;
    // Of kSketchChunk factors, signs aside, once somebody needed it.
    static constexpr int16_t kUnknown = -1;
    std::atomic<int16_t> largest_factor{kUnknown};
  };
  struct Head {
    size_t size = 0;
    std::vector<std::shared_ptr<Chunk>> chunks;
    std::shared_ptr<const Buffer<float>> centre;  // [dim], or null for zero
  };
  // Working space of rotations, and what they leave.
  struct Rotated {
    Buffer<int16_t> rounded;         // [dim, even]
    Buffer<int16_t> lanes, rotated;  // [size][kLanes]
    float inverse_norms[kLanes];
    void Reserve(size_t dim, size_t size) {
      rounded.Reserve(dim + 1, 0);
      lanes.Reserve(size * kLanes, 0);
      rotated.Reserve(size * kLanes, 0);
    }
  };
  struct Query;
  struct Scratch;
  static Scratch& ThreadScratch();

  size_t block_bytes() const { return kSketchKeys * options_.bits * size_ / 8; }
  std::shared_ptr<Chunk> NewChunk(size_t room, const Chunk* copied, size_t keys) const;
  Status EncodeLanesOf(const float* keys, size_t count, const float* centre, size_t place, Chunk& chunk, Rotated& space) const;
  Status Rotate(const float* vectors, size_t count, size_t lane, const float* centre, Rotated& space) const;
  Status Prepare(const Head& head, const float* queries, size_t count, Scratch& scratch) const;
  void Depths(const Head& head, size_t n, size_t count, Scratch& scratch) const;
  size_t Count(size_t n, const uint8_t* depths, const int32_t* bounds, int32_t largest, uint32_t* counts) const;
  static int32_t LargestExponent(const Head& head, size_t n);
  static double MeanSquareFactor(const Head& head, size_t n);

  Options options_;
  const Kernels& kernels_;
  const SketchKernels& sketch_;
  size_t size_;             // coordinates of a rotated vector
  double norm_;             // of a rotated vector
  int32_t steps_[kSketchSteps];
  Buffer<int16_t> flips_;   // [3][size]
  bool disposed_ = false;
  std::vector<Head> heads_;

  mutable std::atomic<uint64_t> draws_{0}, read_{0}, keys_{0};
  mutable std::atomic<double> error_{0}, largest_error_{0};
};

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_SKETCH_H_
