// Tables and files of tables: EngineTables and EngineFile of src/engine.ts.
#include <algorithm>
#include <cstring>
#include <optional>

#include "async_call.h"
#include "binding.h"
#include "new_selector.h"
#include "tables.h"

namespace magicpig::lsh {
namespace {

constexpr napi_type_tag kSelectorTag = {MAGICPIG_SELECTOR_TAG_LOWER, MAGICPIG_SELECTOR_TAG_UPPER};
constexpr const char* kKeptNames[] = {"none", "f32", "bf16"};      // by Element
constexpr const char* kCentringNames[] = {"none", "auto", "given"};  // by Centring

constexpr const char* kInvalidNorm = "inverseNorms holds one that is negative or not finite; nothing was added.";
constexpr const char* kNoCentre = "centre is missing: the head is centred on a mean and has none yet; nothing was added.";
constexpr const char* kNeedlessCentre =
    "centre is given, but the head has one already or is not centred on a mean: hash relative to what centre(head) says and leave "
    "it out; nothing was added.";
constexpr const char* kInvalidTable =
    " of the segment does not hold each of its keys once, ascending within each bucket that starts delimits; nothing was added.";

Napi::Number Number(Napi::Env env, double value) { return Napi::Number::New(env, value); }

QueryOptions QueryOf(const Napi::Value& value) {
  const auto what = value.As<Napi::Object>();
  QueryOptions query{Index(what.Get("minCollisions")), what.Get("collisions").As<Napi::Boolean>().Value(),
                     what.Get("dots").As<Napi::Boolean>().Value(), nullptr, 0, 0};
  if (const Napi::Value table = what.Get("logTable"); !table.IsUndefined()) {
    query.log_table = table.As<Napi::Float32Array>().Data();
    query.log_size = table.As<Napi::Float32Array>().ElementLength();
  }
  if (const Napi::Value nearest = what.Get("nearest"); !nearest.IsUndefined()) query.nearest = Index(nearest);
  return query;
}

template <typename Array, typename T>
Array Copy(Napi::Env env, const T* from, size_t count) {
  Array array = Array::New(env, count);
  if (count > 0 && !env.IsExceptionPending()) std::memcpy(array.Data(), from, count * sizeof(T));
  return array;
}

// The arrays of one query that were asked for.
Napi::Object CandidatesObject(Napi::Env env, const Candidates& found, const QueryOptions& what) {
  auto result = Napi::Object::New(env);
  result.Set("ids", Copy<Napi::Uint32Array>(env, found.ids, found.count));
  if (what.collisions) result.Set("collisions", Copy<Napi::Uint16Array>(env, found.collisions, found.count));
  if (what.dots) result.Set("dots", Copy<Napi::Float64Array>(env, found.dots, found.count));
  if (what.log_table != nullptr) {
    result.Set("probabilities", Copy<Napi::Float32Array>(env, found.probabilities, found.count));
  }
  return result;
}

Napi::Value BatchObject(Napi::Env env, const CandidatesBatch& batch, const QueryOptions& what) {
  const size_t total = batch.offsets.back();
  auto result = Napi::Object::New(env);
  result.Set("offsets", Copy<Napi::Uint32Array>(env, batch.offsets.data(), batch.offsets.size()));
  const auto join = [&]<typename Array>(const char* name, auto member, Array*) {
    Array joined = Array::New(env, total);
    if (env.IsExceptionPending()) return;
    auto* to = joined.Data();
    for (const auto& piece : batch.pieces) to = std::copy((piece.*member).begin(), (piece.*member).end(), to);
    result.Set(name, joined);
  };
  using Piece = CandidatesBatch::Piece;
  join("ids", &Piece::ids, static_cast<Napi::Uint32Array*>(nullptr));
  if (what.collisions) join("collisions", &Piece::collisions, static_cast<Napi::Uint16Array*>(nullptr));
  if (what.dots) join("dots", &Piece::dots, static_cast<Napi::Float64Array*>(nullptr));
  if (what.log_table != nullptr) join("probabilities", &Piece::probabilities, static_cast<Napi::Float32Array*>(nullptr));
  return result;
}

class TablesObject : public Napi::ObjectWrap<TablesObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Tables",
                       {
                           InstanceMethod<&TablesObject::Bytes>("bytes"),
                           InstanceMethod<&TablesObject::Stats>("stats"),
                           InstanceMethod<&TablesObject::Length>("length"),
                           InstanceMethod<&TablesObject::Add>("add"),
                           InstanceMethod<&TablesObject::AddCodes>("addCodes"),
                           InstanceMethod<&TablesObject::AddAsync>("addAsync"),
                           InstanceMethod<&TablesObject::AddSegment>("addSegment"),
                           InstanceMethod<&TablesObject::Query>("query"),
                           InstanceMethod<&TablesObject::QueryInto>("queryInto"),
                           InstanceMethod<&TablesObject::QueryBatch>("queryBatch"),
                           InstanceMethod<&TablesObject::QueryBatchAsync>("queryBatchAsync"),
                           InstanceMethod<&TablesObject::Centre>("centre"),
                           InstanceMethod<&TablesObject::Truncate>("truncate"),
                           InstanceMethod<&TablesObject::Clear>("clear"),
                           InstanceMethod<&TablesObject::Save>("save"),
                           InstanceMethod<&TablesObject::ToBuffer>("toBuffer"),
                           InstanceMethod<&TablesObject::Dispose>("dispose"),
                           InstanceMethod<&TablesObject::Selector>("selector"),
                       });
  }

  // (EngineTablesOptions), ({ fork: Tables }), or (std::shared_ptr<Tables>* as External) from a file
  explicit TablesObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<TablesObject>(info) {
    const Napi::Env env = info.Env();
    if (info[0].IsExternal()) {
      tables_ = *info[0].As<Napi::External<std::shared_ptr<Tables>>>().Data();
      return;
    }
    Guard(env, [&]() -> Napi::Value {
      const auto options = info[0].As<Napi::Object>();
      if (options.Has("fork")) {
        tables_ = Unwrap(options.Get("fork").As<Napi::Object>())->tables_->Fork();
        return env.Undefined();
      }
      const PoolHandle pool = PoolOf(env, options.Get("pool"));
      if (!pool) return env.Undefined();
      const auto floats = [&](const char* name) {
        const auto array = options.Get(name).As<Napi::Float32Array>();
        return std::vector<float>(array.Data(), array.Data() + array.ElementLength());
      };
      const Napi::Value center = options.Get("center");
      const bool given = !center.IsString();
      const std::string keep = options.Get("keep").As<Napi::String>().Utf8Value();
      const TablesOptions shape{
          Index(options.Get("heads")),
          Index(options.Get("minCollisions")),
          options.Get("minProbability").As<Napi::Number>().DoubleValue(),
          given ? Centring::kGiven : center.As<Napi::String>().Utf8Value() == "auto" ? Centring::kAuto : Centring::kNone,
          keep == "f32" ? Element::kF32 : keep == "bf16" ? Element::kBf16 : Element::kNone,
          options.Get("norms").As<Napi::Boolean>().Value()};
      tables_ = std::make_shared<Tables>(shape, ProjectionOf(options.Get("projection")), floats("logTable"), pool,
                                         given ? floats("center") : std::vector<float>());
      return env.Undefined();
    });
  }

 private:
  size_t dim() const { return tables_->projection().dim(); }

  Napi::Value Bytes(const Napi::CallbackInfo& info) { return Number(info.Env(), static_cast<double>(tables_->bytes())); }

  Napi::Value Stats(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const Napi::Env env = info.Env();
      const uint32_t head = Index(info[0]);
      const HeadIndex empty(tables_->shape());
      const HeadIndex& index = tables_->index(head) != nullptr ? *tables_->index(head) : empty;
      auto stats = Napi::Object::New(env);
      auto segments = Napi::Uint32Array::New(env, index.segments().size());
      size_t id_bytes = 0, start_bytes = 0;
      for (size_t s = 0; s < index.segments().size(); ++s) {
        segments[s] = index.segments()[s].count();
        id_bytes += index.segments()[s].ids_size() * sizeof(uint16_t);
        start_bytes += index.segments()[s].starts_size() * sizeof(uint16_t);
      }
      const HeadIndex::Occupancy occupancy = index.occupancy();
      stats.Set("segments", segments);
      const auto set = [&](const char* name, uint64_t value) { stats.Set(name, Number(env, static_cast<double>(value))); };
      set("listed", index.tail_count());
      set("occupied", occupancy.occupied);
      set("largest", occupancy.largest);
      set("squares", occupancy.squares);
      set("idBytes", id_bytes);
      set("startBytes", start_bytes);
      set("codeBytes", index.tail_bytes());
      set("vectorBytes", tables_->vector_bytes(head));
      set("normBytes", tables_->norm_bytes(head));
      return stats;
    });
  }

  Napi::Value Length(const Napi::CallbackInfo& info) {
    return Number(info.Env(), static_cast<double>(tables_->size(Index(info[0]))));
  }

  // (head, vectors [n][dim])
  Napi::Value Add(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const Status status = tables_->Add(Index(info[0]), VectorsOf(info[1]), RowsOf(info[1], dim()), nullptr);
      return status == Status::kOk ? info.Env().Undefined() : Throw(info.Env(), "NON_FINITE", kNonFinite);
    });
  }

  // (head, codes Uint16Array [n][tables])
  Napi::Value AddCodes(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const auto codes = info[1].As<Napi::Uint16Array>();
      if (tables_->AddCodes(Index(info[0]), codes.Data(), RowsOf(codes, tables_->projection().tables())) != Status::kOk) {
        return Throw(info.Env(), "INVALID_ARGUMENT", "codes holds a code with more bits than the index has; nothing was added.");
      }
      return info.Env().Undefined();
    });
  }

  // (head, vectors [n][dim], control Uint32Array [2]) -> Promise<boolean>
  Napi::Value AddAsync(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const auto copy = CopyOf(info[1]);
      return AsyncCall::Start(
          info.Env(), info[2],
          [tables = tables_, head = Index(info[0]), copy, element = VectorsOf(info[1]).element, n = RowsOf(info[1], dim()),
           control = ControlOf(info[2])] { return tables->Add(head, {copy->data(), element}, n, control); },
          [](Napi::Env env, Status status) -> Napi::Value {
            if (status == Status::kNonFinite) return Throw(env, "NON_FINITE", kNonFinite);
            return Napi::Boolean::New(env, status == Status::kOk);
          });
    });
  }

  // (head, count, starts Uint16Array, ids Uint16Array, inverseNorms Float32Array, centre Float32Array or undefined)
  Napi::Value AddSegment(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const GivenSegment segment{
          Index(info[1]), info[2].As<Napi::Uint16Array>().Data(), info[3].As<Napi::Uint16Array>().Data(),
          info[4].As<Napi::Float32Array>().Data(), info[5].IsUndefined() ? nullptr : info[5].As<Napi::Float32Array>().Data()};
      uint32_t table = 0;
      const auto refuse = [&](const std::string& message) { return Throw(info.Env(), "INVALID_ARGUMENT", message); };
      switch (tables_->AddSegment(Index(info[0]), segment, &table)) {
        case Status::kInvalidNorm:
          return refuse(kInvalidNorm);
        case Status::kInvalidSegment:
          return refuse("Table " + std::to_string(table) + kInvalidTable);
        case Status::kCentre:
          return refuse(segment.centre == nullptr ? kNoCentre : kNeedlessCentre);
        default:
          return info.Env().Undefined();
      }
    });
  }

  // (head, query [dim], EngineQuery) -> EngineCandidates
  Napi::Value Query(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const QueryOptions what = QueryOf(info[2]);
      const Candidates found = tables_->Query(Index(info[0]), VectorsOf(info[1]), what);
      if (found.status != Status::kOk) return Throw(info.Env(), "NON_FINITE", kNonFinite);
      return CandidatesObject(info.Env(), found, what);
    });
  }

  // (head, query [dim], EngineQuery, EngineCandidates) -> count
  Napi::Value QueryInto(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const QueryOptions what = QueryOf(info[2]);
      const Candidates found = tables_->Query(Index(info[0]), VectorsOf(info[1]), what);
      if (found.status != Status::kOk) return Throw(info.Env(), "NON_FINITE", kNonFinite);
      const auto out = info[3].As<Napi::Object>();
      const Napi::Value ids = out.Get("ids"), collisions = out.Get("collisions"), dots = out.Get("dots"),
                        probabilities = out.Get("probabilities");
      size_t fits = found.count;
      const auto shorten = [&](bool asked, const Napi::Value& array) {
        if (asked) fits = std::min(fits, array.As<Napi::TypedArray>().ElementLength());
      };
      shorten(true, ids);
      shorten(what.collisions, collisions);
      shorten(what.dots, dots);
      shorten(what.log_table != nullptr, probabilities);
      if (fits > 0) {
        std::copy_n(found.ids, fits, ids.As<Napi::Uint32Array>().Data());
        if (what.collisions) std::copy_n(found.collisions, fits, collisions.As<Napi::Uint16Array>().Data());
        if (what.dots) std::copy_n(found.dots, fits, dots.As<Napi::Float64Array>().Data());
        if (what.log_table != nullptr) std::copy_n(found.probabilities, fits, probabilities.As<Napi::Float32Array>().Data());
      }
      return Number(info.Env(), static_cast<double>(found.count));
    });
  }

  // (head, queries [m][dim], EngineQuery) -> EngineCandidatesBatch
  Napi::Value QueryBatch(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      const QueryOptions what = QueryOf(info[2]);
      const CandidatesBatch batch =
          tables_->QueryBatch(Index(info[0]), VectorsOf(info[1]), RowsOf(info[1], dim()), what, nullptr);
      if (batch.status != Status::kOk) return Throw(info.Env(), "NON_FINITE", kNonFinite);
      return BatchObject(info.Env(), batch, what);
    });
  }

  // (head, queries [m][dim], EngineQuery, control Uint32Array [2]) -> Promise<EngineCandidatesBatch | undefined>
  Napi::Value QueryBatchAsync(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      struct State {
        std::shared_ptr<Tables> tables;
        QueryOptions what;
        std::vector<float> log_table;
        CandidatesBatch batch;
      };
      const auto copy = CopyOf(info[1]);
      auto state = std::make_shared<State>(State{tables_, QueryOf(info[2]), {}, {}});
      if (state->what.log_table != nullptr) {
        state->log_table.assign(state->what.log_table, state->what.log_table + state->what.log_size);
        state->what.log_table = state->log_table.data();
      }
      return AsyncCall::Start(
          info.Env(), info[3],
          [state, head = Index(info[0]), copy, element = VectorsOf(info[1]).element, m = RowsOf(info[1], dim()),
           control = ControlOf(info[3])] {
            state->batch = state->tables->QueryBatch(head, {copy->data(), element}, m, state->what, control);
            return state->batch.status;
          },
          [state](Napi::Env env, Status status) -> Napi::Value {
            if (status == Status::kStopped) return env.Undefined();
            if (status == Status::kNonFinite) return Throw(env, "NON_FINITE", kNonFinite);
            return BatchObject(env, state->batch, state->what);
          });
    });
  }

  // (head) -> Float32Array [dim]
  Napi::Value Centre(const Napi::CallbackInfo& info) {
    auto centre = Napi::Float32Array::New(info.Env(), dim());
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

  // (path)
  Napi::Value Save(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&] {
      const std::string path = info[0].As<Napi::String>().Utf8Value();
      tables_->Write([&](const ContainerWriter& writer, const magicpig_pool& pool) { writer.Save(pool, path); });
      return info.Env().Undefined();
    });
  }

  Napi::Value ToBuffer(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&]() -> Napi::Value {
      std::optional<Napi::Uint8Array> bytes;
      tables_->Write([&](const ContainerWriter& writer, const magicpig_pool& pool) {
        bytes = Napi::Uint8Array::New(info.Env(), writer.bytes());
        if (!info.Env().IsExceptionPending()) writer.Write(pool, bytes->Data());
      });
      return *bytes;
    });
  }

  Napi::Value Dispose(const Napi::CallbackInfo& info) {
    tables_->Dispose();
    return info.Env().Undefined();
  }

  Napi::Value Selector(const Napi::CallbackInfo& info) {
    return Guard(info.Env(), [&] {
      auto external = Napi::External<magicpig_selector>::New(
          info.Env(), NewSelector<Tables>(tables_, tables_->projection().dim(), tables_->options().heads),
          [](Napi::Env, magicpig_selector* selector) { selector->release(selector->context); });
      external.TypeTag(&kSelectorTag);
      return external;
    });
  }

  std::shared_ptr<Tables> tables_;
};

class FileObject : public Napi::ObjectWrap<FileObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "File",
                       {InstanceAccessor<&FileObject::Shape>("shape"), InstanceMethod<&FileObject::OpenTables>("tables")});
  }

  // (path | Uint8Array, Tables)
  explicit FileObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<FileObject>(info) {
    tables_class_ = Napi::Persistent(info[1].As<Napi::Function>());
    Guard(info.Env(), [&] {
      if (info[0].IsString()) {
        file_ = Container::Open(info[0].As<Napi::String>().Utf8Value(), Tables::kFileKind);
      } else {
        const auto bytes = info[0].As<Napi::Uint8Array>();
        file_ = Container::Copy(bytes.Data(), bytes.ByteLength(), Tables::kFileKind);
      }
      shape_ = Tables::ReadShape(*file_);
      return info.Env().Undefined();
    });
  }

 private:
  Napi::Value Shape(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    auto shape = Napi::Object::New(env);
    shape.Set("heads", Number(env, shape_.options.heads));
    shape.Set("minCollisions", Number(env, shape_.options.min_collisions));
    shape.Set("minProbability", Number(env, shape_.options.min_probability));
    shape.Set("norms", Napi::Boolean::New(env, shape_.options.norms));
    shape.Set("keep", Napi::String::New(env, kKeptNames[static_cast<uint32_t>(shape_.options.keep)]));
    shape.Set("center", Napi::String::New(env, kCentringNames[static_cast<uint32_t>(shape_.options.centring)]));
    shape.Set("hadamard", Napi::Boolean::New(env, shape_.kind == ProjectionKind::kHadamard));
    shape.Set("dim", Number(env, shape_.dim));
    shape.Set("bits", Number(env, shape_.bits));
    shape.Set("tables", Number(env, shape_.tables));
    shape.Set("seed", Number(env, static_cast<double>(shape_.seed)));
    return shape;
  }

  // (projection, logTable, pool, 'load' | 'view' | 'view-verified')
  Napi::Value OpenTables(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    return Guard(env, [&]() -> Napi::Value {
      const auto log_table = info[1].As<Napi::Float32Array>();
      const PoolHandle pool = PoolOf(env, info[2]);
      if (!pool) return env.Undefined();
      const std::string mode = info[3].As<Napi::String>().Utf8Value();
      std::shared_ptr<Tables> tables =
          Tables::Read(file_, ProjectionOf(info[0]), {log_table.Data(), log_table.Data() + log_table.ElementLength()}, pool,
                       mode != "load", mode != "view");
      return tables_class_.New({Napi::External<std::shared_ptr<Tables>>::New(env, &tables)});
    });
  }

  std::shared_ptr<const Container> file_;
  Tables::FileShape shape_;
  Napi::FunctionReference tables_class_;
};

}  // namespace

void DefineTables(Napi::Env env, Napi::Object exports) {
  const Napi::Function tables = TablesObject::Define(env);
  exports.Set("Tables", tables);
  const Napi::Function file = FileObject::Define(env);
  exports.Set("File", file);
  // (bits, tables, keys, dim, norms, bytes of a kept vector)
  exports.Set("headBytes", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
                const size_t dim = Index(info[3]), vector = Index(info[5]);
                const Element keep = vector == 0 ? Element::kNone : vector == dim * 2 ? Element::kBf16 : Element::kF32;
                return Number(info.Env(), static_cast<double>(Tables::MostBytes({Index(info[0]), Index(info[1])}, Index(info[2]),
                                                                                dim, info[4].As<Napi::Boolean>().Value(), keep)));
              }));
}

}  // namespace magicpig::lsh
