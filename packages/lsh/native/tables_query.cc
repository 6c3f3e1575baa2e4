// Queries of vectors: hashing, candidates, and what is said of them.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>

#include "../include/magicpig/thread_pool.h"
#include "tables.h"

namespace magicpig::lsh {
namespace {

// Queries of a batch that one task works on: their hashing and their reads of memory overlap.
constexpr size_t kBatchQueries = 8;
// Kept vectors are fetched so many candidates ahead.
constexpr size_t kRowsAhead = 12;

// One for each thread that queries.
struct ThreadScratch {
  Projection::Scratch projection;
  Buffer<float> rows;          // queries as float32
  Buffer<uint16_t> codes;      // [queries][tables]
  QueryScratch query;
  std::vector<Found> found;    // [queries]
  Buffer<float> row;           // a kept vector as float32
  Buffer<double> dots;         // [candidates]
  Buffer<float> probabilities; // [candidates]
  Buffer<uint32_t> order;      // [candidates]
  Buffer<uint32_t> nearest;    // [nearest]
  Buffer<double> nearest_dots; // [nearest]
};

thread_local ThreadScratch scratch;

// exp(-table) at a cosine. A cosine that is not a number counts as the least.
float Probability(const float* table, size_t size, double cosine) {
  const double at = cosine > -1 ? std::min((cosine + 1) / 2, 1.0) * static_cast<double>(size - 1) : 0;
  const size_t i = std::min(static_cast<size_t>(at), size - 2);
  const double low = table[i], high = table[i + 1];
  return static_cast<float>(std::exp(-(low + (at - static_cast<double>(i)) * (high - low))));
}

void PrefetchRow(const uint8_t* row, size_t bytes) {
  for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 0, 2);
  __builtin_prefetch(row + bytes - 1, 0, 2);
  asm volatile("");  // GCC takes a function of prefetches alone for one without effects, and drops the call
}

}  // namespace

Candidates Tables::Refine(uint32_t head_number, const float* query, const QueryOptions& what, const Found& found) const {
  Candidates result{Status::kOk, found.count, found.ids.data(), what.collisions ? found.collisions.data() : nullptr, nullptr,
                    nullptr};
  if (!what.dots && what.log_table == nullptr) return result;
  const Head& head = *heads_[head_number];
  const size_t dim = projection_->dim(), n = found.count, row_bytes = dim * ElementBytes(options_.keep);
  scratch.row.Reserve(dim, 0);
  scratch.dots.Reserve(n, 0);
  const uint8_t* const rows = head.vectors.data();
  for (size_t i = 0; i < n; ++i) {
    if (i + kRowsAhead < n) PrefetchRow(rows + found.ids[i + kRowsAhead] * row_bytes, row_bytes);
    const Vectors kept{rows + found.ids[i] * row_bytes, options_.keep};
    scratch.dots[i] = kernels_.dot(query, kept.Rows(0, 1, dim, scratch.row.data()), dim);
  }
  result.dots = scratch.dots.data();

  if (what.log_table != nullptr) {
    const float* const mu = centre(head_number);
    const double shift = mu != nullptr ? kernels_.dot(query, mu, dim) : 0;
    const double norm = std::sqrt(kernels_.dot(query, query, dim));
    const double inverse = norm > 0 ? 1 / norm : 0;
    scratch.probabilities.Reserve(n, 0);
    for (size_t i = 0; i < n; ++i) {
      const double cosine = (scratch.dots[i] - shift) * head.inverse_norms.data()[found.ids[i]] * inverse;
      scratch.probabilities[i] = Probability(what.log_table, what.log_size, cosine);
    }
    result.probabilities = scratch.probabilities.data();
  }

  if (what.nearest > 0) {
    const size_t k = std::min<size_t>(what.nearest, n);
    scratch.order.Reserve(n, 0);
    scratch.nearest.Reserve(k, 0);
    scratch.nearest_dots.Reserve(k, 0);
    uint32_t* const order = scratch.order.data();
    for (size_t i = 0; i < n; ++i) {
      order[i] = static_cast<uint32_t>(i);
      // Damaged files may hold anything, and an order needs numbers.
      if (std::isnan(scratch.dots[i])) scratch.dots[i] = -HUGE_VAL;
    }
    const auto nearer = [&](uint32_t a, uint32_t b) {
      return scratch.dots[a] != scratch.dots[b] ? scratch.dots[a] > scratch.dots[b] : a < b;
    };
    if (k < n) std::nth_element(order, order + k, order + n, nearer);
    std::sort(order, order + k, nearer);
    for (size_t i = 0; i < k; ++i) {
      scratch.nearest[i] = found.ids[order[i]];
      scratch.nearest_dots[i] = scratch.dots[order[i]];
    }
    result = {Status::kOk, k, scratch.nearest.data(), nullptr, scratch.nearest_dots.data(), nullptr};
  }
  return result;
}

Candidates Tables::Query(uint32_t head, Vectors query, const QueryOptions& what) const {
  const size_t tables = projection_->tables(), dim = projection_->dim();
  scratch.projection.Prepare(*projection_);
  scratch.codes.Reserve(tables, 0);
  scratch.rows.Reserve(dim, 0);
  if (scratch.found.empty()) scratch.found.resize(1);
  const float* x = query.Rows(0, 1, dim, scratch.rows.data());
  if (!projection_->Hash(kernels_, x, 1, nullptr, scratch.projection, nullptr, scratch.codes.data(), tables, 1)) {
    return {Status::kNonFinite};
  }
  if (!heads_[head]) return {};
  const HeadIndex& index = heads_[head]->index;
  index.Query(kernels_, scratch.codes.data(), 1, index.size(), what.min_collisions, what.collisions, scratch.query,
              scratch.found.data());
  return Refine(head, x, what, scratch.found[0]);
}

CandidatesBatch Tables::QueryBatch(uint32_t head, Vectors queries, size_t n, const QueryOptions& what, Control* control) const {
  const size_t tables = projection_->tables(), dim = projection_->dim();
  CandidatesBatch batch;
  batch.offsets.resize(n + 1);
  batch.pieces.resize((n + kBatchQueries - 1) / kBatchQueries);
  std::atomic<Status> status{Status::kOk};
  std::atomic<bool> out_of_memory{false};

  const auto run = [&](size_t task) {
    if (control != nullptr && control->stop.load(std::memory_order_relaxed) != 0) return Status::kStopped;
    const size_t first = task * kBatchQueries, rows = std::min(kBatchQueries, n - first);
    scratch.projection.Prepare(*projection_);
    scratch.codes.Reserve(rows * tables, 0);
    scratch.rows.Reserve(rows * dim, 0);
    if (scratch.found.size() < rows) scratch.found.resize(rows);
    const float* x = queries.Rows(first, rows, dim, scratch.rows.data());
    if (!projection_->Hash(kernels_, x, rows, nullptr, scratch.projection, nullptr, scratch.codes.data(), tables, 1)) {
      return Status::kNonFinite;
    }
    if (heads_[head]) {
      const HeadIndex& index = heads_[head]->index;
      index.Query(kernels_, scratch.codes.data(), rows, index.size(), what.min_collisions, what.collisions, scratch.query,
                  scratch.found.data());
      CandidatesBatch::Piece& piece = batch.pieces[task];
      for (size_t row = 0; row < rows; ++row) {
        const Candidates each = Refine(head, x + row * dim, what, scratch.found[row]);
        piece.ids.insert(piece.ids.end(), each.ids, each.ids + each.count);
        const auto append = [&](auto& to, const auto* from) {
          if (from != nullptr) to.insert(to.end(), from, from + each.count);
        };
        append(piece.collisions, each.collisions);
        if (what.dots) append(piece.dots, each.dots);
        append(piece.probabilities, each.probabilities);
        batch.offsets[first + row + 1] = static_cast<uint32_t>(each.count);
      }
    }
    if (control != nullptr) control->done.fetch_add(static_cast<uint32_t>(rows), std::memory_order_relaxed);
    return Status::kOk;
  };
  ParallelFor(*pool_, static_cast<uint32_t>(batch.pieces.size()), [&](uint32_t task, uint32_t) {
    if (status.load(std::memory_order_relaxed) != Status::kOk || out_of_memory.load(std::memory_order_relaxed)) return;
    try {
      if (const Status each = run(task); each != Status::kOk) status.store(each, std::memory_order_relaxed);
    } catch (const std::bad_alloc&) {  // must not leave a thread of the pool
      out_of_memory.store(true, std::memory_order_relaxed);
    }
  });
  if (out_of_memory) throw std::bad_alloc();
  batch.status = status;
  uint64_t sum = 0;
  for (uint32_t& offset : batch.offsets) {
    sum += offset;
    if (sum > UINT32_MAX) throw std::bad_alloc();  // more candidates than offsets can count
    offset = static_cast<uint32_t>(sum);
  }
  return batch;
}

int Tables::Select(const magicpig_selector_args& args, magicpig_selection* out) const {
  if (disposed_ || args.head >= options_.heads || args.head_dim != projection_->dim()) return 1;
  const Head* head = heads_[args.head].get();
  const size_t tables = projection_->tables();

  scratch.projection.Prepare(*projection_);
  if (scratch.found.size() < args.queries) scratch.found.resize(args.queries);
  scratch.codes.Reserve(Projection::kRows * tables, 0);

  for (size_t first = 0; first < args.queries; first += Projection::kRows) {
    const size_t rows = std::min<size_t>(Projection::kRows, args.queries - first);
    if (!projection_->Hash(kernels_, args.query + first * args.head_dim, rows, nullptr, scratch.projection, nullptr,
                           scratch.codes.data(), tables, 1)) {
      return 1;
    }
    Found* found = scratch.found.data() + first;
    if (head != nullptr) {
      head->index.Query(kernels_, scratch.codes.data(), rows, args.indexed, options_.min_collisions, false, scratch.query, found);
    }
    for (size_t row = 0; row < rows; ++row) {
      magicpig_selection& selection = out[first + row];
      selection = {};
      if (head != nullptr) {
        selection.ids = found[row].ids.data();
        selection.count = static_cast<uint32_t>(found[row].count);
        selection.centre = centre(args.head);
        selection.inverse_norms = head->inverse_norms.data();
      }
      selection.correction = MAGICPIG_CORRECTION_COSINE_TABLE;
      selection.table = log_table_.data();
      selection.table_size = static_cast<uint32_t>(log_table_.size());
    }
  }
  return 0;
}

}  // namespace magicpig::lsh
