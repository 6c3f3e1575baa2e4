// The only file that knows of Node: unpacks arguments (checked in TypeScript), calls, and turns failures into errors with a
// `code`.
#include <napi.h>

#include <cstring>
#include <memory>
#include <new>
#include <system_error>

#include "kernels.h"
#include "pool_handle.h"
#include "sketch_binding.h"
#include "tables.h"

namespace magicpig::lsh {
namespace {

constexpr napi_type_tag kPoolTag = {MAGICPIG_POOL_TAG_LOWER, MAGICPIG_POOL_TAG_UPPER};
constexpr napi_type_tag kSelectorTag = {MAGICPIG_SELECTOR_TAG_LOWER, MAGICPIG_SELECTOR_TAG_UPPER};

Napi::Value Throw(Napi::Env env, const char* code, const char* message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  error.ThrowAsJavaScriptException();
  return env.Undefined();
}

// No C++ exception may pass into Node.
template <typename F>
Napi::Value Guard(Napi::Env env, F&& call) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return Throw(env, "OUT_OF_MEMORY", "Out of memory; nothing was changed.");
  } catch (const std::system_error& error) {
    return Throw(env, "OUT_OF_MEMORY", error.what());
  }
}

Napi::Value ThrowNonFinite(Napi::Env env) {
  return Throw(env, "NON_FINITE", "A vector holds NaN or an infinity (or becomes infinite by centring); nothing was changed.");
}

// Empty arrays may have no storage at all.
const float* Floats(const Napi::Value& value) { return value.As<Napi::Float32Array>().Data(); }

class ProjectionObject : public Napi::ObjectWrap<ProjectionObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Projection",
                       {InstanceAccessor<&ProjectionObject::Bytes>("bytes"), InstanceMethod<&ProjectionObject::Hash>("hash")});
  }

  // (hadamard, dim, bits, tables, seed)
  explicit ProjectionObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ProjectionObject>(info) {
    Guard(info.Env(), [&] {
      const auto integer = [&](size_t i) { return info[i].As<Napi::Number>().Uint32Value(); };
      projection = std::make_shared<Projection>(
          info[0].As<Napi::Boolean>().Value() ? ProjectionKind::kHadamard : ProjectionKind::kGaussian, integer(1), integer(2),
          integer(3), static_cast<uint64_t>(info[4].As<Napi::Number>().Int64Value()));
      return info.Env().Undefined();
    });
  }

  std::shared_ptr<const Projection> projection;

 private:
  Napi::Value Bytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(projection->bytes()));
  }

  // (vectors Float32Array [n][dim], codes Uint16Array [n][tables])
  Napi::Value Hash(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const Kernels& kernels = BestKernels();
      const float* vectors = Floats(info[0]);
      uint16_t* codes = info[1].As<Napi::Uint16Array>().Data();
      const size_t n = info[0].As<Napi::Float32Array>().ElementLength() / projection->dim();
      Projection::Scratch scratch;
      scratch.Prepare(*projection);
      for (size_t first = 0; first < n; first += Projection::kRows) {
        const size_t rows = std::min(Projection::kRows, n - first);
        if (!projection->Hash(kernels, vectors + first * projection->dim(), rows, nullptr, scratch, nullptr,
                              codes + first * projection->tables(), projection->tables(), 1)) {
          return ThrowNonFinite(info.Env());
        }
      }
      return info.Env().Undefined();
    });
  }
};

class TablesObject : public Napi::ObjectWrap<TablesObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Tables",
                       {
                           InstanceMethod<&TablesObject::Bytes>("bytes"),
                           InstanceMethod<&TablesObject::Length>("length"),
                           InstanceMethod<&TablesObject::Add>("add"),
                           InstanceMethod<&TablesObject::AddCodes>("addCodes"),
                           InstanceMethod<&TablesObject::Query>("query"),
                           InstanceMethod<&TablesObject::Centre>("centre"),
                           InstanceMethod<&TablesObject::Truncate>("truncate"),
                           InstanceMethod<&TablesObject::Clear>("clear"),
                           InstanceMethod<&TablesObject::Dispose>("dispose"),
                           InstanceMethod<&TablesObject::Selector>("selector"),
                       });
  }

  // (EngineTablesOptions)
  explicit TablesObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<TablesObject>(info) {
    const Napi::Env env = info.Env();
    Guard(env, [&]() -> Napi::Value {
      const auto options = info[0].As<Napi::Object>();
      const Napi::Value given = options.Get("pool");
      const auto log_table = options.Get("logTable").As<Napi::Float32Array>();
      PoolHandle pool;
      if (given.IsNumber()) {
        pool = ProcessPool(given.As<Napi::Number>().Uint32Value());
      } else {
        const auto external = given.As<Napi::External<magicpig_pool>>();
        if (!given.IsExternal() || !external.CheckTypeTag(&kPoolTag) || external.Data()->abi != MAGICPIG_POOL_ABI) {
          return Throw(env, "INVALID_ARGUMENT", "pool is no thread pool handle of a compatible version of MagicPIG's packages.");
        }
        pool = SharePool(*external.Data());
      }
      tables_ = std::make_shared<Tables>(Tables::Options{
          ProjectionObject::Unwrap(options.Get("projection").As<Napi::Object>())->projection, Index(options.Get("heads")),
          Index(options.Get("minCollisions")),
          std::vector<float>(log_table.Data(), log_table.Data() + log_table.ElementLength()),
          options.Get("center").As<Napi::String>().Utf8Value() == "auto", std::move(pool)});
      return env.Undefined();
    });
  }

 private:
  static uint32_t Index(const Napi::Value& value) { return value.As<Napi::Number>().Uint32Value(); }

  Napi::Value Bytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(tables_->bytes()));
  }

  Napi::Value Length(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(tables_->size(Index(info[0]))));
  }

  // (head, keys Float32Array [n][dim])
  Napi::Value Add(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const size_t n = info[1].As<Napi::Float32Array>().ElementLength() / tables_->projection().dim();
      if (tables_->Add(Index(info[0]), Floats(info[1]), n) != Status::kOk) return ThrowNonFinite(info.Env());
      return info.Env().Undefined();
    });
  }

  // (head, codes Uint16Array [n][tables])
  Napi::Value AddCodes(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const auto codes = info[1].As<Napi::Uint16Array>();
      if (tables_->AddCodes(Index(info[0]), codes.Data(), codes.ElementLength() / tables_->projection().tables()) != Status::kOk) {
        return Throw(info.Env(), "INVALID_ARGUMENT", "codes holds a code with more bits than the index has; nothing was added.");
      }
      return info.Env().Undefined();
    });
  }

  // (head, query Float32Array [dim], EngineQuery) -> { ids: Uint32Array, collisions?: Uint16Array }
  Napi::Value Query(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const Napi::Env env = info.Env();
      const auto what = info[2].As<Napi::Object>();
      const bool collisions = what.Get("collisions").As<Napi::Boolean>().Value();
      const Tables::Candidates found =
          tables_->Query(Index(info[0]), Floats(info[1]), Index(what.Get("minCollisions")), collisions);
      if (found.status != Status::kOk) return ThrowNonFinite(env);
      auto result = Napi::Object::New(env);
      auto ids = Napi::Uint32Array::New(env, found.count);
      if (found.count > 0) std::memcpy(ids.Data(), found.ids, ids.ByteLength());
      result.Set("ids", ids);
      if (collisions) {
        auto counts = Napi::Uint16Array::New(env, found.count);
        if (found.count > 0) std::memcpy(counts.Data(), found.collisions, counts.ByteLength());
        result.Set("collisions", counts);
      }
      return result;
    });
  }

  // (head) -> Float32Array [dim]
  Napi::Value Centre(const Napi::CallbackInfo& info) {
    auto centre = Napi::Float32Array::New(info.Env(), tables_->projection().dim());
    const float* values = tables_->centre(Index(info[0]));
    if (values != nullptr) std::memcpy(centre.Data(), values, centre.ByteLength());
    return centre;
  }

  // (head, length)
  Napi::Value Truncate(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&] {
      tables_->Truncate(Index(info[0]), Index(info[1]));
      return info.Env().Undefined();
    });
  }

  Napi::Value Clear(const Napi::CallbackInfo& info) {
    tables_->Clear();
    return info.Env().Undefined();
  }

  Napi::Value Dispose(const Napi::CallbackInfo& info) {
    tables_->Dispose();
    return info.Env().Undefined();
  }

  Napi::Value Selector(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&] {
      auto external = Napi::External<magicpig_selector>::New(
          info.Env(), NewSelector(tables_), [](Napi::Env, magicpig_selector* selector) { selector->release(selector->context); });
      external.TypeTag(&kSelectorTag);
      return external;
    });
  }

  std::shared_ptr<Tables> tables_;
};

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("isa", Napi::String::New(env, BestKernels().isa));
  exports.Set("Projection", ProjectionObject::Define(env));
  exports.Set("Tables", TablesObject::Define(env));
  InitSketch(env, exports);
  return exports;
}

NODE_API_MODULE(magicpig_lsh, Init)

}  // namespace
}  // namespace magicpig::lsh
