// Streams, events, copies and graphs.
#include "../kernels/elementwise.h"
#include "context.h"

namespace magicpig::test {

// Events, copies and graphs: a captured stretch of kernels, replayed with new data, orders itself after what it waits for.
void test_streams(Context& c) {
  const int count = 4096;
  const std::vector<float> x = c.random.normal(count), y = c.random.normal(count);
  DeviceBuffer<float> dx(count), dy(y);
  cudaStream_t copies, compute;
  cudaEvent_t copied;
  CHECK_CUDA(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking));
  CHECK_CUDA(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
  CHECK_CUDA(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
  void* pinned = nullptr;
  CHECK_CUDA(cudaHostAlloc(&pinned, count * sizeof(float), cudaHostAllocPortable));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  CHECK_CUDA(cudaStreamBeginCapture(compute, cudaStreamCaptureModeThreadLocal));
  CHECK_CUDA(add(compute, dx.get(), dy.get(), count));
  CHECK_CUDA(add(compute, dx.get(), dy.get(), count));
  CHECK_CUDA(cudaStreamEndCapture(compute, &graph));
  CHECK_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < count; ++i) static_cast<float*>(pinned)[i] = x[i] * static_cast<float>(round + 1);
    CHECK_CUDA(cudaMemcpyAsync(dx.get(), pinned, count * sizeof(float), cudaMemcpyHostToDevice, copies));
    CHECK_CUDA(cudaEventRecord(copied, copies));
    CHECK_CUDA(cudaStreamWaitEvent(compute, copied, 0));
    CHECK_CUDA(cudaGraphLaunch(exec, compute));
    CHECK_CUDA(cudaMemcpyAsync(pinned, dx.get(), count * sizeof(float), cudaMemcpyDeviceToHost, compute));
    CHECK_CUDA(cudaStreamSynchronize(compute));
    bool good = true;
    for (int i = 0; i < count; ++i) {
      good = good && std::fabs(static_cast<float*>(pinned)[i] - (x[i] * static_cast<float>(round + 1) + 2 * y[i])) < 1e-5f;
    }
    c.expect(good, "graph replay " + std::to_string(round));
  }
  CHECK_CUDA(cudaGraphExecDestroy(exec));
  CHECK_CUDA(cudaGraphDestroy(graph));
  CHECK_CUDA(cudaEventDestroy(copied));
  CHECK_CUDA(cudaStreamDestroy(copies));
  CHECK_CUDA(cudaStreamDestroy(compute));
  CHECK_CUDA(cudaFreeHost(pinned));
}

}  // namespace magicpig::test
