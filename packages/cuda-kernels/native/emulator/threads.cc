// Threads of the emulated device: fibers that take turns at barriers and warp operations. See cuda_runtime.h beside this file.
#include "machine.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

void emulator::die(const char* what) {
  std::fprintf(stderr, "CUDA emulator: %s (block %u,%u,%u thread %u,%u,%u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z,
               threadIdx.x, threadIdx.y, threadIdx.z);
  std::abort();
}

namespace {

using emulator::die;
using emulator::kStackBytes;
using emulator::now;

// ---- Fibers -----------------------------------------------------------------------------------------------------------

struct Fiber {
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context{};
#endif
  void* asan_stack = nullptr;
  dim3 index;
  bool finished = true;
  // What the fiber waits for: the generation of its block or warp barrier must pass `until`.
  const uint64_t* waiting = nullptr;
  uint64_t until = 0;
};

#if defined(__x86_64__)
void* scheduler_stack_pointer;
extern "C" void magicpig_emulator_switch(void** save, void* load);
asm(R"(
.text
.globl magicpig_emulator_switch
.hidden magicpig_emulator_switch
.type magicpig_emulator_switch,@function
magicpig_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size magicpig_emulator_switch,.-magicpig_emulator_switch
)");
#else
ucontext_t scheduler_context;
#endif

struct Warp {
  emulator::WarpSlots slots;
  unsigned arrived = 0;
  uint64_t generation = 0;
  uint32_t interval = 0;  // number of its last __syncwarp
  void (*body)(emulator::WarpSlots&, int) = nullptr;
  int argument = 0;
  uint32_t line = 0, column = 0;  // where the lanes that have arrived are
};

struct Block {
  std::vector<Warp> warps;
  unsigned threads = 0;
  unsigned running = 0;  // threads that have not finished
  unsigned arrived = 0;
  uint64_t generation = 0;
  const std::function<void()>* body = nullptr;
  uint32_t line = 0, column = 0;  // where the threads that have arrived are
};

std::vector<Fiber> fiber_pool;
Block block;
Fiber* current = nullptr;
emulator::Range shared_memory{nullptr, 0};
uint32_t warp_intervals = 0;
emulator::Order order = emulator::Order::kForward;
std::mt19937 order_random;

#if defined(__SANITIZE_ADDRESS__)
void* scheduler_asan_stack;
const void* scheduler_stack_bottom;
size_t scheduler_stack_size;
#endif

void to_scheduler([[maybe_unused]] bool last) {
  Fiber& fiber = *current;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &fiber.asan_stack, scheduler_stack_bottom, scheduler_stack_size);
#endif
#if defined(__x86_64__)
  magicpig_emulator_switch(&fiber.stack_pointer, scheduler_stack_pointer);
#else
  swapcontext(&fiber.context, &scheduler_context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.asan_stack, &scheduler_stack_bottom, &scheduler_stack_size);
#endif
}

void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_bottom, &scheduler_stack_size);
#endif
  (*block.body)();
  current->finished = true;
  --block.running;
  to_scheduler(true);
  std::abort();  // a finished fiber is never resumed
}

void start(Fiber& fiber) {
  fiber.finished = false;
  fiber.waiting = nullptr;
#if defined(__x86_64__)
  // The first switch pops six registers and returns into fiber_main with the stack aligned as after a call.
  auto top = reinterpret_cast<uintptr_t>(fiber.stack.get() + kStackBytes) & ~uintptr_t{15};
  auto* stack = reinterpret_cast<void**>(top) - 8;
  std::fill(stack, stack + 8, nullptr);
  stack[6] = reinterpret_cast<void*>(&fiber_main);
  fiber.stack_pointer = stack;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, &fiber_main, 0);
#endif
}

void resume(Fiber& fiber) {
  current = &fiber;
  threadIdx = fiber.index;
  now.in_kernel = true;
  now.stack = reinterpret_cast<uintptr_t>(fiber.stack.get());
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler_asan_stack, fiber.stack.get(), kStackBytes);
#endif
#if defined(__x86_64__)
  magicpig_emulator_switch(&scheduler_stack_pointer, fiber.stack_pointer);
#else
  swapcontext(&scheduler_context, &fiber.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler_asan_stack, nullptr, nullptr);
#endif
  current = nullptr;
  now.in_kernel = false;
}

unsigned linear_thread() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }

void wait_for(const uint64_t* generation) {
  current->waiting = generation;
  current->until = *generation;
  to_scheduler(false);
}

void run_block(size_t shared_bytes) {
  using emulator::kGuard;
  std::unique_ptr<unsigned char, void (*)(void*)> shared(nullptr, &std::free);
  if (shared_bytes > 0) {
    void* memory = nullptr;
    if (posix_memalign(&memory, kGuard, shared_bytes + 2 * kGuard) != 0) die("out of host memory");
    shared.reset(static_cast<unsigned char*>(memory));
    std::memset(memory, 0xff, shared_bytes + 2 * kGuard);  // NaN in every float format
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(memory, kGuard);
    __asan_poison_memory_region(shared.get() + kGuard + shared_bytes, kGuard);
#endif
  }
  shared_memory = {shared ? shared.get() + kGuard : nullptr, shared_bytes};
  now.block_began = ++now.interval;
  block.running = block.threads;
  block.arrived = 0;
  for (Warp& warp : block.warps) warp.arrived = 0;
  std::vector<unsigned> turns(block.threads);
  std::iota(turns.begin(), turns.end(), 0u);
  for (unsigned i : turns) start(fiber_pool[i]);
  const auto blocked = [](const Fiber& fiber) {
    return fiber.finished || (fiber.waiting != nullptr && *fiber.waiting == fiber.until);
  };
  const auto run = [&](unsigned i) {
    fiber_pool[i].waiting = nullptr;
    resume(fiber_pool[i]);
  };
  // Forward and in reverse, a warp runs as far as it can, to the next block barrier, before the next warp starts: warps drift as
  // far apart as the barriers let them. Shuffled, all threads take turns at random.
  if (order == emulator::Order::kReverse) std::reverse(turns.begin(), turns.end());
  while (block.running > 0) {
    bool progress = false;
    if (order == emulator::Order::kShuffled) {
      std::shuffle(turns.begin(), turns.end(), order_random);
      for (unsigned i : turns) {
        if (blocked(fiber_pool[i])) continue;
        progress = true;
        run(i);
      }
    } else {
      for (unsigned first = 0; first < block.threads; first += 32) {
        for (bool moved = true; moved;) {
          moved = false;
          for (unsigned lane = 0; lane < 32; ++lane) {
            if (blocked(fiber_pool[turns[first + lane]])) continue;
            progress = moved = true;
            run(turns[first + lane]);
          }
        }
      }
    }
    if (!progress) die("threads wait at a barrier or warp operation that others never reach");
  }
}

}  // namespace

namespace emulator {

void set_order(Order value, uint32_t seed) {
  order = value;
  order_random.seed(seed);
}

void* dynamic_shared_memory() {
  if (shared_memory.begin == nullptr) die("the kernel uses dynamic shared memory but was launched without any");
  return shared_memory.begin;
}

Range dynamic_shared_range() { return shared_memory; }

Order current_order() { return order; }

Moment moment(int lane) {
  const unsigned own = linear_thread();
  return {now.interval, block.warps[own / 32].interval, lane < 0 ? own : own / 32 * 32 + static_cast<unsigned>(lane)};
}

unsigned lane() { return linear_thread() % 32; }

void check_full_mask(unsigned mask) {
  if (mask != 0xffffffffu) die("only warp operations of all 32 lanes are emulated");
}

void warp_collective(const void* in, size_t in_bytes, void* out, size_t out_bytes, void (*body)(WarpSlots&, int),
                     int argument, const Place& place) {
  if (in_bytes > kMaxWarpValue || out_bytes > kMaxWarpValue) die("a warp operation's value is too large");
  Warp& warp = block.warps[linear_thread() / 32];
  const unsigned own = lane();
  if (warp.arrived > 0 && (warp.body != body || warp.argument != argument || warp.line != place.line() || warp.column != place.column())) {
    die("lanes of a warp meet in different operations");
  }
  warp.body = body;
  warp.argument = argument;
  warp.line = place.line();
  warp.column = place.column();
  std::memcpy(warp.slots.in[own], in, in_bytes);
  if (++warp.arrived == 32) {
    warp.arrived = 0;
    body(warp.slots, argument);
    ++warp.generation;
  } else {
    wait_for(&warp.generation);
  }
  std::memcpy(out, warp.slots.out[own], out_bytes);
  // No lane may leave new input in the slots before every lane has taken its result: lanes that arrive at the next
  // operation write `in` only, and results live in `out`, which the next operation fills when all 32 have arrived again.
}

void run_grid(dim3 grid, dim3 block_shape, size_t shared_bytes, const std::function<void()>& body) {
  const unsigned threads = block_shape.x * block_shape.y * block_shape.z;
  if (threads % 32 != 0) die("only blocks of whole warps are emulated");
  now.launch_began = now.interval + 1;
  while (fiber_pool.size() < threads) fiber_pool.emplace_back();
  block.threads = threads;
  block.warps.assign(threads / 32, Warp{});
  block.body = &body;
  gridDim = grid;
  blockDim = block_shape;
  for (unsigned i = 0; i < threads; ++i) {
    fiber_pool[i].index = dim3(i % block_shape.x, i / block_shape.x % block_shape.y, i / (block_shape.x * block_shape.y));
  }
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        run_block(shared_bytes);
      }
    }
  }
}

}  // namespace emulator

void __syncthreads(const emulator::Place& place) {
  if (block.arrived > 0 && (block.line != place.line() || block.column != place.column())) die("threads of a block meet at different barriers");
  block.line = place.line();
  block.column = place.column();
  if (++block.arrived == block.threads) {
    block.arrived = 0;
    ++block.generation;
    ++now.interval;
  } else {
    wait_for(&block.generation);
  }
}

void __syncwarp(unsigned mask, const emulator::Place& place) {
  emulator::check_full_mask(mask);
  char nothing = 0;
  const auto body = [](emulator::WarpSlots&, int) { block.warps[linear_thread() / 32].interval = ++warp_intervals; };
  emulator::warp_collective(&nothing, 1, &nothing, 1, body, 0, place);
}
