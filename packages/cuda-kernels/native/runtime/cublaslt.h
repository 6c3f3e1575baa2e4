// NVIDIA's matrix products, where they are installed: libcublasLt is found and loaded at run time, so that neither building nor
// loading this package needs it.
#ifndef MAGICPIG_RUNTIME_CUBLASLT_H_
#define MAGICPIG_RUNTIME_CUBLASLT_H_

#include <cuda_runtime.h>

#include <map>
#include <string>
#include <tuple>

#include "../device/bf16.h"

namespace magicpig {

class CublasLt {
 public:
  // Device memory that every product may use.
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  CublasLt() = default;
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;
  ~CublasLt();

  // Looks for the library: the file that MAGICPIG_CUBLASLT names, then the loader's own places, the CUDA toolkit's and those of
  // Python packages (PyTorch brings it). False when there is none that works; why_not() then says what was tried and what to do.
  bool open();
  bool is_open() const { return handle_ != nullptr; }
  const std::string& path() const { return path_; }
  const std::string& why_not() const { return why_not_; }

  // out [rows][outputs] f32 = x [rows][inputs] bf16 * weight [outputs][inputs] bf16, transposed; added to what out holds when
  // `accumulate`. cudaErrorNotSupported when the library has no algorithm for the shape. workspace: kWorkspaceBytes on the device.
  cudaError_t multiply(cudaStream_t stream, float* out, const bf16* x, const bf16* weight, int rows, int outputs, int inputs,
                       bool accumulate, void* workspace);

 private:
  struct Functions;
  struct Plan;
  bool load(const std::string& file);

  void* library_ = nullptr;
  Functions* functions_ = nullptr;
  void* handle_ = nullptr;
  std::string path_, why_not_;
  std::map<std::tuple<int, int, int>, Plan*> plans_;  // by (rows, outputs, inputs)
};

}  // namespace magicpig

#endif  // MAGICPIG_RUNTIME_CUBLASLT_H_
