// Files of key sketches.
#include <algorithm>
#include <cstring>
#include <string>

#include "sketch.h"

namespace magicpig::lsh {
namespace {

// Sections of index 0, and of 1 + head.
constexpr uint32_t kHeaderSection = FourCc("HEAD"), kSizesSection = FourCc("SIZE");
constexpr uint32_t kCodeSection = FourCc("CODE"), kFactorSection = FourCc("FACT"), kCentreSection = FourCc("CENT");
static_assert(kHeaderSection < kSizesSection && kCodeSection < kFactorSection && kFactorSection < kCentreSection);

// heads, dim, bits, seed, centred.
constexpr size_t kHeaderNumbers = 5;

}  // namespace

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
    const size_t blocks = (head.size + kSketchKeys - 1) / kSketchKeys;
    constexpr size_t kChunkBlocks = kSketchChunk / kSketchKeys;
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
    const size_t blocks = (head.size + kSketchKeys - 1) / kSketchKeys;
    const auto* codes = file->Get<uint8_t>(at + 1, kCodeSection, blocks * sketch->block_bytes());
    const auto* factors = file->Get<uint16_t>(at + 1, kFactorSection, blocks * kSketchKeys);
    for (size_t first = 0; first < head.size; first += kSketchChunk) {
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

}  // namespace magicpig::lsh
