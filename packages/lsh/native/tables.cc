#include "tables.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace magicpig::lsh {
namespace {

static_assert(HeadIndex::kFillRows <= Projection::kRows);

// Mean of keys [n][dim], summed in double from first to last: the same whatever the number of threads. False when it is not
// finite.
bool Mean(Vectors keys, size_t n, size_t dim, float* mean) {
  std::vector<double> sums(dim);
  std::vector<float> space(dim);
  for (size_t row = 0; row < n; ++row) {
    const float* key = keys.Rows(row, 1, dim, space.data());
    for (size_t i = 0; i < dim; ++i) sums[i] += key[i];
  }
  bool finite = true;
  for (size_t i = 0; i < dim; ++i) {
    mean[i] = static_cast<float>(sums[i] / static_cast<double>(n));
    finite = finite && std::isfinite(mean[i]);
  }
  return finite;
}

// Copies `rows` rows to row `first` of `kept`.
void Keep(const float* from, size_t rows, size_t dim, Element element, size_t first, uint8_t* kept) {
  if (element == Element::kF32) {
    std::memcpy(kept + first * dim * sizeof(float), from, rows * dim * sizeof(float));
  } else {
    auto* to = reinterpret_cast<uint16_t*>(kept) + first * dim;
    for (size_t i = 0; i < rows * dim; ++i) to[i] = ToBf16(from[i]);
  }
}

}  // namespace

Tables::Tables(const TablesOptions& options, std::shared_ptr<const Projection> projection, std::vector<float> log_table,
               PoolHandle pool, std::vector<float> centres)
    : options_(options),
      projection_(std::move(projection)),
      log_table_(std::move(log_table)),
      pool_(std::move(pool)),
      centres_(std::move(centres)),
      kernels_(BestKernels()),
      heads_(options.heads) {}

size_t Tables::bytes() const {
  size_t sum = sizeof(Tables) + heads_.capacity() * sizeof(heads_[0]) + (log_table_.capacity() + centres_.capacity()) * sizeof(float);
  for (const auto& head : heads_) {
    if (head) sum += sizeof(Head) - sizeof(HeadIndex) + head->index.bytes() + ColumnShares(*head);
  }
  return sum;
}

size_t Tables::MostBytes(TablesShape shape, size_t n, size_t dim, bool norms, Element keep) {
  const size_t key = (norms ? sizeof(float) : 0) + dim * ElementBytes(keep);
  return sizeof(Head) - sizeof(HeadIndex) + HeadIndex::MostBytes(shape, n) + dim * sizeof(float) + key * (n + n / 8);
}

const float* Tables::centre(uint32_t head) const {
  if (options_.centring == Centring::kGiven) return centres_.data() + size_t{head} * projection_->dim();
  return heads_[head] ? heads_[head]->centre.data() : nullptr;
}

Tables::Head& Tables::Open(uint32_t head, std::unique_ptr<Head>& fresh) const {
  if (heads_[head]) return *heads_[head];
  fresh = std::make_unique<Head>(shape());
  return *fresh;
}

Status Tables::Add(uint32_t head, Vectors keys, size_t n, Control* control) {
  if (n == 0) return Status::kOk;
  const size_t dim = projection_->dim();
  std::unique_ptr<Head> fresh;
  Head& target = Open(head, fresh);
  if (fresh && options_.centring == Centring::kAuto && !Mean(keys, n, dim, target.centre.Reserve(dim, 0))) {
    return Status::kNonFinite;
  }
  const float* centre = fresh && options_.centring == Centring::kAuto ? target.centre.data() : this->centre(head);
  const size_t size = target.index.size(), row_bytes = dim * ElementBytes(options_.keep);
  float* norms = options_.norms ? target.inverse_norms.Reserve(size + n, size) + size : nullptr;
  uint8_t* kept = row_bytes > 0 ? target.vectors.Reserve((size + n) * row_bytes, size * row_bytes) : nullptr;

  struct Scratch {
    Projection::Scratch projection;
    Buffer<float> rows;  // [kFillRows][dim]
  };
  std::vector<Scratch> scratches(pool_->threads);
  for (Scratch& each : scratches) {
    each.projection.Prepare(*projection_);
    if (keys.element == Element::kBf16) each.rows = Buffer<float>(HeadIndex::kFillRows * dim);
  }
  std::atomic<bool> stopped{false};
  const bool done = target.index.Append(
      *pool_, n,
      [&](size_t begin, size_t rows, uint16_t* codes, size_t row_stride, size_t table_stride, uint32_t thread) {
        if (control != nullptr && control->stop.load(std::memory_order_relaxed) != 0) {
          stopped.store(true, std::memory_order_relaxed);
          return false;
        }
        const float* x = keys.Rows(begin, rows, dim, scratches[thread].rows.data());
        if (!projection_->Hash(kernels_, x, rows, centre, scratches[thread].projection, norms != nullptr ? norms + begin : nullptr,
                               codes, row_stride, table_stride)) {
          return false;
        }
        if (kept != nullptr) Keep(x, rows, dim, options_.keep, size + begin, kept);
        if (control != nullptr) control->done.fetch_add(static_cast<uint32_t>(rows), std::memory_order_relaxed);
        return true;
      });
  if (!done) return stopped ? Status::kStopped : Status::kNonFinite;
  if (fresh) heads_[head] = std::move(fresh);
  return Status::kOk;
}

Status Tables::AddCodes(uint32_t head, const uint16_t* codes, size_t n) {
  if (n == 0) return Status::kOk;
  const size_t tables = projection_->tables();
  for (size_t i = 0; i < n * tables; ++i) {
    if (codes[i] >> projection_->bits() != 0) return Status::kInvalidCode;
  }
  std::unique_ptr<Head> fresh;
  Head& target = Open(head, fresh);
  const size_t size = target.index.size();
  if (options_.norms) std::fill_n(target.inverse_norms.Reserve(size + n, size) + size, n, 0.0f);
  target.index.AppendCodes(*pool_, n, codes);
  if (fresh) heads_[head] = std::move(fresh);
  return Status::kOk;
}

Status Tables::AddSegment(uint32_t head, const GivenSegment& given, uint32_t* table) {
  const size_t dim = projection_->dim(), n = given.count;
  const bool needs_centre = options_.centring == Centring::kAuto && centre(head) == nullptr;
  if (needs_centre != (given.centre != nullptr)) return Status::kCentre;
  // Copied before it is looked at: the caller's memory may be shared with a thread that changes it.
  Segment segment = Segment(shape(), given.count, given.starts, given.ids).Copy(*pool_);
  *table = segment.InvalidTable(*pool_);
  if (*table != shape().tables) return Status::kInvalidSegment;
  std::unique_ptr<Head> fresh;
  Head& target = Open(head, fresh);
  const size_t size = target.index.size();
  if (options_.norms) {
    float* const norms = target.inverse_norms.Reserve(size + n, size) + size;
    std::memcpy(norms, given.inverse_norms, n * sizeof(float));
    if (!std::all_of(norms, norms + n, [](float norm) { return norm >= 0 && std::isfinite(norm); })) return Status::kInvalidNorm;
  }
  Column<float> centre = given.centre != nullptr ? Column<float>::Copy(given.centre, dim) : target.centre;
  target.index.AppendSegment(*pool_, std::move(segment));
  target.centre = std::move(centre);
  if (fresh) heads_[head] = std::move(fresh);
  return Status::kOk;
}

void Tables::Truncate(uint32_t head, size_t size) {
  if (heads_[head]) heads_[head]->index.Truncate(*pool_, size);
}

void Tables::Clear() {
  for (auto& head : heads_) head.reset();
}

std::shared_ptr<Tables> Tables::Fork() const {
  auto fork = std::make_shared<Tables>(options_, projection_, log_table_, pool_, centres_);
  fork->file_ = file_;
  for (uint32_t h = 0; h < heads_.size(); ++h) {
    if (heads_[h]) fork->heads_[h] = std::make_unique<Head>(*heads_[h]);
  }
  return fork;
}

void Tables::Dispose() {
  Clear();
  file_.reset();
  disposed_ = true;
}

}  // namespace magicpig::lsh
