// SimHash tables of many heads over vectors: centring, hashing, inverse norms, kept vectors, and files.
#ifndef MAGICPIG_LSH_TABLES_H_
#define MAGICPIG_LSH_TABLES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../include/magicpig/selector.h"
#include "buffer.h"
#include "column.h"
#include "container.h"
#include "head_index.h"
#include "pool_handle.h"
#include "projection.h"
#include "vectors.h"

namespace magicpig::lsh {

enum class Status { kOk, kNonFinite, kInvalidCode, kInvalidNorm, kInvalidSegment, kCentre, kStopped };

// What head keys are hashed relative to: nothing, the mean of the keys of the head's first add, or given vectors.
enum class Centring : uint32_t { kNone = 0, kAuto = 1, kGiven = 2 };

// How tables were made, beside their projection: what files carry.
struct TablesOptions {
  uint32_t heads;
  uint32_t min_collisions;
  double min_probability;
  Centring centring;
  Element keep;
  bool norms;
};

// Keys that were hashed and sorted elsewhere, as Segment has them.
struct GivenSegment {
  uint32_t count;
  const uint16_t* starts;      // [tables][buckets + 1][parts]
  const uint16_t* ids;         // [tables][count]
  const float* inverse_norms;  // [count]
  const float* centre;         // [dim], or null
};

// Shared with another thread while a call runs: it sets stop to end the call early, and reads how many rows are done.
struct Control {
  std::atomic<uint32_t> stop, done;
};
static_assert(sizeof(Control) == 2 * sizeof(uint32_t) && std::atomic<uint32_t>::is_always_lock_free);

// What a query asks for; see EngineQuery in src/engine.ts.
struct QueryOptions {
  uint32_t min_collisions;
  bool collisions;
  bool dots;
  const float* log_table;  // [log_size], or null
  size_t log_size;
  uint32_t nearest;  // 0: all
};

// What one query found: arrays [count] or null, valid until the next query of the thread.
struct Candidates {
  Status status = Status::kOk;
  size_t count = 0;
  const uint32_t* ids = nullptr;
  const uint16_t* collisions = nullptr;
  const double* dots = nullptr;
  const float* probabilities = nullptr;
};

// What many queries found, one behind the other.
struct CandidatesBatch {
  Status status = Status::kOk;
  std::vector<uint32_t> offsets;  // [queries + 1]
  // Results of some adjacent queries.
  struct Piece {
    std::vector<uint32_t> ids;
    std::vector<uint16_t> collisions;
    std::vector<double> dots;
    std::vector<float> probabilities;
  };
  std::vector<Piece> pieces;
};

class Tables {
 public:
  // All functions that allocate throw std::bad_alloc, and then nothing has changed. centres [heads][dim] for kGiven.
  Tables(const TablesOptions& options, std::shared_ptr<const Projection> projection, std::vector<float> log_table,
         PoolHandle pool, std::vector<float> centres);

  const TablesOptions& options() const { return options_; }
  const Projection& projection() const { return *projection_; }
  TablesShape shape() const { return {projection_->bits(), projection_->tables()}; }
  // What forks share is divided among them; parts of a mapped file do not count.
  size_t bytes() const;
  size_t size(uint32_t head) const { return heads_[head] ? heads_[head]->index.size() : 0; }
  // [dim], or null for zero.
  const float* centre(uint32_t head) const;
  // Of one head; null while it has no keys and no centre.
  const HeadIndex* index(uint32_t head) const { return heads_[head] ? &heads_[head]->index : nullptr; }
  size_t vector_bytes(uint32_t head) const { return heads_[head] ? heads_[head]->vectors.bytes() : 0; }
  size_t norm_bytes(uint32_t head) const {
    return heads_[head] ? heads_[head]->inverse_norms.bytes() + heads_[head]->centre.bytes() : 0;
  }
  // Upper bound of the bytes of one head with n keys, when none were forgotten since.
  static size_t MostBytes(TablesShape shape, size_t n, size_t dim, bool norms, Element keep);

  // Appends keys [n][dim]. kNonFinite when one holds, or becomes by centring, NaN or an infinity, kStopped when `control` (may be
  // null) says so; then nothing has changed.
  Status Add(uint32_t head, Vectors keys, size_t n, Control* control);
  // Appends keys by their codes [n][tables] alone; their inverse norms are 0. kInvalidCode when one has more than `bits` bits.
  Status AddCodes(uint32_t head, const uint16_t* codes, size_t n);
  // Appends keys of which no vectors are kept. kInvalidNorm when one is negative or not finite, kInvalidSegment when `table` does
  // not hold every key once and in order, kCentre unless there is a centre exactly when a head of kAuto has none yet.
  Status AddSegment(uint32_t head, const GivenSegment& segment, uint32_t* table);
  // All that change a fork of a view also throw FileError when what they change is not as it should be.
  void Truncate(uint32_t head, size_t size);
  void Clear();
  // Frees everything; select fails from then on.
  void Dispose();
  // Tables with the same keys, which share their memory until one of the two changes it.
  std::shared_ptr<Tables> Fork() const;

  // Candidates of a query [dim].
  Candidates Query(uint32_t head, Vectors query, const QueryOptions& what) const;
  // Candidates of queries [n][dim], on the pool.
  CandidatesBatch QueryBatch(uint32_t head, Vectors queries, size_t n, const QueryOptions& what, Control* control) const;
  // magicpig_selector::select.
  int Select(const magicpig_selector_args& args, magicpig_selection* out) const;

  // Collects the sections of a file of docs/format.md and hands them to `save`.
  void Write(const std::function<void(const ContainerWriter&, const magicpig_pool&)>& save) const;

  static constexpr ContainerKind kFileKind{FourCc("TABL"), 1};
  // What a file says about its tables. Throws FileError.
  struct FileShape {
    TablesOptions options;
    ProjectionKind kind;
    uint32_t dim, bits, tables;
    uint64_t seed;
  };
  static FileShape ReadShape(const Container& file);
  // The tables in a file; with `view` they stay there, and what changes is taken out of it. Without `view` or with `verify`
  // everything is checked. Throws FileError.
  static std::unique_ptr<Tables> Read(std::shared_ptr<const Container> file, std::shared_ptr<const Projection> projection,
                                      std::vector<float> log_table, PoolHandle pool, bool view, bool verify);

 private:
  struct Head {
    explicit Head(TablesShape shape) : index(shape) {}
    HeadIndex index;
    Column<float> inverse_norms;  // [index.size()], if kept
    Column<float> centre;         // [dim], or empty for zero
    Column<uint8_t> vectors;      // [index.size()][dim] of options.keep
  };
  // As bytes(), of a head's columns.
  static size_t ColumnShares(const Head& head) {
    return head.vectors.share() + head.inverse_norms.share() + head.centre.share();
  }
  // The head, or a fresh one to be put in its place when it has its keys.
  Head& Open(uint32_t head, std::unique_ptr<Head>& fresh) const;
  // Adds dot products and probabilities, or picks the nearest.
  Candidates Refine(uint32_t head, const float* query, const QueryOptions& what, const Found& found) const;

  TablesOptions options_;
  std::shared_ptr<const Projection> projection_;
  std::vector<float> log_table_;  // -log u over the cosine, see magicpig_selection::table
  PoolHandle pool_;
  std::vector<float> centres_;  // [heads][dim] if given
  const Kernels& kernels_;
  bool disposed_ = false;
  std::shared_ptr<const Container> file_;      // of a view
  std::vector<std::unique_ptr<Head>> heads_;  // [heads]; null while a head has no keys and no centre
};

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_TABLES_H_
