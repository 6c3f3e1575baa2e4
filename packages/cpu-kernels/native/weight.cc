#include "weight.h"

#include <magicpig/thread_pool.h>
#include <string.h>

#include <algorithm>
#include <utility>

#include "float16.h"
#include "quantize.h"

namespace magicpig::cpu {
namespace {

constexpr size_t kNoRow = SIZE_MAX;

// Weights that one task packs: enough to hide its start, few enough to balance.
constexpr size_t kPackTaskValues = size_t{64} << 10;

// The row, among those of all sources stacked, that sits at `lane` of a panel, or kNoRow for padding.
size_t RowAt(const Weight& weight, size_t panel, size_t lane) {
  const size_t width = weight.outputs_per_panel();
  const size_t output = panel * width + lane % width;
  if (output >= weight.outputs()) return kNoRow;
  return lane < width ? output : weight.outputs() + output;  // the lanes past the width are those of up
}

// A row of a checkpoint's tensor.
const uint8_t* RowOf(const Source& source, size_t row, size_t cols) {
  const BlockLayout layout = kBlockLayouts[static_cast<int>(source.type)];
  return source.data + (source.row_order ? source.row_order[row] : row) * (cols / layout.values * layout.bytes);
}

// Asks for the same values kPanel rows further on, which this thread needs next. Rows are read in pieces, in turns: more streams
// than processors foresee. A request for what there is not does no harm.
void PrefetchNextPanel(const Source& source, size_t row, size_t cols, size_t first, size_t count) {
  const BlockLayout layout = kBlockLayouts[static_cast<int>(source.type)];
  const uintptr_t begin = reinterpret_cast<uintptr_t>(RowOf(source, row, cols)) +
                          (kPanel * cols + first) / layout.values * layout.bytes;
  const uintptr_t end = begin + count / layout.values * layout.bytes;
  for (uintptr_t line = begin; line < end; line += kAlignment) __builtin_prefetch(reinterpret_cast<const void*>(line));
}

// Values first .. first + count of row `row` of a source, as float32.
void DecodeRow(const Kernels& kernels, const Source& source, size_t row, size_t cols, size_t first, size_t count,
               float* out) {
  if (source.random) {
    kernels.random_normal(source.seed, row * cols + first, count, source.std, source.mean, out);
    return;
  }
  PrefetchNextPanel(source, row, cols, first, count);
  kernels.dequantize(source.type, RowOf(source, row, cols), first, count, out);
}

// Where the weights of a panel's lanes come from.
struct Lane {
  const Source* source = nullptr;  // null for padding
  size_t row = 0;                  // of the source
};

Lane LaneAt(const Weight& weight, const std::vector<Source>& sources, size_t panel, size_t lane) {
  size_t row = RowAt(weight, panel, lane);
  if (row == kNoRow) return {};
  auto source = sources.begin();
  while (row >= source->rows) row -= (source++)->rows;
  return {&*source, row};
}

PanelFormat FormatOfPanel(const Weight& weight, const Lane (&lanes)[kPanel]) {
  if (weight.format == WeightFormat::kF32) return PanelFormat::kF32;
  if (weight.format == WeightFormat::kBf16) return PanelFormat::kBf16;
  const auto wanted = [&](const Lane& lane) {
    return QuantisedFormat(weight.format, lane.source->random ? SourceType::kF32 : lane.source->type);
  };
  PanelFormat format = wanted(lanes[0]);  // the first output of a panel is never padding
  for (const Lane& lane : lanes) {
    if (lane.source) format = CommonFormat(format, wanted(lane));
  }
  return format;
}

// Elements first .. first + count of one output as the panel has them: floats, or bfloat16.
void FloatElements(const Kernels& kernels, const Lane& lane, size_t cols, size_t first, size_t count, PanelFormat format,
                   uint32_t* elements) {
  const size_t bytes = count * (format == PanelFormat::kF32 ? sizeof(float) : sizeof(uint16_t));
  if (!lane.source) {
    memset(elements, 0, bytes);
    return;
  }
  const Source& source = *lane.source;
  if (format == PanelFormat::kF32) {
    DecodeRow(kernels, source, lane.row, cols, first, count, reinterpret_cast<float*>(elements));
  } else if (!source.random && source.type == SourceType::kBf16) {
    PrefetchNextPanel(source, lane.row, cols, first, count);
    memcpy(elements, RowOf(source, lane.row, cols) + first * sizeof(uint16_t), bytes);
  } else {
    float values[kMaxBlockValues];
    DecodeRow(kernels, source, lane.row, cols, first, count, values);
    kernels.round_to_bf16(values, count, reinterpret_cast<uint16_t*>(elements));
  }
}

void PackFloats(const Kernels& kernels, const Lane (&lanes)[kPanel], size_t cols, PanelFormat format, std::byte* panel) {
  // What an output has for one (kF32) or two inputs. A cache line more than needed: outputs at a distance of a power of two would
  // throw each other out of the cache.
  constexpr size_t kStride = kMaxBlockValues + kAlignment / sizeof(uint32_t);
  constexpr size_t kTogether = kAlignment / sizeof(uint32_t);
  alignas(kAlignment) uint32_t words[kPanel * kStride];
  for (size_t first = 0; first < cols; first += kMaxBlockValues) {
    const size_t count = std::min(kMaxBlockValues, cols - first);
    for (size_t lane = 0; lane < kPanel; ++lane) {
      FloatElements(kernels, lanes[lane], cols, first, count, format, words + lane * kStride);
    }
    uint32_t* out = reinterpret_cast<uint32_t*>(panel + PanelBytes(format, first));
    const size_t columns = format == PanelFormat::kF32 ? count : count / 2;
    for (size_t begin = 0; begin < columns; begin += kTogether) {
      const size_t end = std::min(columns, begin + kTogether);
      for (size_t lane = 0; lane < kPanel; ++lane) {
        for (size_t i = begin; i < end; ++i) out[i * kPanel + lane] = words[lane * kStride + i];
      }
    }
  }
}

void PackQuantised(const Kernels& kernels, const Lane (&lanes)[kPanel], size_t cols, PanelFormat format, std::byte* panel) {
  constexpr size_t kBlocks = kMaxBlockValues / kQuantBlock;
  QuantBlock blocks[kHalfPanel][kBlocks];
  for (size_t half = 0; half < kPanel; half += kHalfPanel) {
    for (size_t first = 0; first < cols; first += kMaxBlockValues) {
      const size_t count = std::min(kMaxBlockValues, cols - first);
      for (size_t i = 0; i < kHalfPanel; ++i) {
        const Lane& lane = lanes[half + i];
        if (!lane.source) {
          std::fill_n(blocks[i], kBlocks, QuantBlock{});  // a scale of zero makes zeros
          continue;
        }
        const Source& source = *lane.source;
        if (!source.random && RepacksInto(source.type, format)) {
          PrefetchNextPanel(source, lane.row, cols, first, count);
          RepackRow(source.type, RowOf(source, lane.row, cols), first / kQuantBlock, count / kQuantBlock, format, blocks[i]);
        } else {
          float values[kMaxBlockValues];
          DecodeRow(kernels, source, lane.row, cols, first, count, values);
          for (size_t b = 0; b < count / kQuantBlock; ++b) {
            QuantiseBlock(values + b * kQuantBlock, format, &blocks[i][b]);
          }
        }
      }
      for (size_t b = 0; b < count / kQuantBlock; ++b, panel += QuantBlockBytes(format)) {
        PackBlocks(&blocks[0][b], kBlocks, format, panel);
      }
    }
  }
}

}  // namespace

std::optional<Weight> MakeWeight(const magicpig_pool& pool, const Kernels& kernels, Arena& arena,
                                 const std::vector<Source>& sources, size_t cols, WeightFormat format, bool gated) {
  Weight weight;
  for (const Source& source : sources) weight.rows += source.rows;
  weight.cols = cols;
  weight.format = format;
  weight.gated = gated;

  const size_t panels = (weight.outputs() + weight.outputs_per_panel() - 1) / weight.outputs_per_panel();
  const auto lanes_of = [&](size_t panel, Lane(&lanes)[kPanel]) {
    for (size_t lane = 0; lane < kPanel; ++lane) lanes[lane] = LaneAt(weight, sources, panel, lane);
  };
  std::vector<PanelFormat> formats(panels);
  for (size_t panel = 0; panel < panels; ++panel) {
    Lane lanes[kPanel];
    lanes_of(panel, lanes);
    formats[panel] = FormatOfPanel(weight, lanes);
    weight.bytes += PanelBytes(formats[panel], cols);
  }
  weight.memory = arena.Allocate(weight.bytes);
  if (!weight.memory.data) return std::nullopt;
  const std::byte* data = weight.memory.data;
  for (const PanelFormat panel_format : formats) {
    weight.panels.push_back({panel_format, data});
    data += PanelBytes(panel_format, cols);
  }

  const size_t panels_per_task = std::max<size_t>(1, kPackTaskValues / (kPanel * cols));
  ParallelFor(pool, static_cast<uint32_t>((panels + panels_per_task - 1) / panels_per_task), [&](uint32_t task, uint32_t) {
    const size_t end = std::min(panels, (task + 1) * panels_per_task);
    for (size_t panel = task * panels_per_task; panel < end; ++panel) {
      Lane lanes[kPanel];
      lanes_of(panel, lanes);
      std::byte* out = weight.memory.data + (weight.panels[panel].data - weight.memory.data);
      const bool floats = formats[panel] == PanelFormat::kF32 || formats[panel] == PanelFormat::kBf16;
      (floats ? PackFloats : PackQuantised)(kernels, lanes, cols, formats[panel], out);
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
    const auto& [format, panel] = weight.panels[row / kPanel];
    const size_t lane = row % kPanel;
    float* to = out + i * cols;
    if (format == PanelFormat::kF32) {
      const float* from = reinterpret_cast<const float*>(panel) + lane;
      for (size_t k = 0; k < cols; ++k) to[k] = from[k * kPanel];
    } else if (format == PanelFormat::kBf16) {
      const uint16_t* from = reinterpret_cast<const uint16_t*>(panel) + 2 * lane;
      for (size_t k = 0; k < cols; k += 2) {
        to[k] = Bf16ToFloat(from[k * kPanel]);
        to[k + 1] = Bf16ToFloat(from[k * kPanel + 1]);
      }
    } else {
      const std::byte* from = panel + lane / kHalfPanel * (PanelBytes(format, cols) / 2);
      for (size_t k = 0; k < cols; k += kQuantBlock, from += QuantBlockBytes(format)) {
        DecodeBlock(from, format, lane % kHalfPanel, to + k);
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
