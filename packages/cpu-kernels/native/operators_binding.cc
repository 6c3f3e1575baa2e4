// Operators for Node.
#include "binding.h"

#include "copy_rows.h"
#include "rotary.h"

namespace magicpig::cpu {
namespace {

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

}  // namespace

void ExportOperators(Napi::Env env, Napi::Object exports) {
  Export<Embed>(env, exports, "embed");
  Export<LinearOperator>(env, exports, "linear");
  Export<RopeTableOperator>(env, exports, "ropeTable");
  Export<RopeOperator>(env, exports, "rope");
  Export<CopyRowsOperator>(env, exports, "copyRows");
}

}  // namespace magicpig::cpu
