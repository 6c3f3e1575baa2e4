// Files of tables whose checksums are right and whose contents are not: refused when they are loaded, and harmless as views.
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../pool_handle.h"
#include "../tables.h"
#include "check.h"

using namespace magicpig::lsh;

namespace {

constexpr uint32_t kDim = 8, kBits = 4, kTables = 5;

struct Entry {
  uint32_t index, kind;
  uint64_t offset, bytes;
  uint32_t crc, zero;
};

std::vector<uint8_t> BytesOf(const Tables& tables) {
  std::vector<uint8_t> bytes;
  tables.Write([&](const ContainerWriter& writer, const magicpig_pool& pool) {
    bytes.resize(writer.bytes());
    writer.Write(pool, bytes.data());
  });
  return bytes;
}

std::vector<Entry> SectionsOf(const std::vector<uint8_t>& file) {
  uint32_t count;
  std::memcpy(&count, file.data() + 20, sizeof count);
  std::vector<Entry> sections(count);
  std::memcpy(sections.data(), file.data() + 64, count * sizeof(Entry));
  return sections;
}

// Makes the checksums those of the contents.
void Sign(std::vector<uint8_t>& file) {
  std::vector<Entry> sections = SectionsOf(file);
  for (Entry& each : sections) each.crc = Crc32(0, file.data() + each.offset, each.bytes);
  std::memcpy(file.data() + 64, sections.data(), sections.size() * sizeof(Entry));
  const uint32_t table = Crc32(0, file.data() + 64, sections.size() * sizeof(Entry));
  std::memcpy(file.data() + 32, &table, sizeof table);
  const uint32_t header = Crc32(0, file.data(), 60);
  std::memcpy(file.data() + 60, &header, sizeof header);
}

// Everything that reads tables, and everything that changes those that were loaded.
void Use(Tables& tables, const std::vector<float>& queries, bool change) {
  static const std::vector<float> log_table(33, 0.5f);
  const Element keep = tables.options().keep;
  for (uint32_t head = 0; head < tables.options().heads; ++head) {
    for (const uint32_t nearest : {0u, 5u}) {
      const bool kept = keep != Element::kNone && tables.options().norms;
      const QueryOptions what{1, nearest == 0, kept, kept && nearest == 0 ? log_table.data() : nullptr, log_table.size(),
                              kept ? nearest : 0};
      const CandidatesBatch batch = tables.QueryBatch(head, {queries.data(), Element::kF32}, queries.size() / kDim, what, nullptr);
      for (const auto& piece : batch.pieces) {
        for (const uint32_t id : piece.ids) CHECK(id < tables.size(head));
      }
    }
    if (tables.index(head) != nullptr) tables.index(head)->occupancy();
    if (!change) continue;
    tables.Truncate(head, tables.size(head) / 2);
    tables.Add(head, {queries.data(), Element::kF32}, queries.size() / kDim, nullptr);
  }
  BytesOf(tables);
}

// Reads a file in a mode and uses what it holds; the code of the error, or "none".
std::string Open(const std::vector<uint8_t>& bytes, bool view, bool verify, const std::vector<float>& queries) {
  return FILE_ERROR(([&] {
    const auto file = Container::Copy(bytes.data(), bytes.size(), Tables::kFileKind);
    const Tables::FileShape shape = Tables::ReadShape(*file);
    if (shape.dim != kDim || shape.tables > 64 || shape.options.heads > 1000) return;  // good, but no use here
    const auto projection = std::make_shared<Projection>(shape.kind, shape.dim, shape.bits, shape.tables, shape.seed);
    const auto tables = Tables::Read(file, projection, std::vector<float>(17, 1.0f), ProcessPool(1), view, verify);
    Use(*tables, queries, !view);
    if (!view) return;
    // What changes is taken out of the file, and looked at.
    std::string changed = FILE_ERROR(Use(*tables->Fork(), queries, true));
    CHECK(changed == "none" || (!verify && changed == "CORRUPT_FILE"));
  }()));
}

}  // namespace

void DamagedFilesAreHarmless() {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> keys(size_t{2600} * kDim);
  for (float& x : keys) x = normal(random);
  const std::vector<float> queries(keys.begin(), keys.begin() + 20 * kDim);

  for (const auto& [centring, keep, norms] : {std::tuple{Centring::kAuto, Element::kF32, true},
                                              {Centring::kGiven, Element::kBf16, true},
                                              {Centring::kNone, Element::kNone, false}}) {
    const auto projection = std::make_shared<Projection>(ProjectionKind::kGaussian, kDim, kBits, kTables, 3);
    Tables tables({3, 2, 1e-4, centring, keep, norms}, projection, std::vector<float>(17, 1.0f), ProcessPool(1),
                  std::vector<float>(centring == Centring::kGiven ? 3 * kDim : 0, 0.25f));
    CHECK(tables.Add(0, {keys.data(), Element::kF32}, 1500, nullptr) == Status::kOk);
    CHECK(tables.Add(0, {keys.data() + 1500 * kDim, Element::kF32}, 100, nullptr) == Status::kOk);
    CHECK(tables.Add(2, {keys.data() + 1600 * kDim, Element::kF32}, 30, nullptr) == Status::kOk);
    const std::vector<uint8_t> good = BytesOf(tables);
    for (const auto& [view, verify] : {std::pair{false, true}, {true, false}, {true, true}}) {
      CHECK(Open(good, view, verify, queries) == "none");
    }
    int refused = 0;
    for (const Entry& section : SectionsOf(good)) {
      for (int trial = 0; trial < 60; ++trial) {
        std::vector<uint8_t> bad = good;
        // One word, or a run, of random or extreme values.
        const size_t width = section.bytes % 4 == 0 ? 4 : 2, count = section.bytes / width;
        if (count == 0) continue;
        const size_t first = random() % count, run = trial % 3 == 0 ? 1 + random() % (count - first) : 1;
        for (size_t i = first; i < first + run; ++i) {
          const uint32_t extremes[] = {0, 1, 0xffff, 0xffffffff, 0x7fffffff, 0x7f800000, 0x7fc07fc0, static_cast<uint32_t>(random())};
          const uint32_t value = extremes[random() % 8];
          std::memcpy(bad.data() + section.offset + i * width, &value, width);
        }
        Sign(bad);
        const std::string loaded = Open(bad, false, true, queries);
        CHECK(Open(bad, true, true, queries) == loaded);
        refused += loaded == "CORRUPT_FILE";
        const std::string viewed = Open(bad, true, false, queries);
        CHECK(viewed == "none" || viewed == loaded);
      }
    }
    CHECK(refused > 200);
  }
}
