// A CPU stand-in for the parts of CUDA that this package uses, found on the include path before the toolkit's header of
// the same name. It compiles the kernels as plain C++ and runs them, so that a machine without a GPU can check them.
//
// It is a checker, not a fast path. Every thread of a block is a fiber that runs until its next barrier or warp operation;
// the order in which the fibers run is a parameter (emulator::set_order), so that a missing barrier shows as a wrong
// result. Blocks run one after another. Shared memory is poisoned before each block, device memory when it is allocated.
// Asynchronous copies (cp.async) land only when they are waited for, or (with another order) at once; work on a stream runs
// only when something waits for the stream, so that a missing event shows too. What may not be called while a stream captures
// fails and spoils the capture. Launches obey the limits of the least of the architectures, and barriers and warp operations
// must be met by all threads at one place in the source.
//
// The kernels themselves are compiled so that every access to memory passes through emulator::touch (memory_check.cc): races,
// reads of shared memory that nobody wrote, accesses past an end and misaligned ones end the program with a sentence. Under
// AddressSanitizer its own guards do part of this instead.
#ifndef MAGICPIG_EMULATOR_CUDA_RUNTIME_H_
#define MAGICPIG_EMULATOR_CUDA_RUNTIME_H_

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#if defined(__ELF__)  // the linker then says where a section begins and ends
#define __shared__ static __attribute__((section("magicpig_shared")))
#else
#define __shared__ static
#endif
#define __align__(n) alignas(n)

// ---- Vector types -----------------------------------------------------------------------------------------------------

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- The thread that is running ---------------------------------------------------------------------------------------

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

// Order in which the fibers of a block take turns.
enum class Order { kForward, kReverse, kShuffled };
void set_order(Order order, uint32_t seed = 0);
// Bytes that cudaMalloc may hand out in all, 8 GiB at first.
void set_device_memory(size_t bytes);
// Shared memory of a multiprocessor: 100 KiB at first.
void set_multiprocessor_shared(int bytes);
// The next `count`-th runtime call from now that can fail returns `error` (0 turns this off): failure injection.
void fail_call(unsigned count, int error);

void* dynamic_shared_memory();
// Says what went wrong and where, and aborts.
[[noreturn]] void die(const char* what);

constexpr size_t kMaxWarpValue = 64;
struct WarpSlots {
  alignas(16) unsigned char in[32][kMaxWarpValue];
  alignas(16) unsigned char out[32][kMaxWarpValue];
};
// Where in the source a barrier or a warp operation is: all threads that meet there must have come by the same one.
using Place = std::source_location;
// One operation of a whole warp: every lane leaves `in`, the last to arrive runs `body`, every lane leaves with its `out`.
void warp_collective(const void* in, size_t in_bytes, void* out, size_t out_bytes, void (*body)(WarpSlots&, int argument),
                     int argument, const Place& place);
unsigned lane();
void check_full_mask(unsigned mask);

template <typename T>
T warp_permute(T value, int argument, void (*body)(WarpSlots&, int), const Place& place) {
  static_assert(sizeof(T) <= kMaxWarpValue && std::is_trivially_copyable_v<T>);
  T result;
  warp_collective(&value, sizeof(T), &result, sizeof(T), body, argument, place);
  return result;
}

// What kernels do to memory, by the running thread or by a `lane` of its warp.
enum class Touch { kRead, kWrite, kAtomic, kCopyStart, kCopyEnd };  // the last two: of cp.async, to shared memory
void touch(Touch touch, const void* address, size_t bytes, int lane = -1);

}  // namespace emulator

void __syncthreads(const emulator::Place& place = emulator::Place::current());
void __syncwarp(unsigned mask = 0xffffffffu, const emulator::Place& place = emulator::Place::current());

// The lane to read from may differ between lanes, so it travels with the value.
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, const emulator::Place& place = emulator::Place::current()) {
  emulator::check_full_mask(mask);
  struct { T value; int source; } in{value, source & 31};
  T out;
  emulator::warp_collective(&in, sizeof in, &out, sizeof out, [](emulator::WarpSlots& slots, int) {
    for (auto lane = 0; lane < 32; ++lane) {
      decltype(in) own, other;
      std::memcpy(&own, slots.in[lane], sizeof own);
      std::memcpy(&other, slots.in[own.source], sizeof other);
      std::memcpy(slots.out[lane], &other.value, sizeof(T));
    }
  }, 0, place);
  return out;
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, const emulator::Place& place = emulator::Place::current()) {
  return __shfl_sync(mask, value, static_cast<int>(emulator::lane()) ^ lanes, place);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, const emulator::Place& place = emulator::Place::current()) {
  const int lane = static_cast<int>(emulator::lane());
  return __shfl_sync(mask, value, lane >= static_cast<int>(delta) ? lane - static_cast<int>(delta) : lane, place);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, const emulator::Place& place = emulator::Place::current()) {
  emulator::check_full_mask(mask);
  return emulator::warp_permute<unsigned>(predicate != 0, 0, [](emulator::WarpSlots& slots, int) {
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane) {
      unsigned value;
      std::memcpy(&value, slots.in[lane], sizeof value);
      bits |= value << lane;
    }
    for (auto& out : slots.out) std::memcpy(out, &bits, sizeof bits);
  }, place);
}
inline int __any_sync(unsigned mask, int predicate, const emulator::Place& place = emulator::Place::current()) {
  return __ballot_sync(mask, predicate, place) != 0;
}
inline unsigned __match_any_sync(unsigned mask, unsigned value, const emulator::Place& place = emulator::Place::current()) {
  emulator::check_full_mask(mask);
  return emulator::warp_permute<unsigned>(value, 0, [](emulator::WarpSlots& slots, int) {
    for (int lane = 0; lane < 32; ++lane) {
      unsigned peers = 0;
      for (int other = 0; other < 32; ++other) {
        peers |= static_cast<unsigned>(std::memcmp(slots.in[lane], slots.in[other], sizeof(unsigned)) == 0) << other;
      }
      std::memcpy(slots.out[lane], &peers, sizeof peers);
    }
  }, place);
}

// ---- Intrinsics (threads take turns at barriers only, so plain updates are atomic) ------------------------------------

template <typename T>
__attribute__((no_sanitize("thread"))) T atomicAdd(T* address, std::type_identity_t<T> value) {
  emulator::touch(emulator::Touch::kAtomic, address, sizeof(T));
  const T old = *address;
  *address = old + value;
  return old;
}
template <typename T>
__attribute__((no_sanitize("thread"))) T atomicMax(T* address, std::type_identity_t<T> value) {
  emulator::touch(emulator::Touch::kAtomic, address, sizeof(T));
  const T old = *address;
  *address = std::max(old, value);
  return old;
}
template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
// Byte i of the result is the byte of {x, y} that nibble i of the selector names.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(bytes >> (8 * (selector >> (4 * i) & 7u)) & 255u) << (8 * i);
  return result;
}
// The upper word of {high, low} << shift % 32.
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) << (shift & 31u) >> 32);
}
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline void sincospif(float x, float* sine, float* cosine) {
  const double angle = static_cast<double>(x) * 3.14159265358979323846;
  *sine = static_cast<float>(std::sin(angle));
  *cosine = static_cast<float>(std::cos(angle));
}
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }

// ---- The runtime API: the toolkit's names, meanings and status values --------------------------------------------------

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidPitchValue = 12,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorHostMemoryAlreadyRegistered = 712,
  cudaErrorHostMemoryNotRegistered = 713,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureIsolation = 905,
  cudaErrorCapturedEvent = 907,
  cudaErrorNotSupported = 801,
  cudaErrorUnknown = 999,
};
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();

struct CUstream_st;
struct CUevent_st;
struct CUgraph_st;
struct CUgraphExec_st;
using cudaStream_t = CUstream_st*;
using cudaEvent_t = CUevent_st*;
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraphExec_st*;

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  size_t sharedMemPerBlockOptin;
  int major, minor;
  int multiProcessorCount;
  int l2CacheSize;
};
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocPortable = 1, cudaHostRegisterPortable = 1, cudaEventDefault = 0;

cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned flags);
cudaError_t cudaHostUnregister(void* pointer);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t rows, cudaMemcpyKind kind,
                              cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags = 0);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

namespace emulator {

// Queues `work` behind what `stream` already holds (or adds it to the graph that the stream is capturing).
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);

// Queues `thread`, run once for each thread of the grid. Refuses what a device would: grids, blocks and shared memory beyond the
// limits, and more than 48 KiB of the latter without the attribute.
cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, std::function<void()> thread);

// The device allocation that `address` lies in or within kGuard bytes of.
struct Allocation {
  uintptr_t begin, end;
};
constexpr size_t kGuard = 256;
bool find_allocation(uintptr_t address, Allocation& allocation);

}  // namespace emulator

#endif  // MAGICPIG_EMULATOR_CUDA_RUNTIME_H_
