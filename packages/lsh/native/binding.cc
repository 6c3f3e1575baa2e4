// The addon, and projections in it.
#include "binding.h"

#include <algorithm>
#include <atomic>

#include "../include/magicpig/thread_pool.h"
#include "kernels.h"
#include "sketch_binding.h"

namespace magicpig::lsh {
namespace {

constexpr napi_type_tag kPoolTag = {MAGICPIG_POOL_TAG_LOWER, MAGICPIG_POOL_TAG_UPPER};

class ProjectionObject : public Napi::ObjectWrap<ProjectionObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Projection",
                       {InstanceAccessor<&ProjectionObject::Bytes>("bytes"), InstanceMethod<&ProjectionObject::Hash>("hash")});
  }

  // (hadamard, dim, bits, tables, seed)
  explicit ProjectionObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ProjectionObject>(info) {
    Guard(info.Env(), [&] {
      projection = std::make_shared<Projection>(
          info[0].As<Napi::Boolean>().Value() ? ProjectionKind::kHadamard : ProjectionKind::kGaussian, Index(info[1]),
          Index(info[2]), Index(info[3]), static_cast<uint64_t>(info[4].As<Napi::Number>().Int64Value()));
      return info.Env().Undefined();
    });
  }

  std::shared_ptr<const Projection> projection;

 private:
  Napi::Value Bytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(projection->bytes()));
  }

  // (vectors [n][dim], codes Uint16Array [n][tables], threads)
  Napi::Value Hash(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const Vectors vectors = VectorsOf(info[0]);
      uint16_t* codes = info[1].As<Napi::Uint16Array>().Data();
      const size_t dim = projection->dim(), tables = projection->tables(), n = RowsOf(info[0], dim);
      const PoolHandle pool = ProcessPool(Index(info[2]));
      struct Scratch {
        Projection::Scratch projection;
        Buffer<float> rows;
      };
      std::vector<Scratch> scratches(pool->threads);
      for (Scratch& each : scratches) {
        each.projection.Prepare(*projection);
        if (vectors.element == Element::kBf16) each.rows = Buffer<float>(Projection::kRows * dim);
      }
      std::atomic<bool> finite{true};
      const size_t tasks = (n + Projection::kRows - 1) / Projection::kRows;
      ParallelFor(*pool, static_cast<uint32_t>(tasks), [&](uint32_t task, uint32_t thread) {
        const size_t first = task * Projection::kRows, rows = std::min(Projection::kRows, n - first);
        const float* x = vectors.Rows(first, rows, dim, scratches[thread].rows.data());
        if (!projection->Hash(BestKernels(), x, rows, nullptr, scratches[thread].projection, nullptr, codes + first * tables,
                              tables, 1)) {
          finite.store(false, std::memory_order_relaxed);
        }
      });
      return finite ? info.Env().Undefined() : Throw(info.Env(), "NON_FINITE", kNonFinite);
    });
  }
};

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("isa", Napi::String::New(env, BestKernels().isa));
  DefineProjection(env, exports);
  DefineTables(env, exports);
  InitSketch(env, exports);
  return exports;
}

NODE_API_MODULE(magicpig_lsh, Init)

}  // namespace

void DefineProjection(Napi::Env env, Napi::Object exports) { exports.Set("Projection", ProjectionObject::Define(env)); }

std::shared_ptr<const Projection> ProjectionOf(const Napi::Value& value) {
  return ProjectionObject::Unwrap(value.As<Napi::Object>())->projection;
}

PoolHandle PoolOf(Napi::Env env, const Napi::Value& value) {
  if (value.IsNumber()) return ProcessPool(Index(value));
  const auto external = value.As<Napi::External<magicpig_pool>>();
  if (!value.IsExternal() || !external.CheckTypeTag(&kPoolTag) || external.Data()->abi != MAGICPIG_POOL_ABI) {
    Throw(env, "INVALID_ARGUMENT", "pool is no thread pool handle of a compatible version of MagicPIG's packages.");
    return nullptr;
  }
  return SharePool(*external.Data());
}

}  // namespace magicpig::lsh
