#include "weight.h"

#include <magicpig/thread_pool.h>

#include <algorithm>
#include <utility>

#include "random_normal.h"

namespace magicpig::cpu {
namespace {

constexpr size_t kNoRow = SIZE_MAX;

// Bytes of packed weights that one task makes: enough to hide its start, few enough to balance.
constexpr size_t kPackTaskBytes = size_t{256} << 10;

// The row, among those of all sources stacked, that sits at `lane` of a panel, or kNoRow for padding.
size_t RowAt(const Weight& weight, size_t panel, size_t lane) {
  const size_t width = weight.outputs_per_panel();
  const size_t output = panel * width + lane % width;
  if (output >= weight.outputs()) return kNoRow;
  return lane < width ? output : weight.outputs() + output;  // the lanes past the width are those of up
}

// Values first .. first + count of row `row` of a source, as float32.
void DecodeRow(const Kernels& kernels, const Source& source, size_t row, size_t cols, size_t first, size_t count,
               float* out) {
  if (source.random) {
    RandomNormal(source.seed, row * cols + first, count, source.std, source.mean, out);
    return;
  }
  const BlockLayout layout = kBlockLayouts[static_cast<int>(source.type)];
  const size_t row_bytes = cols / layout.values * layout.bytes;
  const size_t from = source.row_order ? source.row_order[row] : row;
  kernels.dequantize(source.type, source.data + from * row_bytes, first, count, out);
}

}  // namespace

size_t Weight::panels() const { return (outputs() + outputs_per_panel() - 1) / outputs_per_panel(); }

std::optional<Weight> MakeWeight(const magicpig_pool& pool, const Kernels& kernels, Arena& arena,
                                 const std::vector<Source>& sources, size_t cols, Format format, bool gated) {
  Weight weight;
  for (const Source& source : sources) weight.rows += source.rows;
  weight.cols = cols;
  weight.format = format;
  weight.gated = gated;
  weight.bytes = weight.panels() * weight.panel_bytes();
  weight.memory = arena.Allocate(weight.bytes);
  if (!weight.memory.data) return std::nullopt;

  const size_t panels = weight.panels();
  const size_t panels_per_task = std::max<size_t>(1, kPackTaskBytes / weight.panel_bytes());
  const size_t column_bytes = kPanel * WeightBytes(format);
  ParallelFor(pool, static_cast<uint32_t>((panels + panels_per_task - 1) / panels_per_task), [&](uint32_t task, uint32_t) {
    alignas(64) float rows[kPanel * kMaxBlockValues];  // (kPanel, kMaxBlockValues)
    const size_t end = std::min(panels, (task + 1) * panels_per_task);
    for (size_t panel = task * panels_per_task; panel < end; ++panel) {
      std::byte* out = weight.memory.data + panel * weight.panel_bytes();
      for (size_t first = 0; first < cols; first += kMaxBlockValues) {
        const size_t count = std::min(kMaxBlockValues, cols - first);
        for (size_t lane = 0; lane < kPanel; ++lane) {
          float* values = rows + lane * kMaxBlockValues;
          size_t row = RowAt(weight, panel, lane);
          if (row == kNoRow) {
            std::fill(values, values + count, 0.0f);
            continue;
          }
          auto source = sources.begin();
          while (row >= source->rows) row -= (source++)->rows;
          DecodeRow(kernels, *source, row, cols, first, count, values);
        }
        kernels.tiles[static_cast<int>(format)].pack_panel(rows, count, out + first * column_bytes);
      }
    }
  });
  return weight;
}

void DecodeVector(const Kernels& kernels, const Source& source, size_t cols, float* out) {
  for (size_t first = 0; first < cols; first += kMaxBlockValues) {
    const size_t count = std::min(kMaxBlockValues, cols - first);
    float values[kMaxBlockValues];
    // Random values come in fours; the last ones of a vector may be left over.
    DecodeRow(kernels, source, 0, cols, first, source.random ? (count + 3) / 4 * 4 : count, values);
    std::copy(values, values + count, out + first);
  }
}

void GatherRows(const magicpig_pool& pool, const Weight& weight, const int32_t* rows, size_t count, float* out) {
  const size_t cols = weight.cols;
  const auto gather = [&](size_t i) {
    const size_t row = static_cast<size_t>(rows[i]);
    const std::byte* panel = weight.panel(row / kPanel);
    const size_t lane = row % kPanel;
    float* to = out + i * cols;
    if (weight.format == Format::kF32) {
      const float* from = reinterpret_cast<const float*>(panel) + lane;
      for (size_t k = 0; k < cols; ++k) to[k] = from[k * kPanel];
    } else {
      const uint16_t* from = reinterpret_cast<const uint16_t*>(panel) + 2 * lane;
      for (size_t k = 0; k < cols; k += 2) {
        to[k] = Bf16ToFloat(from[k * kPanel]);
        to[k + 1] = Bf16ToFloat(from[k * kPanel + 1]);
      }
    }
  };
  // A row is a cache line for every pair of columns, some microseconds: worth a task, but not a pool for one or two.
  if (count <= 2) {
    for (size_t i = 0; i < count; ++i) gather(i);
  } else {
    ParallelFor(pool, static_cast<uint32_t>(count), [&](uint32_t i, uint32_t) { gather(i); });
  }
}

}  // namespace magicpig::cpu
