#include "linear.h"

#include <magicpig/thread_pool.h>

#include <algorithm>

namespace magicpig::cpu {
namespace {

// Cache blocking. A task multiplies a block of rows with a few panels; a block of packed rows (of at most kColumnBlock
// columns) stays in the second-level cache with one panel while it passes over the panels.
constexpr size_t kColumnBlock = 2048;
constexpr size_t kRowBlockBytes = size_t{384} << 10;
constexpr size_t kMaxPanelsPerTask = 4;
// Tasks per thread that are enough to balance threads that run at different speeds.
constexpr size_t kTasksPerThread = 6;
// Multiplications in a task that are worth handing out (about a microsecond).
constexpr size_t kLeastTaskWork = size_t{32} << 10;
// Rows that wait for memory, as those of decoding steps do.
constexpr size_t kFewRows = 4;
// Elements of x that the calling thread packs alone: handing them out would take longer.
constexpr size_t kPackAlone = size_t{24} << 10;

constexpr size_t CeilDivide(size_t a, size_t b) { return (a + b - 1) / b; }

// `rows` split into tiles as evenly as can be, of at most `most` rows: a tile of few rows takes about as long as a full one.
struct RowTiles {
  size_t count;
  size_t least;   // rows of a tile, at least
  size_t longer;  // the first tiles that have one row more

  RowTiles(size_t rows, size_t most) : count(CeilDivide(rows, most)), least(rows / count), longer(rows % count) {}

  size_t first(size_t tile) const { return tile * least + std::min(tile, longer); }
  int rows(size_t tile) const { return static_cast<int>(least + (tile < longer ? 1 : 0)); }
};

// Panels shared out for a product of few rows, which waits for memory: as many tasks as threads with half of the panels, then as
// many with half of the rest, and so on ("factoring", Hummel, Schonberg and Flynn 1992). A thread reads one long stretch first,
// since a new one takes processors a while to foresee, and takes small ones at the end, so that no thread waits long.
class Shares {
 public:
  Shares(size_t panels, size_t threads, size_t least) : panels_(panels), threads_(threads), least_(least) {}

  size_t count() const {
    size_t tasks = 0;
    for (Round round = First(); round.begin < panels_; round = After(round)) {
      tasks += std::min(threads_, CeilDivide(panels_ - round.begin, round.size));
    }
    return tasks;
  }

  // The first panel of a task; the end of the last one for `task` = count().
  size_t first(size_t task) const {
    Round round = First();
    for (; task >= threads_ && round.begin < panels_; task -= threads_) round = After(round);
    return std::min(panels_, round.begin + task * round.size);
  }

 private:
  // `threads_` tasks of `size` panels, from `begin` on.
  struct Round {
    size_t begin, size;
  };

  Round From(size_t begin) const { return {begin, std::max(least_, CeilDivide(panels_ - begin, 2 * threads_))}; }
  Round First() const { return From(0); }
  Round After(const Round& round) const { return From(std::min(panels_, round.begin + threads_ * round.size)); }

  size_t panels_, threads_, least_;
};

// Fetches the lines of the output that a tile and a panel will write, while they are being multiplied.
void PrefetchOutput(const Weight& weight, const LinearArgs& args, size_t first_row, int rows, size_t panel) {
  const float* out = args.out + first_row * weight.outputs() + panel * weight.outputs_per_panel();
  for (int r = 0; r < rows; ++r, out += weight.outputs()) {
    __builtin_prefetch(out, 1);
    __builtin_prefetch(out + kHalfPanel, 1);
  }
}

// Writes the finished sums (rows, kPanel) of a tile and a panel to the output.
void Finish(const Kernels& kernels, const Weight& weight, const LinearArgs& args, const float* sums, size_t first_row,
            int rows, size_t panel) {
  const size_t outputs = weight.outputs();
  const size_t first = panel * weight.outputs_per_panel();
  const size_t count = std::min(weight.outputs_per_panel(), outputs - first);
  for (int r = 0; r < rows; ++r, sums += kPanel) {
    float* out = args.out + (first_row + r) * outputs + first;
    if (weight.gated) {
      kernels.swiglu(sums, count, out);
      continue;
    }
    const float* bias = args.bias ? args.bias + first : nullptr;
    for (size_t i = 0; i < count; ++i) {
      const float sum = bias ? sums[i] + bias[i] : sums[i];
      out[i] = args.accumulate ? out[i] + sum : sum;
    }
  }
}

}  // namespace

bool LinearScratch::Reserve(size_t packed_bytes, size_t thread_bytes, uint32_t threads) {
  thread_bytes = CeilDivide(thread_bytes, kAlignment) * kAlignment;
  if (packed_.size() < packed_bytes) {
    Block block = Block::Allocate(packed_bytes);
    if (!block) return false;
    packed_ = static_cast<Block&&>(block);
  }
  if (thread_bytes_ < thread_bytes) {
    Block block = Block::Allocate(thread_bytes * threads);
    if (!block) return false;
    threads_ = static_cast<Block&&>(block);
    thread_bytes_ = thread_bytes;
  }
  return true;
}

bool Linear(const magicpig_pool& pool, const Kernels& kernels, LinearScratch& scratch, const Weight& weight,
            const LinearArgs& args) {
  const InputKernels& inputs = kernels.inputs[static_cast<int>(InputOf(weight.format))];
  const size_t cols = weight.cols;
  const size_t panels = weight.panels.size();
  const auto row_bytes = [&](size_t columns) { return columns * inputs.bytes_per_32 / 32; };
  const RowTiles row_tiles(args.rows, inputs.tile_rows);

  // Blocks: row tiles of a task, panels of a task, columns of a pass.
  const bool few = args.rows <= kFewRows;
  const size_t column_block = few ? cols : std::min(cols, kColumnBlock);
  const size_t column_blocks = CeilDivide(cols, column_block);
  size_t tiles_per_task = row_tiles.count;
  if (!few) {
    tiles_per_task = std::clamp<size_t>(kRowBlockBytes / (inputs.tile_rows * row_bytes(column_block)), 1, tiles_per_task);
  }
  tiles_per_task = CeilDivide(row_tiles.count, CeilDivide(row_tiles.count, tiles_per_task));  // blocks of even size
  size_t panels_per_task = std::min(kMaxPanelsPerTask, panels);
  const auto tasks_now = [&] {
    return CeilDivide(row_tiles.count, tiles_per_task) * CeilDivide(panels, panels_per_task);
  };
  const size_t tasks_wanted = kTasksPerThread * pool.threads;
  while (!few && pool.threads > 1 && tasks_now() < tasks_wanted) {
    if (kPanel * cols * panels_per_task * tiles_per_task * row_tiles.least < 2 * kLeastTaskWork) break;
    if (panels_per_task > 1) {
      panels_per_task = CeilDivide(panels_per_task, 2);
    } else if (tiles_per_task > 1) {
      tiles_per_task = CeilDivide(tiles_per_task, 2);
    } else {
      break;
    }
  }

  // Per thread: sums of a task's tiles when the columns take several passes, else of one tile; prepared rows for packing.
  const size_t tile_sums = inputs.tile_rows * kPanel;
  const size_t sums_bytes = sizeof(float) * tile_sums * (column_blocks > 1 ? tiles_per_task * panels_per_task : 1);
  const size_t rows_bytes = sizeof(float) * inputs.tile_rows * cols;
  if (!scratch.Reserve(args.rows * row_bytes(cols), std::max(sums_bytes, rows_bytes), pool.threads)) return false;

  const auto packed_tile = [&](size_t tile) { return scratch.packed() + row_tiles.first(tile) * row_bytes(cols); };
  const auto pack = [&](size_t tile, uint32_t thread) {
    inputs.pack(args.x + row_tiles.first(tile) * cols, cols, row_tiles.rows(tile), cols, args.norm, args.epsilon,
               reinterpret_cast<float*>(scratch.thread(thread)), packed_tile(tile));
  };
  if (args.rows * cols <= kPackAlone) {
    for (size_t tile = 0; tile < row_tiles.count; ++tile) pack(tile, 0);
  } else {
    ParallelFor(pool, static_cast<uint32_t>(row_tiles.count), [&](uint32_t tile, uint32_t thread) { pack(tile, thread); });
  }

  const Shares shares(panels, pool.threads, CeilDivide(kLeastTaskWork, kPanel * cols));
  const size_t panel_tasks = few ? shares.count() : CeilDivide(panels, panels_per_task);
  const size_t tasks = few ? panel_tasks : tasks_now();
  const auto first_panel_of = [&](size_t task) {
    return few ? shares.first(task) : std::min(panels, task * panels_per_task);
  };
  // Panels vary fastest: a thread's next task most likely has the same rows, which its cache still holds.
  ParallelFor(pool, static_cast<uint32_t>(tasks), [&](uint32_t task, uint32_t thread) {
    float* const sums = reinterpret_cast<float*>(scratch.thread(thread));
    const size_t first_tile = task / panel_tasks * tiles_per_task;
    const size_t end_tile = std::min(row_tiles.count, first_tile + tiles_per_task);
    const size_t first_panel = first_panel_of(task % panel_tasks);
    const size_t end_panel = first_panel_of(task % panel_tasks + 1);
    for (size_t k = 0; k < cols; k += column_block) {
      const size_t columns = std::min(column_block, cols - k);
      const bool last = k + columns == cols;
      for (size_t panel = first_panel; panel < end_panel; ++panel) {
        const auto& [format, data] = weight.panels[panel];
        const PanelPart part = {data, cols, k, columns};
        const Multiply multiply = kernels.multiply[static_cast<int>(format)];
        for (size_t tile = first_tile; tile < end_tile; ++tile) {
          const int rows = row_tiles.rows(tile);
          float* tile_out = sums;
          if (column_blocks > 1) tile_out += ((panel - first_panel) * tiles_per_task + tile - first_tile) * tile_sums;
          if (last) PrefetchOutput(weight, args, row_tiles.first(tile), rows, panel);
          multiply(packed_tile(tile) + rows * row_bytes(k), rows, part, tile_out);
          if (last) Finish(kernels, weight, args, tile_out, row_tiles.first(tile), rows, panel);
        }
      }
    }
  });
  return true;
}

}  // namespace magicpig::cpu
