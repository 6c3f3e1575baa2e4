// Key sketches for Node: unpacks arguments (checked in TypeScript), calls, and turns failures into errors with a `code`.
#include "sketch_binding.h"

#include <cstring>
#include <memory>
#include <string>

#include "binding.h"
#include "new_selector.h"
#include "sketch.h"

namespace magicpig::lsh {
namespace {

constexpr napi_type_tag kSelectorTag = {MAGICPIG_SELECTOR_TAG_LOWER, MAGICPIG_SELECTOR_TAG_UPPER};

// Empty arrays may have no storage at all.
const float* Floats(const Napi::Value& value) { return value.As<Napi::Float32Array>().Data(); }
double Number(const Napi::Object& object, const char* name) { return object.Get(name).As<Napi::Number>().DoubleValue(); }

SketchBudget BudgetOf(const Napi::Object& object) {
  return {static_cast<SketchBudget::Kind>(Index(object.Get("kind"))), Number(object, "value"), Number(object, "least"),
          Number(object, "most")};
}

using File = std::shared_ptr<const Container>;

class SketchObject : public Napi::ObjectWrap<SketchObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Sketch",
                       {
                           InstanceMethod<&SketchObject::Bytes>("bytes"),
                           InstanceMethod<&SketchObject::Length>("length"),
                           InstanceMethod<&SketchObject::Centre>("centre"),
                           InstanceMethod<&SketchObject::Add>("add"),
                           InstanceMethod<&SketchObject::Scores>("scores"),
                           InstanceMethod<&SketchObject::Draw>("draw"),
                           InstanceMethod<&SketchObject::Truncate>("truncate"),
                           InstanceMethod<&SketchObject::Clear>("clear"),
                           InstanceMethod<&SketchObject::Stats>("stats"),
                           InstanceMethod<&SketchObject::ResetStats>("resetStats"),
                           InstanceMethod<&SketchObject::Save>("save"),
                           InstanceMethod<&SketchObject::ToBuffer>("toBuffer"),
                           InstanceMethod<&SketchObject::Dispose>("dispose"),
                           InstanceMethod<&SketchObject::Selector>("selector"),
                       });
  }

  // ({ heads, dim, bits, seed, centred, scale, floor, budget, pool, file? }), or ({ fork: Sketch }).
  explicit SketchObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SketchObject>(info) {
    const Napi::Env env = info.Env();
    Guard(env, [&] {
      const auto object = info[0].As<Napi::Object>();
      if (object.Has("fork")) {
        sketch_ = Unwrap(object.Get("fork").As<Napi::Object>())->sketch_->Fork();
        return env.Undefined();
      }
      KeySketch::Options options{};
      options.heads = Index(object.Get("heads"));
      options.dim = Index(object.Get("dim"));
      options.bits = Index(object.Get("bits"));
      options.seed = static_cast<uint64_t>(object.Get("seed").As<Napi::Number>().Int64Value());
      options.centred = object.Get("centred").As<Napi::Boolean>().Value();
      options.scale = Number(object, "scale");
      options.floor_share = Number(object, "floor");
      options.budget = BudgetOf(object.Get("budget").As<Napi::Object>());
      options.pool = PoolOf(env, object.Get("pool"));
      if (!options.pool) return env.Undefined();
      sketch_ = object.Has("file") ? KeySketch::FromFile(*object.Get("file").As<Napi::External<File>>().Data(), std::move(options))
                                   : std::make_shared<KeySketch>(std::move(options));
      return env.Undefined();
    });
  }

 private:
  // Throws for a status that is not kOk; true after throwing.
  static bool Refused(Napi::Env env, KeySketch::Status status) {
    if (status == KeySketch::Status::kOk) return false;
    Throw(env, "NON_FINITE",
          status == KeySketch::Status::kTooLarge
              ? "A vector is longer than 2^60 (perhaps by centring), beyond which scores may overflow; nothing was changed."
              : kNonFinite);
    return true;
  }

  Napi::Value Bytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(sketch_->bytes()));
  }

  // (head)
  Napi::Value Length(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(sketch_->size(Index(info[0]))));
  }

  // (head) -> Float32Array [dim]
  Napi::Value Centre(const Napi::CallbackInfo& info) {
    auto centre = Napi::Float32Array::New(info.Env(), sketch_->options().dim);
    const float* values = sketch_->centre(Index(info[0]));
    if (values != nullptr) std::memcpy(centre.Data(), values, centre.ByteLength());
    return centre;
  }

  // (head, keys Float32Array [n][dim])
  Napi::Value Add(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&] {
      Refused(info.Env(), sketch_->Add(Index(info[0]), Floats(info[1]), RowsOf(info[1], sketch_->options().dim)));
      return info.Env().Undefined();
    });
  }

  // (head, query Float32Array [dim]) -> Float32Array [n]
  Napi::Value Scores(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      auto scores = Napi::Float32Array::New(info.Env(), sketch_->size(Index(info[0])));
      if (Refused(info.Env(), sketch_->Scores(Index(info[0]), Floats(info[1]), scores.Data()))) return info.Env().Undefined();
      return scores;
    });
  }

  // (head, query Float32Array [dim], step, budget) -> { ids, logProbabilities, error }
  Napi::Value Draw(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const Napi::Env env = info.Env();
      const uint32_t head = Index(info[0]);
      KeySketch::Sample sample;
      const auto status = sketch_->Draw(head, Floats(info[1]), 1, sketch_->size(head), Index(info[2]),
                                        BudgetOf(info[3].As<Napi::Object>()), &sample);
      if (Refused(env, status)) return env.Undefined();
      auto ids = Napi::Uint32Array::New(env, sample.count);
      auto logs = Napi::Float32Array::New(env, sample.count);
      if (sample.count > 0) {
        std::memcpy(ids.Data(), sample.ids, ids.ByteLength());
        std::memcpy(logs.Data(), sample.log_probability, logs.ByteLength());
      }
      auto result = Napi::Object::New(env);
      result.Set("ids", ids);
      result.Set("logProbabilities", logs);
      result.Set("error", Napi::Number::New(env, sample.error));
      return result;
    });
  }

  // (head, length)
  Napi::Value Truncate(const Napi::CallbackInfo& info) {
    sketch_->Truncate(Index(info[0]), Index(info[1]));
    return info.Env().Undefined();
  }

  Napi::Value Clear(const Napi::CallbackInfo& info) {
    sketch_->Clear();
    return info.Env().Undefined();
  }

  Napi::Value Stats(const Napi::CallbackInfo& info) {
    const KeySketch::Stats stats = sketch_->stats();
    auto result = Napi::Object::New(info.Env());
    const auto set = [&](const char* name, double value) { result.Set(name, Napi::Number::New(info.Env(), value)); };
    set("draws", static_cast<double>(stats.draws));
    set("read", static_cast<double>(stats.read));
    set("keys", static_cast<double>(stats.keys));
    set("error", stats.error);
    set("largestError", stats.largest_error);
    return result;
  }

  Napi::Value ResetStats(const Napi::CallbackInfo& info) {
    sketch_->ResetStats();
    return info.Env().Undefined();
  }

  // (path)
  Napi::Value Save(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&] {
      const auto header = sketch_->Header();
      ContainerWriter file(KeySketch::kFileKind);
      sketch_->Write(header, file);
      file.Save(*sketch_->options().pool, info[0].As<Napi::String>().Utf8Value());
      return info.Env().Undefined();
    });
  }

  Napi::Value ToBuffer(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const auto header = sketch_->Header();
      ContainerWriter file(KeySketch::kFileKind);
      sketch_->Write(header, file);
      auto bytes = Napi::Uint8Array::New(info.Env(), file.bytes());
      file.Write(*sketch_->options().pool, bytes.Data());
      return bytes;
    });
  }

  Napi::Value Dispose(const Napi::CallbackInfo& info) {
    sketch_->Dispose();
    return info.Env().Undefined();
  }

  Napi::Value Selector(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&] {
      auto* selector = NewSelector<KeySketch>(sketch_, sketch_->options().dim, sketch_->options().heads);
      auto external = Napi::External<magicpig_selector>::New(
          info.Env(), selector, [](Napi::Env, magicpig_selector* released) { released->release(released->context); });
      external.TypeTag(&kSelectorTag);
      return external;
    });
  }

  std::shared_ptr<KeySketch> sketch_;
};

// (path) maps the file, (Uint8Array) copies and checks it -> { heads, dim, bits, seed, centred, file }
Napi::Value OpenSketch(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const Napi::Env env = info.Env();
    auto file = std::make_unique<File>();
    if (info[0].IsString()) {
      *file = Container::Open(info[0].As<Napi::String>().Utf8Value(), KeySketch::kFileKind);
    } else {
      const auto bytes = info[0].As<Napi::Uint8Array>();
      *file = Container::Copy(bytes.Data(), bytes.ByteLength(), KeySketch::kFileKind);
      (*file)->Verify(*ProcessPool(1));
    }
    KeySketch::Options shape{};
    KeySketch::ReadHeader(**file, shape);
    auto result = Napi::Object::New(env);
    const auto set = [&](const char* name, double value) { result.Set(name, Napi::Number::New(env, value)); };
    set("heads", shape.heads);
    set("dim", shape.dim);
    set("bits", shape.bits);
    set("seed", static_cast<double>(shape.seed));
    result.Set("centred", Napi::Boolean::New(env, shape.centred));
    result.Set("file", Napi::External<File>::New(env, file.release(), [](Napi::Env, File* released) { delete released; }));
    return result;
  });
}

// (dim, bits, keys)
Napi::Value SketchBytes(const Napi::CallbackInfo& info) {
  const auto keys = static_cast<size_t>(info[2].As<Napi::Number>().DoubleValue());
  return Napi::Number::New(info.Env(), static_cast<double>(KeySketch::BytesFor(Index(info[0]), Index(info[1]), keys)));
}

}  // namespace

void InitSketch(Napi::Env env, Napi::Object exports) {
  exports.Set("Sketch", SketchObject::Define(env));
  exports.Set("openSketch", Napi::Function::New<OpenSketch>(env));
  exports.Set("sketchBytes", Napi::Function::New<SketchBytes>(env));
}

}  // namespace magicpig::lsh
