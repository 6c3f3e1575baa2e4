// Host memory registered with CUDA, so that a device can read and write it directly. The driver is found at run time;
// nothing links against it.
#ifndef MAGICPIG_KV_CUDA_HOST_H_
#define MAGICPIG_KV_CUDA_HOST_H_

#include <cstddef>
#include <memory>
#include <string>

namespace magicpig::kv {

// The primary context of device 0, retained while this object lives.
class CudaHost {
 public:
  // libcuda.so.1, or the library that the environment variable MAGICPIG_LIBCUDA names, with a device; shared by all callers.
  // nullptr without one, and `reason` says why.
  static std::shared_ptr<CudaHost> Open(std::string& reason);
  ~CudaHost();
  CudaHost(const CudaHost&) = delete;
  CudaHost& operator=(const CudaHost&) = delete;

  // Pins `bytes` at `data` and makes them known to all contexts. False when the driver refuses; `reason` says why.
  bool Register(void* data, size_t bytes, std::string& reason) const;
  void Unregister(void* data) const;

 private:
  struct Driver;
  explicit CudaHost(std::unique_ptr<Driver> driver);

  std::unique_ptr<Driver> driver_;
};

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_CUDA_HOST_H_
