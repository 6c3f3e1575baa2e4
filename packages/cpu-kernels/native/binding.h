// What the files that know of Node share: handles and arguments, which the TypeScript around them has checked, and failures.
// Allocation failures come back as null or false; no C++ exception leaves a function.
#ifndef MAGICPIG_CPU_BINDING_H_
#define MAGICPIG_CPU_BINDING_H_

#include <magicpig/thread_pool.h>
#include <napi.h>

#include <type_traits>

#include "linear.h"
#include "memory.h"
#include "weight.h"

namespace magicpig::cpu {

inline constexpr const char* kWeightFormatNames[kWeightFormats] = {"f32", "bf16", "q8", "q4"};  // by WeightFormat

// A backend: a code path, a thread pool, and memory that operators share.
struct Backend {
  explicit Backend(uint32_t threads, const Kernels& kernels) : kernels(kernels), pool(ThreadPool::Create(threads)) {}
  ~Backend() { Close(); }
  void Close() {
    if (pool.context) pool.release(pool.context);
    pool.context = nullptr;
    scratch = LinearScratch();
    arena = Arena();
  }

  const Kernels& kernels;
  magicpig_pool pool;
  LinearScratch scratch;
  Arena arena;
};

// Deleted with its handle; memory is empty after dispose.
struct WeightHandle {
  Weight weight;
};

// Calls f, and returns `failed` when it runs out of memory.
template <typename R, typename F>
R OrOutOfMemory(R failed, F&& f) {
  try {
    return f();
  } catch (const std::exception&) {  // bad_alloc; system_error when no thread can be started
    return failed;
  }
}

// A function whose C++ exceptions (small allocations that fail) become JavaScript's.
template <auto kFunction>
Napi::Value Guarded(const Napi::CallbackInfo& info) {
  try {
    if constexpr (std::is_void_v<decltype(kFunction(info))>) {
      kFunction(info);
    } else {
      return kFunction(info);
    }
  } catch (const std::exception& error) {
    Napi::Error::New(info.Env(), error.what()).ThrowAsJavaScriptException();
  }
  return info.Env().Undefined();
}

template <typename T>
T* Handle(const Napi::CallbackInfo& info, size_t index) {
  void* data = nullptr;
  napi_get_value_external(info.Env(), info[index], &data);
  return static_cast<T*>(data);
}

template <typename T>
Napi::Value NewHandle(Napi::Env env, T* object) {
  return Napi::External<T>::New(env, object, [](Napi::Env, T* data) { delete data; });
}

// Elements of a typed array; null data for undefined.
template <typename T>
struct Span {
  T* data = nullptr;
  size_t length = 0;

  Span(Napi::Env env, napi_value value) {
    napi_valuetype type = napi_undefined;
    if (napi_typeof(env, value, &type) != napi_ok || type != napi_object) return;
    void* elements = nullptr;
    if (napi_get_typedarray_info(env, value, nullptr, &length, &elements, nullptr, nullptr) == napi_ok) {
      data = static_cast<T*>(elements);
    }
  }
  Span(const Napi::CallbackInfo& info, size_t index) : Span(info.Env(), info[index]) {}
};

inline size_t Size(const Napi::CallbackInfo& info, size_t index) {
  return static_cast<size_t>(info[index].As<Napi::Number>().Int64Value());
}

inline float Float(const Napi::CallbackInfo& info, size_t index) {
  return static_cast<float>(info[index].As<Napi::Number>().DoubleValue());
}

// Adds a function to what the addon exports.
template <auto kFunction>
void Export(Napi::Env env, Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<Guarded<kFunction>>(env, name));
}

// What each file exports; see native.ts for the functions.
void ExportMappedFiles(Napi::Env env, Napi::Object exports);
void ExportOperators(Napi::Env env, Napi::Object exports);
void ExportTensors(Napi::Env env, Napi::Object exports);
void ExportWeights(Napi::Env env, Napi::Object exports);

}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_BINDING_H_
