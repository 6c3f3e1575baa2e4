// Weights for Node.
#include "binding.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace magicpig::cpu {
namespace {

constexpr const char* kSourceTypeNames[] = {"f32",  "f16",  "bf16", "q8_0", "q4_0", "q4_1",
                                            "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"};  // by SourceType

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

}  // namespace

void ExportWeights(Napi::Env env, Napi::Object exports) {
  Export<Vector>(env, exports, "vector");
  Export<CreateWeight>(env, exports, "createWeight");
  Export<DisposeWeight>(env, exports, "disposeWeight");
}

}  // namespace magicpig::cpu
