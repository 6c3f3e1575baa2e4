// Every access of the kernels to memory, checked as compute-sanitizer's memcheck, racecheck and initcheck would.
//
// The kernels are compiled with the instrumentation of -fsanitize=thread and -fsanitize=alignment,bounds but without their run-time
// libraries: the functions that the compiler calls then are these.
#include <cstdio>
#include <cstring>
#include <memory>
#include <unordered_map>

#include "machine.h"

namespace emulator {
namespace {

// One access to one byte. interval 0: none.
struct Access : Moment {
  bool atomic = false;
};

// What is remembered of a byte: enough to tell whether any access so far is unordered with the next one.
struct Cell {
  Access write{}, read{};
  Access same_warp_read{};   // the latest by another thread of read's warp
  Access other_warp_read{};  // the latest by another warp of the block
  uint32_t foreign_read = 0;  // interval of the latest by an earlier block
  uint32_t copying = 0;       // interval in which a cp.async to it started that has not been waited for
};

// Static shared memory has its own section of the program.
#if defined(__ELF__)
extern "C" unsigned char __start_magicpig_shared[] __attribute__((weak, visibility("hidden")));
extern "C" unsigned char __stop_magicpig_shared[] __attribute__((weak, visibility("hidden")));
#endif
Range static_shared_range() {
#if defined(__ELF__)
  return {__start_magicpig_shared, static_cast<size_t>(__stop_magicpig_shared - __start_magicpig_shared)};
#else
  return {nullptr, 0};
#endif
}

constexpr size_t kPageBytes = 1024, kMaxPages = 8192;
std::unordered_map<uintptr_t, std::unique_ptr<Cell[]>> global_cells;  // by page
std::unique_ptr<Cell[]> dynamic_cells, static_cells;
size_t dynamic_cells_count = 0;
uint32_t last_launch = 0;

const char* const kNames[] = {"read", "write", "atomic update", "start of cp.async", "end of cp.async"};

[[noreturn]] void complain(const char* what, const char* memory, size_t offset, Touch touch, const Moment& moment, const Access* earlier) {
  char text[320], other[96] = "";
  if (earlier != nullptr) std::snprintf(other, sizeof other, "; the other access was that of thread %u", earlier->thread);
  std::snprintf(text, sizeof text, "%s: %s of byte %zu of %s memory by thread %u%s", what, kNames[static_cast<int>(touch)], offset, memory,
                moment.thread, other);
  die(text);
}

// Whether everything that `earlier` did is visible to, and over before, what happens now.
bool ordered(const Access& earlier, const Moment& moment, bool shared) {
  if (earlier.interval < (shared ? now.block_began : now.launch_began)) return true;
  if (earlier.interval < now.block_began) return false;  // another block of this launch
  return earlier.interval < moment.interval || earlier.thread == moment.thread ||
         (earlier.thread / 32 == moment.thread / 32 && earlier.warp_interval < moment.warp_interval);
}

void check(Cell& cell, Touch touch, const Moment& moment, bool shared, const char* memory, size_t offset) {
  const auto race = [&](const Access& earlier) {
    if (!ordered(earlier, moment, shared)) complain("race", memory, offset, touch, moment, &earlier);
  };
  if (!(touch == Touch::kAtomic && cell.write.atomic)) race(cell.write);
  if (touch == Touch::kCopyEnd) {
    cell.copying = 0;
  } else if (shared && cell.copying >= now.block_began) {
    complain("a cp.async to it has not been waited for", memory, offset, touch, moment, nullptr);
  }
  if (touch == Touch::kRead) {
    if (shared && cell.write.interval < now.block_began) complain("nobody wrote this", memory, offset, touch, moment, nullptr);
    const bool same_block = cell.read.interval >= now.block_began;
    if (!same_block) {
      cell.foreign_read = std::max(cell.foreign_read, cell.read.interval);
      cell.same_warp_read = cell.other_warp_read = {};
    } else if (cell.read.thread / 32 != moment.thread / 32) {
      cell.other_warp_read = cell.read;
      cell.same_warp_read = {};
    } else if (cell.read.thread != moment.thread) {
      cell.same_warp_read = cell.read;
    }
    cell.read = {moment, false};
    return;
  }
  for (const Access* read : {&cell.read, &cell.same_warp_read, &cell.other_warp_read}) race(*read);
  if (!shared && cell.foreign_read >= now.launch_began) race(Access{{cell.foreign_read, 0, 0}, false});
  if (touch == Touch::kCopyStart) cell.copying = moment.interval;
  cell.write = {moment, touch == Touch::kAtomic};
}

void check_all(Cell* cells, Touch touch, const Moment& moment, bool shared, const char* memory, size_t offset, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) check(cells[i], touch, moment, shared, memory, offset + i);
}

}  // namespace

void touch(Touch touch, const void* address, size_t bytes, int lane) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  if (!now.in_kernel || at - now.stack < kStackBytes) return;
  const Moment when = moment(lane);

  const Range dynamic = dynamic_shared_range();
  const auto dynamic_begin = reinterpret_cast<uintptr_t>(dynamic.begin);
  if (dynamic.begin != nullptr && at + kGuard >= dynamic_begin && at < dynamic_begin + dynamic.bytes + kGuard) {
    if (at < dynamic_begin || at + bytes > dynamic_begin + dynamic.bytes) {
      complain("out of bounds", "dynamic shared", at - dynamic_begin, touch, when, nullptr);
    }
    if (dynamic_cells_count < dynamic.bytes) {
      dynamic_cells = std::make_unique<Cell[]>(dynamic.bytes);
      dynamic_cells_count = dynamic.bytes;
    }
    check_all(&dynamic_cells[at - dynamic_begin], touch, when, true, "dynamic shared", at - dynamic_begin, bytes);
    return;
  }
  const Range fixed = static_shared_range();
  const auto fixed_begin = reinterpret_cast<uintptr_t>(fixed.begin);
  if (at - fixed_begin < fixed.bytes) {
    if (!static_cells) static_cells = std::make_unique<Cell[]>(fixed.bytes);
    check_all(&static_cells[at - fixed_begin], touch, when, true, "static shared", at - fixed_begin, bytes);
    return;
  }

  static Allocation last{0, 0};
  static uint32_t last_interval = 0;
  if (last_launch != now.launch_began) {  // what earlier launches did is ordered before all of this one
    last_launch = now.launch_began;
    if (global_cells.size() > kMaxPages) global_cells.clear();
  }
  if (last_interval != now.block_began || at < last.begin || at + bytes > last.end) {
    if (!find_allocation(at, last)) return;  // of the host: a kernel's arguments, constants
    last_interval = now.block_began;
    if (at < last.begin || at + bytes > last.end) complain("out of bounds", "an allocation's device", at - last.begin, touch, when, nullptr);
  }
  for (size_t done = 0; done < bytes;) {
    const uintptr_t page = (at + done) / kPageBytes, offset = (at + done) % kPageBytes;
    const size_t part = std::min(bytes - done, kPageBytes - offset);
    auto& cells = global_cells[page];
    if (!cells) cells = std::make_unique<Cell[]>(kPageBytes);
    check_all(&cells[offset], touch, when, false, "an allocation's device", at + done - last.begin, part);
    done += part;
  }
}

}  // namespace emulator

// ---- What instrumented code calls ---------------------------------------------------------------------------------------

#if !defined(__SANITIZE_ADDRESS__)
using emulator::touch;
using emulator::Touch;

extern "C" {

#define ACCESSES(bytes)                                                                       \
  void __tsan_read##bytes(void* address) { touch(Touch::kRead, address, bytes); }              \
  void __tsan_write##bytes(void* address) { touch(Touch::kWrite, address, bytes); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
#undef ACCESSES
void __tsan_read_range(void* address, size_t bytes) { touch(Touch::kRead, address, bytes); }
void __tsan_write_range(void* address, size_t bytes) { touch(Touch::kWrite, address, bytes); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// The beginning of what the compiler passes: where in the source.
struct UbsanSite {
  const char* file;
  uint32_t line, column;
};
static void complain_at(const UbsanSite* site, const char* what) {
  char text[320];
  std::snprintf(text, sizeof text, "%s at %s:%u", what, site->file, site->line);
  emulator::die(text);
}
void __ubsan_handle_type_mismatch_v1(UbsanSite* site, void*) { complain_at(site, "misaligned access"); }
void __ubsan_handle_out_of_bounds(UbsanSite* site, void*) { complain_at(site, "index out of an array's bounds"); }

}  // extern "C"
#endif
