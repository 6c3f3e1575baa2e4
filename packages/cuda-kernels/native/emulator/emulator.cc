// See cuda_runtime.h beside this file.
#include "cuda_runtime.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
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

// ---- Fibers -----------------------------------------------------------------------------------------------------------

constexpr size_t kStackBytes = 256 * 1024;

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
  void (*body)(emulator::WarpSlots&, int) = nullptr;
  int argument = 0;
};

struct Block {
  std::vector<Warp> warps;
  unsigned threads = 0;
  unsigned running = 0;  // threads that have not finished
  unsigned arrived = 0;
  uint64_t generation = 0;
  const std::function<void()>* body = nullptr;
};

std::vector<Fiber> fiber_pool;
Block block;
Fiber* current = nullptr;
unsigned char* shared_memory = nullptr;
uint64_t blocks_run = 0;
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
}

unsigned linear_thread() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }

void wait_for(const uint64_t* generation) {
  current->waiting = generation;
  current->until = *generation;
  to_scheduler(false);
}

void run_block(size_t shared_bytes) {
  std::unique_ptr<unsigned char, void (*)(void*)> shared(nullptr, &std::free);
  if (shared_bytes > 0) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, shared_bytes) != 0) die("out of host memory");
    shared.reset(static_cast<unsigned char*>(memory));
    std::memset(memory, 0xff, shared_bytes);  // NaN in every float format
  }
  shared_memory = shared.get();
  ++blocks_run;
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
  if (shared_memory == nullptr) die("the kernel uses dynamic shared memory but was launched without any");
  return shared_memory;
}

bool copies_land_at_once() { return order == Order::kReverse; }

uint64_t block_serial() { return blocks_run; }

unsigned lane() { return linear_thread() % 32; }

void check_full_mask(unsigned mask) {
  if (mask != 0xffffffffu) die("only warp operations of all 32 lanes are emulated");
}

void warp_collective(const void* in, size_t in_bytes, void* out, size_t out_bytes, void (*body)(WarpSlots&, int),
                     int argument) {
  if (in_bytes > kMaxWarpValue || out_bytes > kMaxWarpValue) die("a warp operation's value is too large");
  Warp& warp = block.warps[linear_thread() / 32];
  const unsigned own = lane();
  if (warp.arrived > 0 && (warp.body != body || warp.argument != argument)) die("lanes of a warp meet in different operations");
  warp.body = body;
  warp.argument = argument;
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
  if (threads == 0 || threads % 32 != 0 || threads > 1024) die("a block must have 32..1024 threads, a multiple of 32");
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

void __syncthreads() {
  if (++block.arrived == block.threads) {
    block.arrived = 0;
    ++block.generation;
  } else {
    wait_for(&block.generation);
  }
}

// ---- Runtime API ------------------------------------------------------------------------------------------------------

struct CUgraph_st {
  std::vector<std::function<void()>> work;
};
struct CUgraphExec_st {
  std::vector<std::function<void()>> work;
};
struct CUstream_st {
  std::deque<std::function<void()>> work;
  std::unique_ptr<CUgraph_st> capture;
};
struct CUevent_st {
  CUstream_st* stream = nullptr;  // where the last record is still queued
  uint64_t recorded = 0, reached = 0;
  std::chrono::steady_clock::time_point time;
};

namespace {

size_t device_memory = size_t{8} << 30;
size_t device_memory_used = 0;
std::map<void*, size_t> allocations;
std::set<void*> registered;
std::vector<CUstream_st*> streams;
CUstream_st default_stream;
unsigned failing_call = 0;
cudaError_t failing_error = cudaSuccess;
cudaError_t last_error = cudaSuccess;
cudaError_t sticky_error = cudaSuccess;  // after a lost device every call fails

cudaError_t report(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}
cudaError_t fault() {
  if (sticky_error != cudaSuccess) return report(sticky_error);
  if (failing_call == 0 || --failing_call > 0) return cudaSuccess;
  if (failing_error == cudaErrorIllegalAddress || failing_error == cudaErrorLaunchFailure) sticky_error = failing_error;
  return report(failing_error);
}
#define RETURN_ON_FAULT() \
  if (const cudaError_t error = fault(); error != cudaSuccess) return error

CUstream_st* resolve(cudaStream_t stream) { return stream == nullptr ? &default_stream : stream; }

void run_first(CUstream_st* stream) {
  const auto work = std::move(stream->work.front());
  stream->work.pop_front();
  work();
}
void drain(CUstream_st* stream) {
  while (!stream->work.empty()) run_first(stream);
}
void drain_all() {
  for (CUstream_st* stream : streams) drain(stream);
  drain(&default_stream);
}

}  // namespace

namespace emulator {

void set_device_memory(size_t bytes) { device_memory = bytes; }

void fail_call(unsigned count, int error) {
  failing_call = count;
  failing_error = static_cast<cudaError_t>(error);
  sticky_error = cudaSuccess;
  last_error = cudaSuccess;
}

cudaError_t enqueue(cudaStream_t handle, std::function<void()> work) {
  RETURN_ON_FAULT();
  CUstream_st* stream = resolve(handle);
  if (stream->capture) {
    stream->capture->work.push_back(std::move(work));
  } else {
    stream->work.push_back(std::move(work));
  }
  return cudaSuccess;
}

}  // namespace emulator

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorHostMemoryAlreadyRegistered: return "cudaErrorHostMemoryAlreadyRegistered";
    case cudaErrorHostMemoryNotRegistered: return "cudaErrorHostMemoryNotRegistered";
    case cudaErrorNotSupported: return "cudaErrorNotSupported";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    default: return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = sticky_error;
  return error;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  RETURN_ON_FAULT();
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  RETURN_ON_FAULT();
  return device == 0 ? cudaSuccess : report(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  RETURN_ON_FAULT();
  if (device != 0) return report(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "CPU emulation");
  properties->totalGlobalMem = device_memory;
  properties->sharedMemPerBlockOptin = 99 * 1024;  // the least of the architectures that the kernels are built for
  properties->major = 8;
  properties->multiProcessorCount = 2;
  properties->l2CacheSize = 1 << 20;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  RETURN_ON_FAULT();
  *free = device_memory - device_memory_used;
  *total = device_memory;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  RETURN_ON_FAULT();
  drain_all();
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  RETURN_ON_FAULT();
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (bytes > device_memory - device_memory_used || posix_memalign(pointer, 256, bytes) != 0) {
    *pointer = nullptr;
    return report(cudaErrorMemoryAllocation);
  }
  std::memset(*pointer, 0xff, bytes);
  allocations[*pointer] = bytes;
  device_memory_used += bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  drain_all();
  const auto found = allocations.find(pointer);
  if (found == allocations.end()) return report(cudaErrorInvalidValue);
  device_memory_used -= found->second;
  allocations.erase(found);
  std::free(pointer);
  return sticky_error;
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  RETURN_ON_FAULT();
  return posix_memalign(pointer, 4096, bytes) == 0 ? cudaSuccess : report(cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* pointer) {
  drain_all();
  std::free(pointer);
  return sticky_error;
}
cudaError_t cudaHostRegister(void* pointer, size_t, unsigned) {
  RETURN_ON_FAULT();
  return registered.insert(pointer).second ? cudaSuccess : report(cudaErrorHostMemoryAlreadyRegistered);
}
cudaError_t cudaHostUnregister(void* pointer) {
  drain_all();
  return registered.erase(pointer) == 1 ? sticky_error : report(cudaErrorHostMemoryNotRegistered);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  RETURN_ON_FAULT();
  drain_all();
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  return emulator::enqueue(stream, [=] { std::memcpy(to, from, bytes); });
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t rows, cudaMemcpyKind,
                              cudaStream_t stream) {
  if (width > to_pitch || width > from_pitch) return report(cudaErrorInvalidValue);
  if (width == 0 || rows == 0) return cudaSuccess;
  return emulator::enqueue(stream, [=] {
    for (size_t row = 0; row < rows; ++row) std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
  });
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  return emulator::enqueue(stream, [=] { std::memset(to, value, bytes); });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  RETURN_ON_FAULT();
  *stream = new CUstream_st;
  streams.push_back(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  drain(stream);
  streams.erase(std::remove(streams.begin(), streams.end(), stream), streams.end());
  delete stream;
  return sticky_error;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  RETURN_ON_FAULT();
  if (resolve(stream)->capture) return report(cudaErrorStreamCaptureUnsupported);
  drain(resolve(stream));
  return cudaSuccess;
}

namespace {

// Runs the event's stream until the record numbered `ticket` has passed.
void reach(CUevent_st* event, uint64_t ticket) {
  while (event->reached < ticket && !event->stream->work.empty()) run_first(event->stream);
}

}  // namespace

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const uint64_t ticket = event->recorded;
  if (resolve(stream)->capture) return cudaSuccess;  // one captured stream: its order is the graph's order
  return emulator::enqueue(stream, [=] { reach(event, ticket); });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  RETURN_ON_FAULT();
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  drain_all();
  delete event;
  return sticky_error;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const uint64_t ticket = event->recorded + 1;
  const cudaError_t error = emulator::enqueue(stream, [=] {
    event->reached = ticket;
    event->time = std::chrono::steady_clock::now();
  });
  if (error != cudaSuccess) return error;
  event->recorded = ticket;
  event->stream = resolve(stream);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  RETURN_ON_FAULT();
  const bool reached = event->reached == event->recorded;
  // Time passes between two questions: one piece of work.
  if (!reached && !event->stream->work.empty()) run_first(event->stream);
  return reached ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  RETURN_ON_FAULT();
  if (event->recorded > 0) reach(event, event->recorded);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  RETURN_ON_FAULT();
  if (start->recorded == 0 || end->recorded == 0) return report(cudaErrorInvalidResourceHandle);
  if (start->reached != start->recorded || end->reached != end->recorded) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  RETURN_ON_FAULT();
  if (stream == nullptr || stream->capture) return report(cudaErrorStreamCaptureUnsupported);
  stream->capture = std::make_unique<CUgraph_st>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  std::unique_ptr<CUgraph_st> captured = std::move(stream->capture);
  RETURN_ON_FAULT();
  *graph = captured.release();
  return *graph != nullptr ? cudaSuccess : report(cudaErrorStreamCaptureInvalidated);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  RETURN_ON_FAULT();
  *exec = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return sticky_error;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  drain_all();
  delete exec;
  return sticky_error;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return emulator::enqueue(stream, [exec] {
    for (const auto& work : exec->work) work();
  });
}
