// The runtime API of the emulated device: memory, streams, events, graphs. See cuda_runtime.h beside this file.
#include "machine.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

struct CUgraph_st {
  std::vector<std::function<void()>> work;
};
struct CUgraphExec_st {
  std::vector<std::function<void()>> work;
};
struct CUstream_st {
  std::deque<std::function<void()>> work;
  std::unique_ptr<CUgraph_st> capture;
  bool spoilt = false;  // the capture
};
struct CUevent_st {
  CUstream_st* stream = nullptr;  // where the last record is still queued
  const CUgraph_st* captured = nullptr;  // the capture that it was last recorded in
  uint64_t recorded = 0, reached = 0;
  std::chrono::steady_clock::time_point time;
};

namespace {

size_t device_memory = size_t{8} << 30;
size_t device_memory_used = 0;
int multiprocessor_shared = 100 * 1024;
std::map<uintptr_t, size_t> allocations;  // kGuard bytes lie around each
std::map<const void*, int> dynamic_shared_limits;
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

// Calls that a thread may not make while one of its streams captures: they synchronise, or may.
cudaError_t refuse_in_capture() {
  bool refused = false;
  for (CUstream_st* stream : streams) {
    if (stream->capture) refused = stream->spoilt = true;
  }
  return refused ? report(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
#define RETURN_ON_CAPTURE() \
  if (const cudaError_t error = refuse_in_capture(); error != cudaSuccess) return error

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

void set_multiprocessor_shared(int bytes) { multiprocessor_shared = bytes; }

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

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, std::function<void()> thread) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const auto limit = dynamic_shared_limits.find(kernel);
  const size_t allowed = limit == dynamic_shared_limits.end() ? kSharedBytesUnasked : static_cast<size_t>(limit->second);
  if (threads == 0 || threads > kMaxThreads || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > kMaxGridX || grid.y > kMaxGridYZ ||
      grid.z > kMaxGridYZ) {
    return report(cudaErrorInvalidConfiguration);
  }
  if (shared_bytes > std::max(allowed, kSharedBytesUnasked)) return report(cudaErrorInvalidValue);
  return enqueue(stream, [=, thread = std::move(thread)] { run_grid(grid, block, shared_bytes, thread); });
}

bool find_allocation(uintptr_t address, Allocation& allocation) {
  auto next = allocations.upper_bound(address + kGuard);
  if (next == allocations.begin()) return false;
  const auto& [begin, bytes] = *--next;
  allocation = {begin, begin + bytes};
  return address < allocation.end + kGuard;
}

}  // namespace emulator

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  RETURN_ON_FAULT();
  if (value < 0 || static_cast<size_t>(value) > emulator::kSharedBytes) return report(cudaErrorInvalidValue);
  dynamic_shared_limits[kernel] = value;
  return cudaSuccess;
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorHostMemoryAlreadyRegistered: return "cudaErrorHostMemoryAlreadyRegistered";
    case cudaErrorHostMemoryNotRegistered: return "cudaErrorHostMemoryNotRegistered";
    case cudaErrorInvalidPitchValue: return "cudaErrorInvalidPitchValue";
    case cudaErrorStreamCaptureIsolation: return "cudaErrorStreamCaptureIsolation";
    case cudaErrorCapturedEvent: return "cudaErrorCapturedEvent";
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
cudaError_t cudaGetDevice(int* device) {
  RETURN_ON_FAULT();
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int device) {
  RETURN_ON_FAULT();
  if (device != 0) return report(cudaErrorInvalidDevice);
  *value = multiprocessor_shared;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  RETURN_ON_FAULT();
  if (device != 0) return report(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "CPU emulation");
  properties->totalGlobalMem = device_memory;
  properties->sharedMemPerBlockOptin = emulator::kSharedBytes;
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
  RETURN_ON_CAPTURE();
  drain_all();
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  using emulator::kGuard;
  RETURN_ON_FAULT();
  RETURN_ON_CAPTURE();
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  void* memory = nullptr;
  if (bytes > device_memory - device_memory_used || posix_memalign(&memory, kGuard, bytes + 2 * kGuard) != 0) {
    return report(cudaErrorMemoryAllocation);
  }
  std::memset(memory, 0xff, bytes + 2 * kGuard);
  *pointer = static_cast<unsigned char*>(memory) + kGuard;
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(memory, kGuard);
  __asan_poison_memory_region(static_cast<unsigned char*>(*pointer) + bytes, kGuard);
#endif
  allocations[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
  device_memory_used += bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  RETURN_ON_CAPTURE();
  drain_all();
  const auto found = allocations.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == allocations.end()) return report(cudaErrorInvalidValue);
  device_memory_used -= found->second;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(static_cast<unsigned char*>(pointer) - emulator::kGuard, found->second + 2 * emulator::kGuard);
#endif
  allocations.erase(found);
  std::free(static_cast<unsigned char*>(pointer) - emulator::kGuard);
  return sticky_error;
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  RETURN_ON_FAULT();
  RETURN_ON_CAPTURE();
  return posix_memalign(pointer, 4096, bytes) == 0 ? cudaSuccess : report(cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* pointer) {
  RETURN_ON_CAPTURE();
  drain_all();
  std::free(pointer);
  return sticky_error;
}
cudaError_t cudaHostRegister(void* pointer, size_t, unsigned) {
  RETURN_ON_FAULT();
  RETURN_ON_CAPTURE();
  return registered.insert(pointer).second ? cudaSuccess : report(cudaErrorHostMemoryAlreadyRegistered);
}
cudaError_t cudaHostUnregister(void* pointer) {
  RETURN_ON_CAPTURE();
  drain_all();
  return registered.erase(pointer) == 1 ? sticky_error : report(cudaErrorHostMemoryNotRegistered);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  RETURN_ON_FAULT();
  RETURN_ON_CAPTURE();
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
  if (std::max(to_pitch, from_pitch) > emulator::kMaxPitch) return report(cudaErrorInvalidPitchValue);
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
  if (CUstream_st* own = resolve(stream); own->capture) {
    own->spoilt = true;
    return report(cudaErrorStreamCaptureUnsupported);
  }
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
  if (CUstream_st* own = resolve(stream); own->capture) {
    if (event->captured == own->capture.get()) return cudaSuccess;  // one captured stream: its order is the graph's order
    own->spoilt = true;
    return report(cudaErrorStreamCaptureIsolation);
  }
  if (event->captured != nullptr) return report(cudaErrorCapturedEvent);
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
  event->captured = resolve(stream)->capture.get();
  if (event->captured != nullptr) return fault();  // a place in the graph, not in time
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
  if (event->captured != nullptr) return report(cudaErrorCapturedEvent);
  const bool reached = event->reached == event->recorded;
  // Time passes between two questions: one piece of work.
  if (!reached && !event->stream->work.empty()) run_first(event->stream);
  return reached ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  RETURN_ON_FAULT();
  if (event->captured != nullptr) return report(cudaErrorCapturedEvent);
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
  stream->spoilt = false;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  std::unique_ptr<CUgraph_st> captured = std::move(stream->capture);
  RETURN_ON_FAULT();
  if (stream->spoilt) return report(cudaErrorStreamCaptureInvalidated);
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
