#include "attention.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>

#include "magicpig/thread_pool.h"
#include "softmax_state.h"

namespace magicpig::kv {
namespace {

// Contexts are cut at multiples of this many keys for a tile of queries.
constexpr uint32_t kTileSegment = 4096;
// Query rows a tile: enough to pay for packing its keys, few enough for their sums to stay in the L2 cache.
constexpr uint32_t kTileRows = 192;
// Keys times KV heads below which one thread is done before the others wake.
constexpr uint64_t kSerialKeys = 384;

// Keys a part of a single query's context. It depends on the position alone: parts begin at multiples of it, whatever
// the number of threads, and there are enough parts to keep many cores busy with a short context.
uint32_t SpanSegment(uint32_t length) {
  uint32_t segment = 256;
  while (segment < 4096 && segment < length / 64) segment *= 2;
  return segment;
}

struct Task {
  enum Kind : uint8_t { kSpan, kTile, kSampled } kind;
  uint32_t entry;
  uint32_t kv_head;  // the first of them, of kSpan
  uint32_t row;      // kTile, kSampled: first row within the entry
  uint32_t rows;     // kTile: positions; otherwise 1
  uint32_t head;     // kSampled: first query head within the group
  uint32_t heads;    // query heads: those of one KV head or fewer; kSpan: of several KV heads
  uint32_t begin;  // kSpan, kTile: keys [begin, end)
  uint32_t end;
  uint32_t part;   // number of this part of the keys
  uint32_t parts;  // 1 when the task sees all keys
  size_t partials;   // floats into the partials where the states of part 0 begin
  size_t remaining;  // index of the counter of parts not yet done
};

// One call of Attend.
class Attention {
 public:
  Attention(const Step& step, const AttendArgs& args)
      : step_(step),
        args_(args),
        store_(step.store()),
        shape_(store_.shape()),
        kernels_(store_.kernels()),
        dim_(shape_.dim),
        group_(shape_.group()),
        state_size_(StateSize(dim_)),
        scale_(1.0f / std::sqrt(static_cast<float>(dim_))) {}

  Status Run() {
    Plan();
    Reserve();
    auto body = [this](uint32_t task, uint32_t thread) { RunTask(tasks_[task], thread); };
    if (work_ <= kSerialKeys) {
      for (uint32_t task = 0; task < tasks_.size(); ++task) body(task, 0);
    } else {
      ParallelFor(store_.pool(), static_cast<uint32_t>(tasks_.size()), body);
    }
    if (failed_entry_.load() != kNone) {
      return Error{ErrorCode::kSelector,
                   "The selector of sampling[" + std::to_string(failed_entry_.load()) + "] " + failure_.load() + "."};
    }
    if (args_.keys_read != nullptr) {
      for (uint32_t row = 0; row < step_.rows(); ++row) args_.keys_read[row] += static_cast<double>(keys_read_[row]);
    }
    if (args_.sampled_ms != nullptr) {
      args_.sampled_ms[0] += static_cast<double>(select_ns_) / 1e6;
      args_.sampled_ms[1] += static_cast<double>(sampled_ns_) / 1e6;
    }
    return std::nullopt;
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  const Sampling* SamplingOf(uint32_t entry) const {
    if (args_.sampling == nullptr) return nullptr;
    const Sampling& sampling = (*args_.sampling)[entry];
    const bool samples = sampling.selector != nullptr && (sampling.begin < sampling.end || sampling.sampled_only);
    return samples ? &sampling : nullptr;
  }

  void Plan() {
    const auto& entries = step_.entries();
    // Tiles first and the last of each entry before its others: they take longest, and what is started last decides how
    // long the others wait.
    for (uint32_t e = 0; e < entries.size(); ++e) {
      if (entries[e].tokens > 1 && SamplingOf(e) == nullptr) PlanTiles(e);
    }
    for (uint32_t e = 0; e < entries.size(); ++e) {
      if (entries[e].tokens == 1 && SamplingOf(e) == nullptr) PlanSpans(e);
    }
    PlanSampled();
  }

  void PlanTiles(uint32_t e) {
    const Step::Entry& entry = step_.entries()[e];
    const uint32_t positions = TilePositions();
    const uint32_t tiles = (entry.tokens + positions - 1) / positions;
    const bool split = tiles * shape_.kv_heads < 4 * store_.pool().threads;
    for (uint32_t tile = tiles; tile-- > 0;) {
      const uint32_t row = tile * positions, rows = std::min(positions, entry.tokens - row);
      const uint32_t end = entry.start + row + rows;
      const uint32_t parts = split ? (end + kTileSegment - 1) / kTileSegment : 1;
      for (uint32_t head = 0; head < shape_.kv_heads; ++head) {
        AddParts({Task::kTile, e, head, row, rows, 0, group_, 0, end, 0, parts, 0, 0}, kTileSegment);
        work_ += uint64_t{end} * rows;
      }
    }
    largest_tile_ = std::max(largest_tile_, std::min(positions, entry.tokens) * group_);
  }

  void PlanSpans(uint32_t e) {
    const Step::Entry& entry = step_.entries()[e];
    const uint32_t length = entry.start + 1, segment = SpanSegment(length);
    const uint32_t parts = (length + segment - 1) / segment, kv_heads = shape_.kv_heads, threads = store_.pool().threads;
    // The rows of all heads lie one behind the other, and memory is read fastest in its own order; heads are split among
    // tasks only where the parts are too few for the threads.
    uint32_t together = kv_heads;
    while (together > 1 && threads > 1 && parts * ((kv_heads + together - 1) / together) < 4 * threads) {
      together = (together + 1) / 2;
    }
    for (uint32_t head = 0; head < kv_heads; head += together) {
      const uint32_t heads = std::min(together, kv_heads - head) * group_;
      AddParts({Task::kSpan, e, head, 0, 1, 0, heads, 0, length, 0, parts, 0, 0}, segment);
    }
    work_ += uint64_t{length} * kv_heads;
    largest_span_ = std::max(largest_span_, together * group_);
  }

  void PlanSampled() {
    const auto& entries = step_.entries();
    uint64_t groups = 0;
    for (uint32_t e = 0; e < entries.size(); ++e) {
      if (SamplingOf(e) != nullptr) groups += uint64_t{entries[e].tokens} * shape_.kv_heads;
    }
    // Whole groups share their static keys and the selector's work; single heads fill the threads more evenly.
    const uint32_t threads = store_.pool().threads;
    const bool whole = groups % threads == 0 || groups >= 8 * threads;
    const uint32_t heads = whole ? group_ : 1;
    for (uint32_t e = 0; e < entries.size(); ++e) {
      const Sampling* sampling = SamplingOf(e);
      if (sampling == nullptr) continue;
      for (uint32_t row = 0; row < entries[e].tokens; ++row) {
        for (uint32_t kv_head = 0; kv_head < shape_.kv_heads; ++kv_head) {
          for (uint32_t head = 0; head < group_; head += heads) {
            tasks_.push_back({Task::kSampled, e, kv_head, row, 1, head, heads, 0, 0, 0, 1, 0, 0});
          }
        }
      }
      work_ += groups * kSerialKeys;  // selection alone is worth a thread
      largest_selection_ = std::max(largest_selection_, sampling->end - sampling->begin);
    }
  }

  // The task, or one task for each part of its keys.
  void AddParts(Task task, uint32_t segment) {
    if (task.parts == 1) {
      tasks_.push_back(task);
      return;
    }
    const uint32_t end = task.end;
    task.partials = partials_;
    task.remaining = counters_++;
    partials_ += size_t{task.parts} * task.rows * task.heads * state_size_;
    // The last part first: for a tile it is the one on the diagonal, for a span the youngest and likeliest in the cache.
    for (uint32_t part = task.parts; part-- > 0;) {
      task.part = part;
      task.begin = part * segment;
      task.end = std::min(end, (part + 1) * segment);
      tasks_.push_back(task);
    }
    part_tasks_.push_back(task);
  }

  uint32_t TilePositions() const { return std::max(1u, kTileRows / group_); }

  // All memory that the tasks use.
  void Reserve() {
    const uint32_t rows = std::max({largest_tile_, largest_span_, group_});
    queries_bytes_ = Align(size_t{rows} * kernels_.query_bytes(dim_));
    states_bytes_ = Align(size_t{rows} * state_size_ * sizeof(float));
    selections_bytes_ = Align(group_ * sizeof(magicpig_selection));
    const size_t tile = largest_tile_ > 0 ? Align(kernels_.tile_bytes(dim_)) : 0;
    if (args_.standard_error != nullptr) scores_bytes_ = Align((size_t{largest_selection_} + kTileKeys) * sizeof(float));
    for (Buffer& buffer : store_.workspace().threads) {
      buffer.Reserve(queries_bytes_ + 2 * states_bytes_ + selections_bytes_ + std::max(tile, 2 * scores_bytes_));
    }
    store_.workspace().partials.Reserve(partials_ * sizeof(float));
    std::atomic<uint32_t>* remaining = store_.workspace().ReserveRemaining(counters_);
    for (const Task& task : part_tasks_) remaining[task.remaining].store(task.parts, std::memory_order_relaxed);
    if (args_.keys_read != nullptr) keys_read_ = std::vector<std::atomic<uint64_t>>(step_.rows());
  }

  static size_t Align(size_t bytes) { return (bytes + 63) / 64 * 64; }

  // A thread's working memory.
  struct Scratch {
    uint8_t* queries;  // prepared (rows)
    float* states;     // (rows)
    float* part;       // (rows): states of a part of the keys
    magicpig_selection* selections;  // (group)
    void* tile;        // packed keys and values
    float* scores;       // (selected keys) for the standard error, or nullptr; the same memory as tile
    float* corrections;  // (selected keys), likewise
  };

  Scratch ScratchOf(uint32_t thread) const {
    uint8_t* base = store_.workspace().threads[thread].data();
    uint8_t* states = base + queries_bytes_;
    uint8_t* selections = states + 2 * states_bytes_;
    uint8_t* rest = selections + selections_bytes_;
    return {base,
            reinterpret_cast<float*>(states),
            reinterpret_cast<float*>(states + states_bytes_),
            reinterpret_cast<magicpig_selection*>(selections),
            rest,
            args_.standard_error != nullptr ? reinterpret_cast<float*>(rest) : nullptr,
            args_.standard_error != nullptr ? reinterpret_cast<float*>(rest + scores_bytes_) : nullptr};
  }

  void RunTask(const Task& task, uint32_t thread) {
    const Scratch scratch = ScratchOf(thread);
    switch (task.kind) {
      case Task::kSpan: return RunSpan(task, scratch);
      case Task::kTile: return RunTile(task, scratch);
      case Task::kSampled: return RunSampled(task, scratch);
    }
  }

  // The query heads [task.head, task.head + task.heads) of the task's rows, row by row.
  void PrepareQueries(const Task& task, uint8_t* prepared) const {
    const uint32_t bytes = kernels_.query_bytes(dim_);
    for (uint32_t row = 0; row < task.rows; ++row) {
      for (uint32_t head = 0; head < task.heads; ++head) {
        kernels_.prepare_query(Query(task, row, head), scale_, dim_, prepared);
        prepared += bytes;
      }
    }
  }

  const float* Query(const Task& task, uint32_t row, uint32_t head) const {
    const size_t index = step_.entries()[task.entry].row + task.row + row;
    return args_.queries.data + index * args_.queries.stride + QueryHead(task, head) * size_t{dim_};
  }

  uint32_t QueryHead(const Task& task, uint32_t head) const { return task.kv_head * group_ + task.head + head; }

  // The end of the page of `begin`, or of the pages of its tile where those are shorter.
  uint32_t PageEnd(uint32_t begin, uint32_t end) const {
    const uint32_t step = std::max(shape_.page_tokens, kTileKeys);
    return std::min(end, (begin / step + 1) * step);
  }

  void ExtendByPages(const HeadRows& rows, uint32_t begin, uint32_t end, const Task& task, const Scratch& scratch) {
    for (uint32_t page_end; begin < end; begin = page_end) {
      page_end = PageEnd(begin, end);
      const ReadNext after{rows.End(page_end), rows.Key(page_end < end ? page_end : begin)};
      kernels_.extend_span(rows, begin, page_end, after, scratch.queries, task.heads, scratch.states);
    }
  }

  void RunSpan(const Task& task, const Scratch& scratch) {
    const Step::Entry& entry = step_.entries()[task.entry];
    PrepareQueries(task, scratch.queries);
    float* states = task.parts == 1 ? scratch.states : Partials(task, task.part);
    for (uint32_t head = 0; head < task.heads; ++head) ResetState(states + head * state_size_, dim_);
    // Page by page, in the order of memory.
    for (uint32_t begin = task.begin; begin < task.end;) {
      const uint32_t end = PageEnd(begin, task.end);
      // The heads' rows lie one behind the other, and behind them those of the next layer.
      const HeadRows first = entry.sequence->Rows(args_.layer, task.kv_head);
      const HeadRows last = entry.sequence->Rows(args_.layer, task.kv_head + task.heads / group_ - 1);
      const ReadNext after{last.End(end), first.Key(end < task.end ? end : begin)};
      for (uint32_t head = 0; head < task.heads; head += group_) {
        kernels_.extend_span(entry.sequence->Rows(args_.layer, task.kv_head + head / group_), begin, end, after,
                             scratch.queries + head * kernels_.query_bytes(dim_), group_, states + head * state_size_);
      }
      begin = end;
    }
    if (task.parts == 1) {
      Finish(task, states);
    } else if (LastPart(task)) {
      MergeParts(task);
    }
  }

  void RunTile(const Task& task, const Scratch& scratch) {
    const Step::Entry& entry = step_.entries()[task.entry];
    const HeadRows rows = entry.sequence->Rows(args_.layer, task.kv_head);
    PrepareQueries(task, scratch.queries);
    const uint32_t count = task.rows * group_;
    const QueryTile tile{scratch.queries, count, group_, entry.start + task.row};
    if (task.parts > 1) {
      float* states = Partials(task, task.part);
      for (uint32_t i = 0; i < count; ++i) ResetState(states + i * state_size_, dim_);
      kernels_.extend_tile(rows, task.begin, task.end, tile, states, scratch.tile);
      if (LastPart(task)) MergeParts(task);
      return;
    }
    // The same parts as when they are tasks of their own, merged in the same order: how a prompt was cut into steps, and
    // on how many threads it runs, then leaves no trace in the result.
    for (uint32_t begin = 0; begin < task.end; begin += kTileSegment) {
      float* states = begin == 0 ? scratch.states : scratch.part;
      for (uint32_t i = 0; i < count; ++i) ResetState(states + i * state_size_, dim_);
      kernels_.extend_tile(rows, begin, std::min(task.end, begin + kTileSegment), tile, states, scratch.tile);
      if (begin == 0) continue;
      for (uint32_t i = 0; i < count; ++i) {
        MergeState(scratch.states + i * state_size_, scratch.part + i * state_size_, dim_);
      }
    }
    Finish(task, scratch.states);
  }

  void RunSampled(const Task& task, const Scratch& scratch) {
    if (failed_entry_.load(std::memory_order_relaxed) != kNone) return;
    const Step::Entry& entry = step_.entries()[task.entry];
    const Sampling& sampling = *SamplingOf(task.entry);
    const uint64_t begin = args_.sampled_ms != nullptr ? Nanoseconds() : 0;
    const magicpig_selector& selector = *sampling.selector;
    const HeadRows rows = entry.sequence->Rows(args_.layer, task.kv_head);
    const uint32_t position = entry.start + task.row, indexed = sampling.end - sampling.begin;

    const magicpig_selector_args request{args_.layer * shape_.kv_heads + task.kv_head,
                                         QueryHead(task, 0),
                                         task.heads,
                                         dim_,
                                         indexed,
                                         position,
                                         Query(task, 0, 0)};
    magicpig_selection* selections = scratch.selections;
    if (selector.select(selector.context, &request, selections) != 0) {
      return Fail(task.entry, "failed to select (out of memory, or it has no index of the sampled tokens)");
    }
    for (uint32_t head = 0; head < task.heads; ++head) {
      if (const char* fault = FaultOf(selections[head], indexed)) return Fail(task.entry, fault);
    }

    if (args_.sampled_ms != nullptr) select_ns_.fetch_add(Nanoseconds() - begin, std::memory_order_relaxed);

    PrepareQueries(task, scratch.queries);
    for (uint32_t head = 0; head < task.heads; ++head) ResetState(scratch.states + head * state_size_, dim_);
    uint64_t keys = 0;
    if (!sampling.sampled_only) {
      ExtendByPages(rows, 0, sampling.begin, task, scratch);
      ExtendByPages(rows, sampling.end, position + 1, task, scratch);
      keys = uint64_t{task.heads} * (position + 1 - indexed);
    }
    for (uint32_t head = 0; head < task.heads; ++head) {
      const magicpig_selection* next = head + 1 < task.heads ? &selections[head + 1] : nullptr;
      kernels_.extend_selection(rows, sampling.begin, selections[head], next,
                                scratch.queries + head * kernels_.query_bytes(dim_), Query(task, 0, head), scale_,
                                scratch.scores, scratch.corrections, scratch.states + head * state_size_);
      keys += selections[head].count;
      if (args_.standard_error != nullptr) {
        const size_t row = entry.row + task.row;
        args_.standard_error[row * shape_.query_heads + QueryHead(task, head)] =
            StandardError(rows, sampling.begin, selections[head], scratch, scratch.states + head * state_size_);
      }
    }
    FinishRows(task, scratch.states, [&](uint32_t) { return keys; });
    if (args_.sampled_ms != nullptr) sampled_ns_.fetch_add(Nanoseconds() - begin, std::memory_order_relaxed);
  }

  static uint64_t Nanoseconds() {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
  }

  // sqrt(E |o' - o|^2) of a query head's output o' about the exact one, to first order: o' = N / D errs by
  // sum_i (w_i in the sample - its expectation) (v_i - o) / D. NaN for a truncation, which has no known distribution.
  float StandardError(const HeadRows& rows, uint32_t first, const magicpig_selection& selection, const Scratch& scratch,
                      float* state) const {
    if (selection.correction == MAGICPIG_CORRECTION_NONE) return NAN;
    const float sum = StateSum(state, dim_);
    if (selection.count == 0 || !(sum > 0.0f)) return NAN;
    // Only prefill tiles use scratch.part, so its first state is free for the mean here.
    float* mean = scratch.part;
    for (uint32_t i = 0; i < PaddedDim(dim_); ++i) mean[i] = state[i] / sum;
    const float variance = kernels_.selection_variance(rows, first, selection, scratch.scores, scratch.corrections,
                                                       StateMax(state, dim_), mean);
    return std::sqrt(variance) / sum;
  }

  void Fail(uint32_t entry, const char* reason) {
    failure_.store(reason, std::memory_order_relaxed);
    failed_entry_.store(entry);
  }

  float* Partials(const Task& task, uint32_t part) const {
    auto* base = reinterpret_cast<float*>(store_.workspace().partials.data());
    return base + task.partials + size_t{part} * task.rows * task.heads * state_size_;
  }

  // Whether all other parts are done.
  bool LastPart(const Task& task) {
    return store_.workspace().remaining[task.remaining].fetch_sub(1, std::memory_order_acq_rel) == 1;
  }

  void MergeParts(const Task& task) {
    const size_t states = size_t{task.rows} * task.heads;
    float* into = Partials(task, 0);
    for (uint32_t part = 1; part < task.parts; ++part) {
      const float* from = Partials(task, part);
      for (size_t i = 0; i < states; ++i) MergeState(into + i * state_size_, from + i * state_size_, dim_);
    }
    Finish(task, into);
  }

  // Writes the results of exact attention.
  void Finish(const Task& task, float* states) {
    const uint32_t first = step_.entries()[task.entry].start + task.row;
    FinishRows(task, states, [&](uint32_t row) { return uint64_t{first + row + 1} * task.heads; });
  }

  template <typename Keys>
  void FinishRows(const Task& task, float* states, Keys keys) {
    const size_t first = step_.entries()[task.entry].row + task.row;
    for (uint32_t row = 0; row < task.rows; ++row) {
      for (uint32_t head = 0; head < task.heads; ++head) {
        float* state = states + (row * task.heads + head) * state_size_;
        const size_t query_head = QueryHead(task, head);
        const float sum = StateSum(state, dim_), inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
        float* out = args_.output.data + (first + row) * args_.output.stride + query_head * dim_;
        for (uint32_t i = 0; i < dim_; ++i) out[i] = state[i] * inverse;
        if (args_.standard_error != nullptr && task.kind != Task::kSampled) {
          args_.standard_error[(first + row) * shape_.query_heads + query_head] = 0.0f;
        }
        if (args_.log_sum_exp != nullptr) {
          args_.log_sum_exp[(first + row) * shape_.query_heads + query_head] =
              sum > 0.0f ? StateMax(state, dim_) + std::log(sum) : -INFINITY;
        }
      }
      if (args_.keys_read != nullptr) keys_read_[first + row].fetch_add(keys(row), std::memory_order_relaxed);
    }
  }

  const Step& step_;
  const AttendArgs& args_;
  Store& store_;
  const Shape& shape_;
  const Kernels& kernels_;
  const uint32_t dim_, group_, state_size_;
  const float scale_;

  std::vector<Task> tasks_;
  std::vector<Task> part_tasks_;  // one task of each set of parts
  uint64_t work_ = 0;             // about keys times KV heads
  uint32_t largest_tile_ = 0;     // rows
  uint32_t largest_span_ = 0;     // query heads
  uint32_t largest_selection_ = 0;
  size_t partials_ = 0;  // floats
  size_t counters_ = 0;
  size_t queries_bytes_ = 0, states_bytes_ = 0, selections_bytes_ = 0, scores_bytes_ = 0;
  std::vector<std::atomic<uint64_t>> keys_read_;  // (rows)
  std::atomic<uint64_t> select_ns_{0}, sampled_ns_{0};
  std::atomic<uint32_t> failed_entry_{kNone};
  std::atomic<const char*> failure_{""};
};

}  // namespace

Status Attend(const Step& step, const AttendArgs& args) {
  if (Status status = step.Check()) return status;
  if (!step.appended(args.layer) && ReadsNewKeys(step, args.sampling)) {
    return Error{ErrorCode::kInvalidArgument,
                 "Layer " + std::to_string(args.layer) + " has no keys for this step; call append() first."};
  }
  if (args.sampling != nullptr) {
    if (Status status = CheckSampling(step, args.layer, *args.sampling)) return status;
  }
  return Attention(step, args).Run();
}

}  // namespace magicpig::kv
