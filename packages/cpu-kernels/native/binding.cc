// The addon: what of it is about the processor and its threads; the rest is in the other binding files.
#include "binding.h"

#include <stdlib.h>

#include <string>
#include <vector>

#include "ceilings.h"
#include "cpu_features.h"

namespace magicpig::cpu {
namespace {

constexpr napi_type_tag kPoolTag = {MAGICPIG_POOL_TAG_LOWER, MAGICPIG_POOL_TAG_UPPER};

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
  exports.Set("logSumExp", Napi::Function::New<LogSumExpOperator>(env, "logSumExp", const_cast<Path*>(path)));
  Export<CreateBackend>(env, exports, "createBackend");
  Export<Ceiling>(env, exports, "ceilings");
  Export<DisposeBackend>(env, exports, "disposeBackend");
  Export<Pool>(env, exports, "pool");
  ExportTensors(env, exports);
  ExportWeights(env, exports);
  ExportOperators(env, exports);
  ExportMappedFiles(env, exports);
  return exports;
}

}  // namespace
}  // namespace magicpig::cpu

Napi::Object InitAddon(Napi::Env env, Napi::Object exports) { return magicpig::cpu::Init(env, exports); }
NODE_API_MODULE(magicpig_cpu_kernels, InitAddon)
