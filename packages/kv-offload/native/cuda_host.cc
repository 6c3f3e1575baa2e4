#include "cuda_host.h"

#include <cstdlib>
#include <mutex>

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

namespace magicpig::kv {

#if defined(_WIN32)

struct CudaHost::Driver {};
std::shared_ptr<CudaHost> CudaHost::Open(std::string& reason) {
  reason = "Pinning is not implemented on this platform.";
  return nullptr;
}
CudaHost::~CudaHost() = default;
bool CudaHost::Register(void*, size_t, std::string&) const { return false; }
void CudaHost::Unregister(void*) const {}

#else

namespace {

// The types of cuda.h that are used here: its enums are ints, its handles pointers.
using Result = int;
using Device = int;
using Context = void*;
constexpr Result kSuccess = 0;
// CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP: pinned for all contexts, and in their address space.
constexpr unsigned kRegisterFlags = 1 | 2;

}  // namespace

struct CudaHost::Driver {
  void* library = nullptr;
  Device device = 0;
  Context context = nullptr;  // retained when not nullptr

  Result (*init)(unsigned flags);
  Result (*device_get)(Device*, int ordinal);
  Result (*retain)(Context*, Device);
  Result (*release)(Device);
  Result (*push)(Context);
  Result (*pop)(Context*);
  Result (*host_register)(void*, size_t, unsigned flags);
  Result (*host_unregister)(void*);
  Result (*error_string)(Result, const char**);

  ~Driver() {
    if (context != nullptr) release(device);
    if (library != nullptr) dlclose(library);
  }

  template <typename F>
  bool Find(const char* name, F*& function) {
    function = reinterpret_cast<F*>(dlsym(library, name));
    return function != nullptr;
  }

  std::string Describe(const char* call, Result result) const {
    const char* text = nullptr;
    if (error_string(result, &text) != kSuccess || text == nullptr) text = "unknown error";
    return std::string(call) + " failed with " + std::to_string(result) + " (" + text + ").";
  }

  // What prevents its use, or nothing.
  std::string Start() {
    const char* named = std::getenv("MAGICPIG_LIBCUDA");
    const std::string name = named != nullptr && *named != '\0' ? named : "libcuda.so.1";
    library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return "There is no CUDA driver: " + std::string(dlerror()) + ".";
    if (!Find("cuInit", init) || !Find("cuDeviceGet", device_get) || !Find("cuDevicePrimaryCtxRetain", retain) ||
        !Find("cuDevicePrimaryCtxRelease_v2", release) || !Find("cuCtxPushCurrent_v2", push) ||
        !Find("cuCtxPopCurrent_v2", pop) || !Find("cuMemHostRegister_v2", host_register) ||
        !Find("cuMemHostUnregister", host_unregister) || !Find("cuGetErrorString", error_string)) {
      return name + " is no CUDA driver of version 11 or later.";
    }
    if (const Result result = init(0); result != kSuccess) return Describe("cuInit", result);
    if (const Result result = device_get(&device, 0); result != kSuccess) return Describe("cuDeviceGet", result);
    if (const Result result = retain(&context, device); result != kSuccess) {
      context = nullptr;
      return Describe("cuDevicePrimaryCtxRetain", result);
    }
    return {};
  }
};

std::shared_ptr<CudaHost> CudaHost::Open(std::string& reason) {
  static std::mutex mutex;
  static std::weak_ptr<CudaHost> shared;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<CudaHost> host = shared.lock();
  if (host != nullptr) return host;
  auto driver = std::make_unique<Driver>();
  reason = driver->Start();
  if (!reason.empty()) return nullptr;
  host.reset(new CudaHost(std::move(driver)));
  shared = host;
  return host;
}

CudaHost::CudaHost(std::unique_ptr<Driver> driver) : driver_(std::move(driver)) {}

CudaHost::~CudaHost() = default;

bool CudaHost::Register(void* data, size_t bytes, std::string& reason) const {
  if (const Result result = driver_->push(driver_->context); result != kSuccess) {
    reason = driver_->Describe("cuCtxPushCurrent", result);
    return false;
  }
  const Result result = driver_->host_register(data, bytes, kRegisterFlags);
  Context popped;
  driver_->pop(&popped);
  if (result != kSuccess) reason = driver_->Describe("cuMemHostRegister", result);
  return result == kSuccess;
}

void CudaHost::Unregister(void* data) const {
  if (driver_->push(driver_->context) != kSuccess) return;  // the driver is shutting down and forgets it by itself
  driver_->host_unregister(data);
  Context popped;
  driver_->pop(&popped);
}

#endif

}  // namespace magicpig::kv
