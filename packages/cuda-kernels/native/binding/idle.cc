// The addon where the kernels could not be compiled: it loads everywhere and says why there is nothing in it.
#include <napi.h>

namespace {

Napi::Object initialise(Napi::Env, Napi::Object exports) {
  exports.Set("kind", "idle");
  exports.Set("reason", MAGICPIG_IDLE_REASON);
  return exports;
}

NODE_API_MODULE(magicpig_cuda_kernels, initialise)

}  // namespace
