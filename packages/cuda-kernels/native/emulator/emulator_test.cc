// What the emulator must notice: kernels with one mistake each. Every one runs in a process of its own, which has to end with the
// sentence that names the mistake; without the mistake it has to end well. Compiled with the kernels' instrumentation.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "../device/launch.h"
#include "../device/tensor_core.h"
#include "../device/warp.h"

namespace magicpig::test {
namespace {

constexpr int kThreads = 64;

void block_barrier(float* out, bool wrong) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = 0.0f;
  __syncthreads();
  values[threadIdx.x] = 1.0f;
  if (!wrong) __syncthreads();
  out[threadIdx.x] = values[kThreads - 1 - threadIdx.x];
}

void warp_barrier(float* out, bool wrong) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = 0.0f;
  __syncthreads();
  values[threadIdx.x] = 1.0f;
  if (!wrong) __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}

void overwritten_too_early(float* out, bool wrong) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + 32) % kThreads];
  if (!wrong) __syncthreads();
  values[threadIdx.x] = 2.0f;
}

void plain_update(float* out, bool wrong) {
  __shared__ int count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  if (wrong) {
    count += 1;
  } else {
    atomicAdd(&count, 1);
  }
  __syncthreads();
  if (threadIdx.x == 0) out[0] = static_cast<float>(count);
}

void never_written(float* out, bool wrong) {
  __shared__ float values[kThreads];
  if (!wrong || threadIdx.x != 5) values[threadIdx.x] = 1.0f;
  out[threadIdx.x] = values[threadIdx.x];
}

void never_written_dynamic(float* out, bool wrong) {
  float* values = dynamic_shared<float>();
  if (!wrong) values[threadIdx.x] = 1.0f;
  out[threadIdx.x] = values[threadIdx.x];
}

void blocks_collide(float* out, bool wrong) { out[threadIdx.x + (wrong ? 0 : blockIdx.x * kThreads)] = 1.0f; }

void block_reads_another(float* out, bool wrong) {
  if (blockIdx.x == 0) {
    out[threadIdx.x] = 1.0f;
  } else {
    out[kThreads + threadIdx.x] = wrong ? out[threadIdx.x] : 1.0f;
  }
}

void past_the_end(float* out, bool wrong) { out[2 * kThreads - (wrong && threadIdx.x == 3 ? 0u : 1u + threadIdx.x)] = 1.0f; }

void past_shared(float* out, bool wrong) {
  float* values = dynamic_shared<float>();
  values[threadIdx.x + (wrong ? 1 : 0)] = 1.0f;
  out[threadIdx.x] = 1.0f;
}

void past_an_array(float* out, bool wrong) {
  __shared__ float values[2][kThreads];
  values[1][threadIdx.x] = 1.0f;
  out[threadIdx.x] = values[wrong ? 2 : 1][threadIdx.x];
}

void misaligned_vector(float* out, bool wrong) {
  *reinterpret_cast<float2*>(out + 2 * threadIdx.x + (wrong && threadIdx.x == 0 ? 1 : 0)) = make_float2(1.0f, 1.0f);
}

void different_barriers(float* out, bool wrong) {
  if (wrong && threadIdx.x >= 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1.0f;
}

void missing_lane(float* out, bool wrong) {
  if (wrong && threadIdx.x == 7) return;
  out[threadIdx.x] = warp_sum(1.0f);
}

void different_shuffles(float* out, bool wrong) {
  const float a = wrong && threadIdx.x % 2 == 0 ? __shfl_xor_sync(kAllLanes, 1.0f, 2) : __shfl_xor_sync(kAllLanes, 1.0f, 2);
  out[threadIdx.x] = a;
}

void copy_not_waited_for(float* out, bool wrong) {
  float* values = dynamic_shared<float>();
  copy_async(values + 4 * threadIdx.x, out, true);
  commit_copies();
  if (!wrong) wait_copies<0>();
  out[4 + threadIdx.x] = values[4 * threadIdx.x];
}

void copy_of_another_thread(float* out, bool wrong) {
  float* values = dynamic_shared<float>();
  for (int i = 0; i < 4; ++i) values[4 * threadIdx.x + i] = 0.0f;
  __syncthreads();
  copy_async(values + 4 * threadIdx.x, out, true);
  commit_copies();
  wait_copies<0>();
  if (!wrong) __syncthreads();
  out[4 + threadIdx.x] = values[4 * (kThreads - 1 - threadIdx.x)];
}

void copy_over_what_is_read(float* out, bool wrong) {
  float* values = dynamic_shared<float>();
  values[threadIdx.x] = 1.0f;
  __syncthreads();
  out[4 + threadIdx.x] = values[kThreads - 1 - threadIdx.x];
  if (!wrong) __syncthreads();
  if (threadIdx.x < kThreads / 4) copy_async(values + 4 * threadIdx.x, out, true);
  commit_copies();
  wait_copies<0>();
}

void misaligned_matrix(float* out, bool wrong) {
  float* values = dynamic_shared<float>();
  for (int i = 0; i < 4; ++i) values[threadIdx.x * 4 + i] = 1.0f;
  __syncthreads();
  uint32_t r[4];
  load_matrices(r, values + threadIdx.x % 32 * 4 + (wrong ? 1 : 0));
  out[threadIdx.x] = static_cast<float>(r[0]);
}

struct Mistake {
  const char* name;
  void (*kernel)(float*, bool);
  const char* sentence;  // a part of what the emulator says
};
constexpr Mistake kMistakes[] = {
    {"a missing barrier", block_barrier, "race: "},
    {"a missing barrier of a warp", warp_barrier, "race: "},
    {"a missing barrier before reuse", overwritten_too_early, "race: "},
    {"a plain update by all threads", plain_update, "race: "},
    {"shared memory that nobody wrote", never_written, "nobody wrote this"},
    {"dynamic shared memory that nobody wrote", never_written_dynamic, "nobody wrote this"},
    {"two blocks that write one place", blocks_collide, "race: write"},
    {"a block that reads another's result", block_reads_another, "race: read"},
    {"a write past an allocation", past_the_end, "out of bounds: write"},
    {"a write past dynamic shared memory", past_shared, "out of bounds: write"},
    {"an index past a shared array", past_an_array, "index out of an array's bounds"},
    {"a misaligned vector", misaligned_vector, "misaligned access"},
    {"a barrier in divergent branches", different_barriers, "different barriers"},
    {"a warp operation without one lane", missing_lane, "never reach"},
    {"a warp operation in divergent branches", different_shuffles, "different operations"},
    {"cp.async that is not waited for", copy_not_waited_for, "not been waited for"},
    {"cp.async of another thread without a barrier", copy_of_another_thread, "race: "},
    {"cp.async over what is still read", copy_over_what_is_read, "race: start of cp.async"},
    {"ldmatrix of a misaligned row", misaligned_matrix, "ldmatrix needs rows"},
};

// What the process says that runs the kernel, and whether it ended well.
std::string run(const Mistake& mistake, bool wrong, bool& good) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    void* out = nullptr;
    const size_t shared_bytes = 4 * kThreads * sizeof(float);
    if (cudaMalloc(&out, 2 * kThreads * sizeof(float)) != cudaSuccess) _exit(1);
    const bool exact = mistake.kernel == past_shared;  // its shared memory ends where its values do
    if (launch(mistake.kernel, dim3(2 - (mistake.kernel != blocks_collide && mistake.kernel != block_reads_another)), dim3(kThreads),
               exact ? kThreads * sizeof(float) : shared_bytes, nullptr, static_cast<float*>(out), wrong) != cudaSuccess) {
      _exit(1);
    }
    _exit(cudaDeviceSynchronize() == cudaSuccess ? 0 : 1);
  }
  close(ends[1]);
  std::string said;
  char buffer[256];
  for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) > 0;) said.append(buffer, static_cast<size_t>(got));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  good = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  return said;
}

void nothing(float*, bool) {}

// Launches that a device refuses.
int test_limits() {
  int failures = 0;
  const auto expect = [&](const char* name, cudaError_t status, cudaError_t expected) {
    if (status == expected) return;
    ++failures;
    std::printf("FAILED %s: %s\n", name, cudaGetErrorName(status));
  };
  float* none = nullptr;
  expect("65,536 rows of blocks", launch(nothing, dim3(1, 65536), dim3(32), 0, nullptr, none, false), cudaErrorInvalidConfiguration);
  expect("65,536 layers of blocks", launch(nothing, dim3(1, 1, 65536), dim3(32), 0, nullptr, none, false), cudaErrorInvalidConfiguration);
  expect("2^31 blocks", launch(nothing, dim3(1u << 31), dim3(32), 0, nullptr, none, false), cudaErrorInvalidConfiguration);
  expect("1,056 threads", launch(nothing, dim3(1), dim3(1056), 0, nullptr, none, false), cudaErrorInvalidConfiguration);
  expect("100 KiB of shared memory", launch(nothing, dim3(1), dim3(32), 100 * 1024, nullptr, none, false), cudaErrorInvalidValue);
  expect("99 KiB of shared memory", launch(nothing, dim3(1), dim3(32), 99 * 1024, nullptr, none, false), cudaSuccess);
  expect("49 KiB of shared memory without the attribute", emulator::launch(nullptr, dim3(1), dim3(32), 49 * 1024, nullptr, [] {}),
         cudaErrorInvalidValue);
  return failures;
}

// Calls that are not allowed while a stream captures fail, and so does the end of the capture; others leave it whole.
int test_captures() {
  int failures = 0;
  cudaStream_t stream = nullptr, other = nullptr;
  cudaEvent_t outside = nullptr, inside = nullptr;
  for (cudaStream_t* each : {&stream, &other}) failures += cudaStreamCreateWithFlags(each, cudaStreamNonBlocking) != cudaSuccess;
  for (cudaEvent_t* each : {&outside, &inside}) failures += cudaEventCreateWithFlags(each, cudaEventDisableTiming) != cudaSuccess;
  failures += cudaEventRecord(outside, other) != cudaSuccess;
  void *memory = nullptr, *pinned = nullptr, *more = nullptr;
  failures += cudaMalloc(&memory, 64) != cudaSuccess || cudaHostAlloc(&pinned, 64, cudaHostAllocPortable) != cudaSuccess;
  const auto capture = [&](const char* name, bool allowed, const std::function<cudaError_t()>& call) {
    cudaGraph_t graph = nullptr;
    if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) ++failures;
    const bool called = call() == cudaSuccess, ended = cudaStreamEndCapture(stream, &graph) == cudaSuccess;
    cudaGraphDestroy(graph);
    if (called == allowed && ended == allowed) return;
    ++failures;
    std::printf("FAILED %s while a stream captures\n", name);
  };
  capture("an allocation", false, [&] { return cudaMalloc(&more, 64); });
  capture("giving memory back", false, [&] { return cudaFree(memory); });
  capture("an allocation of pinned memory", false, [&] { return cudaHostAlloc(&more, 64, cudaHostAllocPortable); });
  capture("giving pinned memory back", false, [&] { return cudaFreeHost(pinned); });
  capture("waiting for the device", false, [&] { return cudaDeviceSynchronize(); });
  capture("waiting for the stream", false, [&] { return cudaStreamSynchronize(stream); });
  capture("waiting for another stream", true, [&] { return cudaStreamSynchronize(other); });
  capture("waiting for an event from outside", false, [&] { return cudaStreamWaitEvent(stream, outside); });
  capture("waiting for an event of the capture", true, [&] {
    const cudaError_t error = cudaEventRecord(inside, stream);
    return error != cudaSuccess ? error : cudaStreamWaitEvent(stream, inside);
  });
  capture("a copy from pinned memory", true, [&] { return cudaMemcpyAsync(memory, pinned, 64, cudaMemcpyDefault, stream); });
  failures += cudaEventSynchronize(inside) != cudaErrorCapturedEvent || cudaStreamWaitEvent(other, inside) != cudaErrorCapturedEvent;
  failures += cudaFree(memory) != cudaSuccess || cudaFreeHost(pinned) != cudaSuccess;
  for (cudaEvent_t each : {outside, inside}) failures += cudaEventDestroy(each) != cudaSuccess;
  for (cudaStream_t each : {stream, other}) failures += cudaStreamDestroy(each) != cudaSuccess;
  return failures;
}

}  // namespace
}  // namespace magicpig::test

int main() {
  using namespace magicpig::test;
  int failures = test_limits() + test_captures();
  for (const Mistake& mistake : kMistakes) {
    bool good = false;
    const std::string quiet = run(mistake, false, good);
    if (!good) {
      ++failures;
      std::printf("FAILED without %s: %s\n", mistake.name, quiet.c_str());
    }
    const std::string said = run(mistake, true, good);
    if (good || said.find(mistake.sentence) == std::string::npos) {
      ++failures;
      std::printf("FAILED %s was not noticed: '%s'\n", mistake.name, said.c_str());
    }
  }
  std::printf("%d of %zu mistakes were not noticed\n", failures, std::size(kMistakes));
  return failures == 0 ? 0 : 1;
}
