// The addon: unpacks arguments, which the TypeScript around it has checked, and calls. Allocation failures come back as null
// or false; no C++ exception leaves a function.
#include <magicpig/thread_pool.h>
#include <napi.h>
#include <stdlib.h>

#include <memory>
#include <new>
#include <string>
#include <type_traits>

#include "ceilings.h"
#include "copy_rows.h"
#include "cpu_features.h"
#include "linear.h"
#include "mapped_file.h"
#include "rotary.h"
#include "weight.h"

namespace magicpig::cpu {
namespace {

constexpr const char* kSourceTypeNames[] = {"f32",  "f16",  "bf16", "q8_0", "q4_0", "q4_1",
                                            "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"};  // by SourceType
constexpr const char* kWeightFormatNames[kWeightFormats] = {"f32", "bf16", "q8", "q4"};  // by WeightFormat

constexpr napi_type_tag kPoolTag = {MAGICPIG_POOL_TAG_LOWER, MAGICPIG_POOL_TAG_UPPER};

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

size_t Size(const Napi::CallbackInfo& info, size_t index) {
  return static_cast<size_t>(info[index].As<Napi::Number>().Int64Value());
}

float Float(const Napi::CallbackInfo& info, size_t index) {
  return static_cast<float>(info[index].As<Napi::Number>().DoubleValue());
}

// --- Backend ---------------------------------------------------------------------------------------------------------

Napi::Value CpuInfo(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::vector<Path> paths = AvailablePaths();
  Napi::Object result = Napi::Object::New(env);
  const auto names = [&](const auto& items, auto name) {
    Napi::Array array = Napi::Array::New(env, items.size());
    for (size_t i = 0; i < items.size(); ++i) array.Set(static_cast<uint32_t>(i), Napi::String::New(env, name(items[i])));
    return array;
  };
  result.Set("isa", Napi::String::New(env, static_cast<const char*>(info.Data())));
  result.Set("available", names(paths, [](const Path& path) { return path.name; }));
  result.Set("features", names(CpuFeatures(), [](const char* name) { return name; }));
  return result;
}

Napi::Value CreateBackend(const Napi::CallbackInfo& info) {
  const uint32_t threads = info[0].As<Napi::Number>().Uint32Value();
  const std::string isa = info[1].As<Napi::String>().Utf8Value();
  const std::vector<Path> paths = AvailablePaths();
  const Path* path = FindPath(paths, isa.c_str());
  Backend* backend = OrOutOfMemory<Backend*>(nullptr, [&] { return new Backend(threads, *path->kernels); });
  return backend ? NewHandle(info.Env(), backend) : info.Env().Null();
}

Napi::Value Ceiling(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Backend* backend = Handle<Backend>(info, 0);
  Ceilings ceilings;
  if (!MeasureCeilings(backend->pool, backend->kernels, &ceilings)) return env.Null();
  Napi::Object operations = Napi::Object::New(env);
  for (int i = 0; i < kWeightFormats; ++i) {
    const double ceiling = ceilings.operations[static_cast<int>(InputOf(static_cast<WeightFormat>(i)))];
    operations.Set(kWeightFormatNames[i], Napi::Number::New(env, ceiling));
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("readBandwidth", Napi::Number::New(env, ceilings.read_bandwidth));
  result.Set("operations", operations);
  return result;
}

void DisposeBackend(const Napi::CallbackInfo& info) { Handle<Backend>(info, 0)->Close(); }

Napi::Value Pool(const Napi::CallbackInfo& info) {
  const magicpig_pool& pool = Handle<Backend>(info, 0)->pool;
  pool.retain(pool.context);
  auto external = Napi::External<magicpig_pool>::New(info.Env(), new magicpig_pool(pool), [](Napi::Env, magicpig_pool* p) {
    p->release(p->context);
    delete p;
  });
  napi_type_tag_object(info.Env(), external, &kPoolTag);
  return external;
}

// --- Tensors ---------------------------------------------------------------------------------------------------------

// { host: Float32Array, memory: External<Block> }. The array's buffer owns the block object, so the handle is good for as long
// as the array lives.
Napi::Value Allocate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const size_t length = Size(info, 0);
  const size_t bytes = length * sizeof(float);
  Block* block = new (std::nothrow) Block(Block::Allocate(bytes));
  if (!block || !*block) {
    delete block;
    return env.Null();
  }
  Napi::ArrayBuffer buffer =
      Napi::ArrayBuffer::New(env, block->data(), bytes, [](Napi::Env, void*, Block* owner) { delete owner; }, block);
  Napi::Object result = Napi::Object::New(env);
  result.Set("host", Napi::Float32Array::New(env, length, buffer, 0));
  result.Set("memory", Napi::External<Block>::New(env, block));
  return result;
}

// (host, memory): detaches the buffer, so that nothing can reach the memory, and frees it now.
void Free(const Napi::CallbackInfo& info) {
  Block* block = Handle<Block>(info, 1);
  Napi::ArrayBuffer buffer = info[0].As<Napi::TypedArray>().ArrayBuffer();
  napi_detach_arraybuffer(info.Env(), buffer);
  if (buffer.IsDetached()) *block = Block();
}

// --- Weights ---------------------------------------------------------------------------------------------------------

// Deleted with its handle; memory is empty after dispose.
struct WeightHandle {
  Weight weight;
};

// The enumerator at the place of a name that is known to be there.
template <typename Enum, size_t kCount>
Enum Named(const char* const (&names)[kCount], const std::string& name) {
  size_t index = 0;
  while (index + 1 < kCount && name != names[index]) ++index;
  return static_cast<Enum>(index);
}

Source ParseSource(Napi::Env env, const Napi::Object& object) {
  Source source;
  source.rows = static_cast<size_t>(object.Get("rows").As<Napi::Number>().Int64Value());
  const std::string type = object.Get("type").As<Napi::String>().Utf8Value();
  source.random = type == "random";
  if (source.random) {
    source.seed = static_cast<uint64_t>(object.Get("seed").As<Napi::Number>().Int64Value());
    source.std = object.Get("std").As<Napi::Number>().FloatValue();
    source.mean = object.Get("mean").As<Napi::Number>().FloatValue();
  } else {
    source.type = Named<SourceType>(kSourceTypeNames, type);
    source.data = Span<const uint8_t>(env, object.Get("data")).data;
    source.row_order = Span<const uint32_t>(env, object.Get("rowOrder")).data;
  }
  return source;
}

void Vector(const Napi::CallbackInfo& info) {
  const Source source = ParseSource(info.Env(), info[1].As<Napi::Object>());
  const Span<float> out(info, 2);
  DecodeVector(Handle<Backend>(info, 0)->kernels, source, out.length, out.data);
}

Napi::Value CreateWeight(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Backend* backend = Handle<Backend>(info, 0);
  const Napi::Array parts = info[1].As<Napi::Array>();
  const size_t cols = Size(info, 2);
  const WeightFormat format = Named<WeightFormat>(kWeightFormatNames, info[3].As<Napi::String>().Utf8Value());
  const bool gated = info[4].As<Napi::Boolean>().Value();
  auto* handle = OrOutOfMemory<WeightHandle*>(nullptr, [&]() -> WeightHandle* {
    std::vector<Source> sources;
    for (uint32_t i = 0; i < parts.Length(); ++i) {
      sources.push_back(ParseSource(env, parts.Get(i).As<Napi::Object>()));
    }
    auto owner = std::make_unique<WeightHandle>();
    auto weight = MakeWeight(backend->pool, backend->kernels, backend->arena, sources, cols, format, gated);
    if (!weight) return nullptr;
    owner->weight = std::move(*weight);
    return owner.release();
  });
  if (!handle) return env.Null();
  const size_t bytes = handle->weight.bytes;
  Napi::Object result = Napi::Object::New(env);
  result.Set("handle", NewHandle(env, handle));
  result.Set("bytes", Napi::Number::New(env, static_cast<double>(bytes)));
  return result;
}

void DisposeWeight(const Napi::CallbackInfo& info) { Handle<WeightHandle>(info, 0)->weight.memory = {}; }

// --- Operators -------------------------------------------------------------------------------------------------------

void Embed(const Napi::CallbackInfo& info) {
  const Span<const int32_t> tokens(info, 3);
  GatherRows(Handle<Backend>(info, 0)->pool, Handle<WeightHandle>(info, 2)->weight, tokens.data, tokens.length,
             Span<float>(info, 1).data);
}

Napi::Value LinearOperator(const Napi::CallbackInfo& info) {
  Backend* backend = Handle<Backend>(info, 0);
  LinearArgs args;
  args.out = Span<float>(info, 1).data;
  args.x = Span<const float>(info, 2).data;
  const Weight& weight = Handle<WeightHandle>(info, 3)->weight;
  args.rows = Size(info, 4);
  args.norm = Span<const float>(info, 5).data;
  args.epsilon = Float(info, 6);
  args.bias = Span<const float>(info, 7).data;
  args.accumulate = info[8].As<Napi::Boolean>().Value();
  return Napi::Boolean::New(info.Env(), Linear(backend->pool, backend->kernels, backend->scratch, weight, args));
}

void RopeTableOperator(const Napi::CallbackInfo& info) {
  const Span<const int32_t> positions(info, 2);
  const Span<const float> frequencies(info, 3);
  RopeTable(Handle<Backend>(info, 0)->pool, positions.data, positions.length, frequencies.data, frequencies.length,
            Float(info, 4), Span<float>(info, 1).data);
}

void RopeOperator(const Napi::CallbackInfo& info) {
  const Backend* backend = Handle<Backend>(info, 0);
  Rope(backend->pool, backend->kernels, Span<float>(info, 1).data, Span<const float>(info, 2).data, Size(info, 3),
       Size(info, 4), Size(info, 5), Size(info, 6));
}

void CopyRowsOperator(const Napi::CallbackInfo& info) {
  const Span<const int32_t> indices(info, 3);
  CopyRows(Span<const float>(info, 2).data, indices.data, indices.length, Size(info, 4), Span<float>(info, 1).data);
}

// (values, isa or undefined for the default path): { largest, logSumExp }.
Napi::Value LogSumExpOperator(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Span<const float> values(info, 0);
  const auto* path = static_cast<const Path*>(info.Data());
  const std::vector<Path> paths = info[1].IsString() ? AvailablePaths() : std::vector<Path>();
  if (!paths.empty()) path = FindPath(paths, info[1].As<Napi::String>().Utf8Value().c_str());
  size_t largest = 0;
  const double log_sum_exp = path->kernels->log_sum_exp(values.data, values.length, &largest);
  Napi::Object result = Napi::Object::New(env);
  result.Set("largest", Napi::Number::New(env, static_cast<double>(largest)));
  result.Set("logSumExp", Napi::Number::New(env, log_sum_exp));
  return result;
}

// --- Mapped files ----------------------------------------------------------------------------------------------------

// The handle and every view hold the mapping.
using Mapping = std::shared_ptr<MappedFile>;

Napi::Value MapFile(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string path = info[0].As<Napi::String>().Utf8Value();
  const char* error = "ENOMEM";
  auto* mapping = OrOutOfMemory<Mapping*>(nullptr, [&] { return new Mapping(std::make_shared<MappedFile>()); });
  if (mapping) error = (*mapping)->Map(path.c_str());
  if (error) {
    delete mapping;
    return Napi::String::New(env, error);
  }
  const size_t size = (*mapping)->size();
  Napi::Object result = Napi::Object::New(env);
  result.Set("handle", NewHandle(env, mapping));
  result.Set("size", Napi::Number::New(env, static_cast<double>(size)));
  return result;
}

Napi::Value MapView(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Mapping& mapping = *Handle<Mapping>(info, 0);
  const size_t offset = Size(info, 1);
  const size_t length = Size(info, 2);
  // Nothing writes through the pointer: pages are read-only.
  void* data = const_cast<uint8_t*>(mapping->data() + offset);
  Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(
      env, data, length,
      [length](Napi::Env env, void*, Mapping* held) {
        Napi::MemoryManagement::AdjustExternalMemory(env, static_cast<int64_t>(length));
        delete held;
      },
      new Mapping(mapping));
  // Pages of a file are not memory that a garbage collection could win back: the collector does not count them.
  Napi::MemoryManagement::AdjustExternalMemory(env, -static_cast<int64_t>(length));
  return Napi::Uint8Array::New(env, length, buffer, 0);
}

void TrimFile(const Napi::CallbackInfo& info) { (*Handle<Mapping>(info, 0))->Trim(); }

void UnmapFile(const Napi::CallbackInfo& info) {
  const Napi::Array buffers = info[1].As<Napi::Array>();
  for (uint32_t i = 0; i < buffers.Length(); ++i) napi_detach_arraybuffer(info.Env(), buffers.Get(i));
  (*Handle<Mapping>(info, 0))->Unmap();
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  const char* limit = getenv("MAGICPIG_ISA");
  static const std::vector<Path> paths = AvailablePaths();
  const Path* path = ChoosePath(paths, limit);
  if (!path) {
    std::string message = "MAGICPIG_ISA is \"" + std::string(limit) + "\"; it must be one of";
    for (const char* name : kPathNames) message += std::string(" ") + name;
    exports.Set("loadError", Napi::String::New(env, message));
    return exports;
  }
  exports.Set("cpuInfo", Napi::Function::New<CpuInfo>(env, "cpuInfo", const_cast<char*>(path->name)));
  const auto add = [&]<auto kFunction>(const char* name) {
    exports.Set(name, Napi::Function::New<Guarded<kFunction>>(env, name));
  };
  add.operator()<CreateBackend>("createBackend");
  add.operator()<Ceiling>("ceilings");
  add.operator()<DisposeBackend>("disposeBackend");
  add.operator()<Pool>("pool");
  add.operator()<Allocate>("allocate");
  add.operator()<Free>("free");
  add.operator()<Vector>("vector");
  add.operator()<CreateWeight>("createWeight");
  add.operator()<DisposeWeight>("disposeWeight");
  add.operator()<Embed>("embed");
  add.operator()<LinearOperator>("linear");
  add.operator()<RopeTableOperator>("ropeTable");
  add.operator()<RopeOperator>("rope");
  add.operator()<CopyRowsOperator>("copyRows");
  exports.Set("logSumExp", Napi::Function::New<LogSumExpOperator>(env, "logSumExp", const_cast<Path*>(path)));
  add.operator()<MapFile>("mapFile");
  add.operator()<MapView>("mapView");
  add.operator()<TrimFile>("trimFile");
  add.operator()<UnmapFile>("unmapFile");
  return exports;
}

}  // namespace
}  // namespace magicpig::cpu

Napi::Object InitAddon(Napi::Env env, Napi::Object exports) { return magicpig::cpu::Init(env, exports); }
NODE_API_MODULE(magicpig_cpu_kernels, InitAddon)
