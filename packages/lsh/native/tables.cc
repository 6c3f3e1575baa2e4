#include "tables.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>

namespace magicpig::lsh {
namespace {

// Hashed queries of one group and what they select; one for each thread that queries.
struct ThreadScratch {
  Projection::Scratch projection;
  Buffer<uint16_t> codes;               // [queries][tables]
  QueryScratch query;
  std::vector<Found> found;             // [queries]
};

thread_local ThreadScratch scratch;

// Mean of keys [n][dim], summed in double from first to last: the same whatever the number of threads. False when it is not
// finite.
bool Mean(const float* keys, size_t n, size_t dim, float* mean) {
  std::vector<double> sums(dim);
  for (size_t row = 0; row < n; ++row) {
    for (size_t i = 0; i < dim; ++i) sums[i] += keys[row * dim + i];
  }
  bool finite = true;
  for (size_t i = 0; i < dim; ++i) {
    mean[i] = static_cast<float>(sums[i] / static_cast<double>(n));
    finite = finite && std::isfinite(mean[i]);
  }
  return finite;
}

}  // namespace

Tables::Tables(Options options) : options_(std::move(options)), kernels_(BestKernels()), heads_(options_.heads) {}

size_t Tables::bytes() const {
  size_t sum = sizeof(Tables) + heads_.capacity() * sizeof(heads_[0]) + options_.log_table.capacity() * sizeof(float);
  for (const auto& head : heads_) {
    if (head) sum += sizeof(Head) - sizeof(HeadIndex) + head->index.bytes() + head->inverse_norms.bytes() + head->centre.bytes();
  }
  return sum;
}

const float* Tables::centre(uint32_t head) const { return heads_[head] ? heads_[head]->centre.data() : nullptr; }

Status Tables::Add(uint32_t head, const float* keys, size_t n) {
  if (n == 0) return Status::kOk;
  const Projection& projection = *options_.projection;
  const size_t dim = projection.dim();
  const magicpig_pool& pool = *options_.pool;

  std::unique_ptr<Head> fresh;
  if (!heads_[head]) {
    fresh = std::make_unique<Head>(TablesShape{projection.bits(), projection.tables()});
    if (options_.centred) {
      fresh->centre = Buffer<float>(dim);
      if (!Mean(keys, n, dim, fresh->centre.data())) return Status::kNonFinite;
    }
  }
  Head& target = fresh ? *fresh : *heads_[head];
  const size_t size = target.index.size();
  target.inverse_norms.Reserve(size + n, size);

  std::vector<Projection::Scratch> scratches(pool.threads);
  for (Projection::Scratch& each : scratches) each.Prepare(projection);

  static_assert(HeadIndex::kFillRows <= Projection::kRows);
  const bool finite = target.index.Append(
      pool, n,
      [&](size_t begin, size_t rows, uint16_t* codes, size_t row_stride, size_t table_stride, uint32_t thread) {
        return projection.Hash(kernels_, keys + begin * dim, rows, target.centre.data(), scratches[thread],
                               target.inverse_norms.data() + size + begin, codes, row_stride, table_stride);
      });
  if (!finite) return Status::kNonFinite;
  if (fresh) heads_[head] = std::move(fresh);
  return Status::kOk;
}

Status Tables::AddCodes(uint32_t head, const uint16_t* codes, size_t n) {
  if (n == 0) return Status::kOk;
  const Projection& projection = *options_.projection;
  const size_t tables = projection.tables();
  for (size_t i = 0; i < n * tables; ++i) {
    if (codes[i] >> projection.bits() != 0) return Status::kInvalidCode;
  }
  std::unique_ptr<Head> fresh;
  if (!heads_[head]) fresh = std::make_unique<Head>(TablesShape{projection.bits(), projection.tables()});
  Head& target = fresh ? *fresh : *heads_[head];
  const size_t size = target.index.size();
  target.inverse_norms.Reserve(size + n, size);
  std::fill_n(target.inverse_norms.data() + size, n, 0.0f);
  target.index.Append(*options_.pool, n,
                      [&](size_t begin, size_t rows, uint16_t* out, size_t row_stride, size_t table_stride, uint32_t) {
                        for (size_t row = 0; row < rows; ++row) {
                          const uint16_t* from = codes + (begin + row) * tables;
                          for (size_t t = 0; t < tables; ++t) out[row * row_stride + t * table_stride] = from[t];
                        }
                        return true;
                      });
  if (fresh) heads_[head] = std::move(fresh);
  return Status::kOk;
}

void Tables::Truncate(uint32_t head, size_t size) {
  if (heads_[head]) heads_[head]->index.Truncate(*options_.pool, size);
}

void Tables::Clear() {
  for (auto& head : heads_) head.reset();
}

void Tables::Dispose() {
  Clear();
  disposed_ = true;
}

Tables::Candidates Tables::Query(uint32_t head, const float* query, uint32_t min_collisions, bool collisions) const {
  const Projection& projection = *options_.projection;
  const size_t tables = projection.tables();
  scratch.projection.Prepare(projection);
  scratch.codes.Reserve(tables, 0);
  if (scratch.found.empty()) scratch.found.resize(1);
  if (!projection.Hash(kernels_, query, 1, nullptr, scratch.projection, nullptr, scratch.codes.data(), tables, 1)) {
    return {Status::kNonFinite, nullptr, nullptr, 0};
  }
  if (!heads_[head]) return {Status::kOk, nullptr, nullptr, 0};
  const HeadIndex& index = heads_[head]->index;
  Found& found = scratch.found[0];
  index.Query(kernels_, scratch.codes.data(), 1, index.size(), min_collisions, collisions, scratch.query, &found);
  return {Status::kOk, found.ids.data(), found.collisions.data(), found.count};
}

int Tables::Select(const magicpig_selector_args& args, magicpig_selection* out) const {
  const Projection& projection = *options_.projection;
  if (disposed_ || args.head >= options_.heads || args.head_dim != projection.dim()) return 1;
  const Head* head = heads_[args.head].get();
  const size_t tables = projection.tables();

  scratch.projection.Prepare(projection);
  if (scratch.found.size() < args.queries) scratch.found.resize(args.queries);
  scratch.codes.Reserve(Projection::kRows * tables, 0);

  for (size_t first = 0; first < args.queries; first += Projection::kRows) {
    const size_t rows = std::min<size_t>(Projection::kRows, args.queries - first);
    if (!projection.Hash(kernels_, args.query + first * args.head_dim, rows, nullptr, scratch.projection, nullptr,
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
        selection.count = static_cast<uint32_t>(found[row].count);
        selection.centre = head->centre.data();
        selection.inverse_norms = head->inverse_norms.data();
      }
      selection.ids = found[row].ids.data();
      selection.correction = MAGICPIG_CORRECTION_COSINE_TABLE;
      selection.table = options_.log_table.data();
      selection.table_size = static_cast<uint32_t>(options_.log_table.size());
    }
  }
  return 0;
}

namespace {

struct SelectorContext {
  std::atomic<int64_t> references{1};
  std::shared_ptr<const Tables> tables;
  magicpig_selector selector;
};

}  // namespace

magicpig_selector* NewSelector(std::shared_ptr<const Tables> tables) {
  auto* context = new SelectorContext;
  context->selector = {
      MAGICPIG_SELECTOR_ABI,
      tables->projection().dim(),
      tables->heads(),
      context,
      [](void* self, const magicpig_selector_args* args, magicpig_selection* out) {
        try {
          return static_cast<SelectorContext*>(self)->tables->Select(*args, out);
        } catch (const std::bad_alloc&) {
          return 2;
        }
      },
      [](void* self) { static_cast<SelectorContext*>(self)->references.fetch_add(1, std::memory_order_relaxed); },
      [](void* self) {
        auto* released = static_cast<SelectorContext*>(self);
        if (released->references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete released;
      },
  };
  context->tables = std::move(tables);
  return &context->selector;
}

}  // namespace magicpig::lsh
