// Tables in files: docs/format.md.
#include <cstring>

#include "tables.h"

namespace magicpig::lsh {
namespace {

constexpr uint32_t kShape = FourCc("SHAP"), kHead = FourCc("HEAD"), kCentre = FourCc("CENT"), kNorms = FourCc("NORM"),
                   kVectors = FourCc("VECS");

// Section SHAP 0.
struct ShapeRecord {
  uint64_t seed;
  double min_probability;
  uint32_t projection;  // 0 gaussian, 1 hadamard
  uint32_t dim, bits, tables, heads, min_collisions;
  uint32_t centring;  // Centring
  uint32_t keep;      // Element
  uint32_t norms;     // 0 or 1
  uint32_t zero[3];
};
static_assert(sizeof(ShapeRecord) == 64);

// Section HEAD h + 1 of head h; heads with neither keys nor centre have none.
struct HeadRecord {
  uint32_t size;      // keys
  uint32_t segments;
  uint32_t tail;      // keys behind the last segment
  uint32_t centred;   // 1 if there is a section CENT
};
static_assert(sizeof(HeadRecord) == 16);

bool Within(uint64_t value, uint64_t least, uint64_t most) { return least <= value && value <= most; }

}  // namespace

void Tables::Write(const std::function<void(const ContainerWriter&, const magicpig_pool&)>& save) const {
  const size_t dim = projection_->dim();
  ContainerWriter writer(kFileKind);
  const ShapeRecord shape{projection_->seed(),
                          options_.min_probability,
                          projection_->kind() == ProjectionKind::kHadamard,
                          projection_->dim(),
                          projection_->bits(),
                          projection_->tables(),
                          options_.heads,
                          options_.min_collisions,
                          static_cast<uint32_t>(options_.centring),
                          static_cast<uint32_t>(options_.keep),
                          options_.norms,
                          {}};
  writer.Add(0, kShape, &shape, sizeof shape);
  if (options_.centring == Centring::kGiven) writer.Add(0, kCentre, centres_.data(), centres_.size() * sizeof(float));
  std::vector<HeadRecord> records(options_.heads);
  for (uint32_t h = 0; h < options_.heads; ++h) {
    if (!heads_[h]) continue;
    const Head& head = *heads_[h];
    const size_t size = head.index.size();
    const bool centred = head.centre.data() != nullptr;
    records[h] = {static_cast<uint32_t>(size), static_cast<uint32_t>(head.index.segments().size()), head.index.tail_count(), centred};
    writer.Add(h + 1, kHead, &records[h], sizeof records[h]);
    head.index.Write(writer, h + 1);
    if (centred) writer.Add(h + 1, kCentre, head.centre.data(), dim * sizeof(float));
    if (options_.norms) writer.Add(h + 1, kNorms, head.inverse_norms.data(), size * sizeof(float));
    if (options_.keep != Element::kNone) {
      writer.Add(h + 1, kVectors, head.vectors.data(), size * dim * ElementBytes(options_.keep));
    }
  }
  save(writer, *pool_);
}

Tables::FileShape Tables::ReadShape(const Container& file) {
  ShapeRecord shape;
  std::memcpy(&shape, file.Get<ShapeRecord>(0, kShape, 1), sizeof shape);
  const bool good = shape.projection <= 1 && Within(shape.dim, 1, 32768) && Within(shape.bits, 1, 16) &&
                    Within(shape.tables, 1, 4096) && Within(shape.heads, 1, 1u << 20) &&
                    Within(shape.min_collisions, 1, shape.tables) && shape.min_probability > 0 && shape.min_probability <= 1 &&
                    shape.centring <= 2 && shape.keep <= 2 && shape.norms <= 1 && shape.seed < uint64_t{1} << 53 &&
                    (shape.zero[0] | shape.zero[1] | shape.zero[2]) == 0;
  if (!good) throw Corrupt("The file's description of its tables is malformed.");
  return {{shape.heads, shape.min_collisions, shape.min_probability, static_cast<Centring>(shape.centring),
           static_cast<Element>(shape.keep), shape.norms == 1},
          shape.projection == 1 ? ProjectionKind::kHadamard : ProjectionKind::kGaussian,
          shape.dim,
          shape.bits,
          shape.tables,
          shape.seed};
}

std::unique_ptr<Tables> Tables::Read(std::shared_ptr<const Container> file, std::shared_ptr<const Projection> projection,
                                     std::vector<float> log_table, PoolHandle pool, bool view, bool verify) {
  const FileShape shape = ReadShape(*file);
  const TablesOptions& options = shape.options;
  const size_t dim = projection->dim();
  if (!view || verify) file->Verify(*pool);

  std::vector<float> centres;
  if (options.centring == Centring::kGiven) {
    const auto* given = file->Get<float>(0, kCentre, options.heads * dim);
    centres.assign(given, given + options.heads * dim);
  }
  auto tables = std::make_unique<Tables>(options, std::move(projection), std::move(log_table), std::move(pool), std::move(centres));
  for (uint32_t h = 0; h < options.heads; ++h) {
    if (!file->Has(h + 1, kHead)) continue;
    HeadRecord record;
    std::memcpy(&record, file->Get<HeadRecord>(h + 1, kHead, 1), sizeof record);
    if (record.centred > (options.centring == Centring::kAuto ? 1u : 0u)) throw Corrupt("The file's heads are malformed.");
    auto head = std::make_unique<Head>(tables->shape());
    head->index = HeadIndex::Read(*tables->pool_, tables->shape(), *file, h + 1, record.size, record.segments, record.tail, view);
    if (view && verify && !head->index.Valid(*tables->pool_)) throw Corrupt("The file's tables are malformed.");
    const auto read = [&]<typename T>(Column<T>& column, uint32_t kind, size_t size) {
      const T* data = file->Get<T>(h + 1, kind, size);
      column = view ? Column<T>::View(data) : Column<T>::Copy(data, size);
    };
    if (record.centred == 1) read(head->centre, kCentre, dim);
    if (options.norms) read(head->inverse_norms, kNorms, record.size);
    read(head->vectors, kVectors, record.size * dim * ElementBytes(options.keep));
    tables->heads_[h] = std::move(head);
  }
  if (view) tables->file_ = std::move(file);
  return tables;
}

}  // namespace magicpig::lsh
