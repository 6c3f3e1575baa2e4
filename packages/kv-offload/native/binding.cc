// The addon: unpacks arguments, checks handles and shapes, calls.
#include <napi.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <system_error>
#include <type_traits>
#include <vector>

#include "attention.h"
#include "bandwidth.h"
#include "isa.h"
#include "magicpig/pool.h"
#include "magicpig/selector.h"
#include "magicpig/thread_pool.h"
#include "selectors.h"
#include "snapshot.h"
#include "store.h"

namespace {

using namespace magicpig::kv;

constexpr napi_type_tag kStoreTag = {0x6d61676963706967ull, 0x6b7673746f726500ull};
constexpr napi_type_tag kSequenceTag = {0x6d61676963706967ull, 0x6b7673657175656eull};
constexpr napi_type_tag kStepTag = {0x6d61676963706967ull, 0x6b76737465700000ull};
constexpr napi_type_tag kPoolTag = {MAGICPIG_POOL_TAG_LOWER, MAGICPIG_POOL_TAG_UPPER};
constexpr napi_type_tag kSelectorTag = {MAGICPIG_SELECTOR_TAG_LOWER, MAGICPIG_SELECTOR_TAG_UPPER};

const char* CodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument: return "INVALID_ARGUMENT";
    case ErrorCode::kOutOfMemory: return "OUT_OF_MEMORY";
    case ErrorCode::kDisposed: return "DISPOSED";
    case ErrorCode::kStaleStep: return "STALE_STEP";
    case ErrorCode::kSelector: return "SELECTOR";
    case ErrorCode::kFile: return "FILE";
    case ErrorCode::kCorruptFile: return "CORRUPT_FILE";
    case ErrorCode::kUnsupported: return "UNSUPPORTED";
  }
  return "INVALID_ARGUMENT";
}

Napi::Value Throw(Napi::Env env, const Error& error) {
  Napi::Error thrown = Napi::Error::New(env, error.message);
  Napi::Object value = thrown.Value();
  value.Set("code", CodeName(error.code));
  if (error.code == ErrorCode::kOutOfMemory) {
    value.Set("requestedBytes", static_cast<double>(error.requested_bytes));
    value.Set("availableBytes",
              error.available_bytes == UINT64_MAX ? INFINITY : static_cast<double>(error.available_bytes));
  }
  thrown.ThrowAsJavaScriptException();
  return env.Undefined();
}

Napi::Value Finish(Napi::Env env, const Status& status) { return status ? Throw(env, *status) : env.Undefined(); }

// The pointer inside an External with this tag; nullptr for anything else.
template <typename T>
T* Unwrap(const Napi::Value& value, const napi_type_tag& tag) {
  if (!value.IsExternal()) return nullptr;
  bool same = false;
  if (napi_check_object_type_tag(value.Env(), value, &tag, &same) != napi_ok || !same) return nullptr;
  return value.As<Napi::External<T>>().Data();
}

template <typename T>
Napi::Value Wrap(Napi::Env env, T* data, const napi_type_tag& tag) {
  Napi::External<T> external = Napi::External<T>::New(env, data, [](Napi::Env, T* finished) { delete finished; });
  napi_type_tag_object(env, external, &tag);
  return external;
}

// Runs a function whose first argument is a handle of type T, and reports memory that the system did not give.
template <typename T, const napi_type_tag& kTag, Napi::Value (*kFunction)(const Napi::CallbackInfo&, T&)>
Napi::Value WithHandle(const Napi::CallbackInfo& info) {
  T* handle = Unwrap<T>(info[0], kTag);
  if (handle == nullptr) return Throw(info.Env(), {ErrorCode::kInvalidArgument, "Not a handle of this addon."});
  try {
    return kFunction(info, *handle);
  } catch (const std::bad_alloc&) {
    return Throw(info.Env(), {ErrorCode::kOutOfMemory, "The system gave no memory.", 0, UINT64_MAX});
  }
}

using StoreHandle = std::shared_ptr<Store>;
using SequenceHandle = std::shared_ptr<Sequence>;
using StepHandle = std::unique_ptr<Step>;

Dtype DtypeOf(const std::string& name) {
  if (name == "f32") return Dtype::kF32;
  if (name == "f16") return Dtype::kF16;
  return name == "int8" ? Dtype::kInt8 : Dtype::kBf16;
}

uint32_t Number(const Napi::Value& value) { return value.As<Napi::Number>().Uint32Value(); }

Napi::Value CreateStore(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object options = info[0].As<Napi::Object>();
  const auto number = [&](const char* name) { return Number(options.Get(name)); };
  const std::string dtype = options.Get("dtype").As<Napi::String>();
  const Shape shape{number("layers"),  number("kvHeads"),    number("queryHeads"),
                    number("headDim"), number("pageTokens"), DtypeOf(dtype)};
  const double max_bytes = options.Get("maxBytes").As<Napi::Number>().DoubleValue();
  try {
    magicpig_pool pool;
    if (const Napi::Value given = options.Get("pool"); given.IsUndefined()) {
      pool = magicpig::ThreadPool::Create(number("threads"));
    } else {
      const auto* handle = Unwrap<magicpig_pool>(given, kPoolTag);
      if (handle == nullptr || handle->abi != MAGICPIG_POOL_ABI) {
        return Throw(env, {ErrorCode::kInvalidArgument,
                           "pool is not a thread pool of this version of magicpig/pool.h; pass CpuBackend.pool, or "
                           "leave it out."});
      }
      pool = *handle;
      pool.retain(pool.context);
    }
    const uint64_t limit = max_bytes >= 1.8e19 ? UINT64_MAX : static_cast<uint64_t>(max_bytes);
    return Wrap(env, new StoreHandle(std::make_shared<Store>(shape, limit, pool)), kStoreTag);
  } catch (const std::system_error&) {
    return Throw(env, {ErrorCode::kOutOfMemory, "The system starts no more threads; pass fewer threads.", 0, UINT64_MAX});
  } catch (const std::bad_alloc&) {
    return Throw(env, {ErrorCode::kOutOfMemory, "The system gave no memory.", 0, UINT64_MAX});
  }
}

Napi::Value StoreStats(const Napi::CallbackInfo& info, StoreHandle& store) {
  const PagePool& pages = store->pages();
  Napi::Object stats = Napi::Object::New(info.Env());
  stats.Set("pages", static_cast<double>(pages.pages()));
  stats.Set("pageBytes", static_cast<double>(pages.page_bytes()));
  stats.Set("bytes", static_cast<double>(pages.bytes()));
  stats.Set("slabs", static_cast<double>(pages.slabs()));
  const MemoryReport report = pages.Report();
  stats.Set("reservedBytes", static_cast<double>(report.reserved_bytes));
  stats.Set("mappedBytes", static_cast<double>(report.mapped_bytes));
  stats.Set("hugePageBytes", static_cast<double>(report.huge_bytes));
  stats.Set("pinnedBytes", static_cast<double>(report.pinned_bytes));
  Napi::Array nodes = Napi::Array::New(info.Env(), report.numa_nodes.size());
  for (uint32_t i = 0; i < report.numa_nodes.size(); ++i) nodes.Set(i, report.numa_nodes[i]);
  stats.Set("numaNodes", nodes);
  Napi::Object reasons = Napi::Object::New(info.Env());
  const auto set_reason = [&](const char* name, const std::string& reason) {
    if (!reason.empty()) reasons.Set(name, reason);
  };
  set_reason("hugePages", report.huge_reason);
  set_reason("numa", report.numa_reason);
  set_reason("pinned", report.pin_reason);
  stats.Set("reasons", reasons);
  stats.Set("threads", store->pool().threads);
  return stats;
}

Napi::Value StoreBytes(const Napi::CallbackInfo& info, StoreHandle& store) {
  return Napi::Number::New(info.Env(), static_cast<double>(store->pages().bytes()));
}

// (store, bytes, rounds)
Napi::Value ReadBandwidth(const Napi::CallbackInfo& info, StoreHandle& store) {
  const auto bytes = static_cast<size_t>(info[1].As<Napi::Number>().Int64Value());
  return Napi::Number::New(info.Env(),
                           MeasureReadBandwidth(store->pool(), bytes, static_cast<int>(Number(info[2]))));
}

Napi::Value DisposeStore(const Napi::CallbackInfo& info, StoreHandle& store) {
  store->Dispose();
  return info.Env().Undefined();
}

Napi::Value OpenSequence(const Napi::CallbackInfo& info, StoreHandle& store) {
  if (store->disposed()) return Throw(info.Env(), {ErrorCode::kDisposed, "The store was disposed of."});
  return Wrap(info.Env(), new SequenceHandle(store->Open()), kSequenceTag);
}

// An error when the sequence cannot be used any more.
Status CheckAlive(const Sequence& sequence) {
  if (sequence.disposed()) return Error{ErrorCode::kDisposed, "The sequence or its store was disposed of."};
  return std::nullopt;
}

Napi::Value SequenceLength(const Napi::CallbackInfo& info, SequenceHandle& sequence) {
  if (Status status = CheckAlive(*sequence)) return Throw(info.Env(), *status);
  return Napi::Number::New(info.Env(), sequence->length());
}

Napi::Value ForkSequence(const Napi::CallbackInfo& info, SequenceHandle& sequence) {
  if (Status status = CheckAlive(*sequence)) return Throw(info.Env(), *status);
  return Wrap(info.Env(), new SequenceHandle(sequence->Fork()), kSequenceTag);
}

Napi::Value TruncateSequence(const Napi::CallbackInfo& info, SequenceHandle& sequence) {
  if (Status status = CheckAlive(*sequence)) return Throw(info.Env(), *status);
  sequence->Truncate(Number(info[1]));
  return info.Env().Undefined();
}

Napi::Value DisposeSequence(const Napi::CallbackInfo& info, SequenceHandle& sequence) {
  if (Status status = CheckAlive(*sequence)) return Throw(info.Env(), *status);
  sequence->Dispose();
  return info.Env().Undefined();
}

// (sequence, kind, layer, kvHead, begin, end, Float32Array, or Uint16Array for the bits of two-byte elements)
Napi::Value ReadRows(const Napi::CallbackInfo& info, SequenceHandle& sequence) {
  if (Status status = CheckAlive(*sequence)) return Throw(info.Env(), *status);
  const bool values = Number(info[1]) == 1;
  const HeadRows rows = sequence->Rows(Number(info[2]), Number(info[3]));
  const uint32_t begin = Number(info[4]), end = Number(info[5]);
  const auto row = [&](uint32_t token) { return values ? rows.Value(token) : rows.Key(token); };
  const auto out = info[6].As<Napi::TypedArray>();
  if (out.TypedArrayType() == napi_uint16_array) {
    uint16_t* bits = out.As<Napi::Uint16Array>().Data();
    for (uint32_t token = begin; token < end; ++token, bits += rows.dim) std::memcpy(bits, row(token), 2 * rows.dim);
  } else {
    float* numbers = out.As<Napi::Float32Array>().Data();
    const auto load_row = sequence->store()->kernels().load_row;
    for (uint32_t token = begin; token < end; ++token, numbers += rows.dim) load_row(row(token), rows.dim, numbers);
  }
  return info.Env().Undefined();
}

// (sequence, path, names, Uint8Arrays)
Napi::Value Save(const Napi::CallbackInfo& info, SequenceHandle& sequence) {
  if (Status status = CheckAlive(*sequence)) return Throw(info.Env(), *status);
  const Napi::Array names = info[2].As<Napi::Array>(), arrays = info[3].As<Napi::Array>();
  std::vector<Attachment> attachments;
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const auto bytes = arrays.Get(i).As<Napi::Uint8Array>();
    attachments.push_back({names.Get(i).As<Napi::String>(), bytes.Data(), bytes.ElementLength()});
  }
  return Finish(info.Env(), SaveSnapshot(*sequence, attachments, info[1].As<Napi::String>()));
}

// Bytes of a mapped file, not copied; the mapping lives as long as they do.
Napi::Uint8Array MappedBytes(Napi::Env env, const Attachment& attachment, const std::shared_ptr<FileMapping>& mapping) {
  if (attachment.bytes == 0) return Napi::Uint8Array::New(env, 0);
  const auto buffer = Napi::ArrayBuffer::New(
      env, const_cast<uint8_t*>(attachment.data), attachment.bytes,
      [](Napi::Env, void*, std::shared_ptr<FileMapping>* held) { delete held; }, new std::shared_ptr(mapping));
  return Napi::Uint8Array::New(env, attachment.bytes, buffer, 0);
}

// (store, path) -> { sequence, attachments: [name, Uint8Array][] }
Napi::Value Load(const Napi::CallbackInfo& info, StoreHandle& store) {
  const Napi::Env env = info.Env();
  Snapshot snapshot;
  if (Status status = LoadSnapshot(store, info[1].As<Napi::String>(), snapshot)) return Throw(env, *status);
  Napi::Array attachments = Napi::Array::New(env, snapshot.attachments.size());
  for (uint32_t i = 0; i < snapshot.attachments.size(); ++i) {
    const Attachment& attachment = snapshot.attachments[i];
    Napi::Array entry = Napi::Array::New(env, 2);
    entry.Set(0u, attachment.name);
    entry.Set(1u, MappedBytes(env, attachment, snapshot.mapping));
    attachments.Set(i, entry);
  }
  Napi::Object loaded = Napi::Object::New(env);
  loaded.Set("attachments", attachments);
  loaded.Set("sequence", Wrap(env, new SequenceHandle(std::move(snapshot.sequence)), kSequenceTag));
  return loaded;
}

// (store, sequences, tokens)
Napi::Value CreateStep(const Napi::CallbackInfo& info, StoreHandle& store) {
  const Napi::Array sequences = info[1].As<Napi::Array>(), tokens = info[2].As<Napi::Array>();
  std::vector<Store::Request> requests;
  requests.reserve(sequences.Length());
  for (uint32_t i = 0; i < sequences.Length(); ++i) {
    auto* sequence = Unwrap<SequenceHandle>(sequences.Get(i), kSequenceTag);
    if (sequence == nullptr) return Throw(info.Env(), {ErrorCode::kInvalidArgument, "Not a sequence of this addon."});
    requests.push_back({*sequence, Number(tokens.Get(i))});
  }
  StepHandle step;
  if (Status status = store->MakeStep(std::move(requests), step)) return Throw(info.Env(), *status);
  return Wrap(info.Env(), new StepHandle(std::move(step)), kStepTag);
}

ConstRows ReadableRows(const Napi::CallbackInfo& info, size_t first) {
  const float* data = info[first].As<Napi::Float32Array>().Data();
  return {data + info[first + 1].As<Napi::Number>().Int64Value(),
          static_cast<size_t>(info[first + 2].As<Napi::Number>().Int64Value())};
}

// (step, layer, keys, offset, stride, values, offset, stride)
Napi::Value Append(const Napi::CallbackInfo& info, StepHandle& step) {
  return Finish(info.Env(), step->Append(Number(info[1]), ReadableRows(info, 2), ReadableRows(info, 5)));
}

// (step, layer, queries, offset, stride, output, offset, stride, sampling, logSumExp, keysRead, standardError, sampledMs)
Napi::Value Attend(const Napi::CallbackInfo& info, StepHandle& step) {
  AttendArgs args{};
  args.layer = Number(info[1]);
  args.queries = ReadableRows(info, 2);
  const ConstRows output = ReadableRows(info, 5);
  args.output = {const_cast<float*>(output.data), output.stride};
  std::vector<Sampling> sampling;
  if (!info[8].IsUndefined()) {
    const Napi::Array given = info[8].As<Napi::Array>();
    sampling.resize(given.Length());
    for (uint32_t i = 0; i < given.Length(); ++i) {
      const Napi::Value element = given.Get(i);
      if (!element.IsObject()) continue;
      const Napi::Object entry = element.As<Napi::Object>();
      const auto* selector = Unwrap<magicpig_selector>(entry.Get("selector"), kSelectorTag);
      if (selector == nullptr || selector->abi != MAGICPIG_SELECTOR_ABI) {
        return Throw(info.Env(), {ErrorCode::kSelector,
                                  "sampling[" + std::to_string(i) + "].selector is not a selector of this version of " +
                                      "magicpig/selector.h; pass, for example, SimHashTables.selector of @magicpig/lsh."});
      }
      sampling[i] = {selector, Number(entry.Get("begin")), Number(entry.Get("end")),
                     entry.Get("sampledOnly").ToBoolean().Value()};
    }
    args.sampling = &sampling;
  }
  if (!info[9].IsUndefined()) args.log_sum_exp = info[9].As<Napi::Float32Array>().Data();
  if (!info[10].IsUndefined()) args.keys_read = info[10].As<Napi::Float64Array>().Data();
  if (!info[11].IsUndefined()) args.standard_error = info[11].As<Napi::Float32Array>().Data();
  if (!info[12].IsUndefined()) args.sampled_ms = info[12].As<Napi::Float64Array>().Data();
  return Finish(info.Env(), magicpig::kv::Attend(*step, args));
}

Napi::Value RollbackStep(const Napi::CallbackInfo& info, StepHandle& step) {
  return Finish(info.Env(), step->Rollback());
}

// Shipped selectors -----------------------------------------------------------------------------------------------------

Napi::Value WrapSelector(Napi::Env env, Selector* selector) {
  auto* abi = const_cast<magicpig_selector*>(selector->abi());
  Napi::External<magicpig_selector> external = Napi::External<magicpig_selector>::New(
      env, abi, [](Napi::Env, magicpig_selector* finished) { finished->release(finished->context); });
  napi_type_tag_object(env, external, &kSelectorTag);
  return external;
}

// (store)
Napi::Value CreateGivenSelector(const Napi::CallbackInfo& info, StoreHandle& store) {
  return WrapSelector(info.Env(), new GivenSelector(store->shape()));
}

// (store, sink, window)
Napi::Value CreateWindowSelector(const Napi::CallbackInfo& info, StoreHandle& store) {
  return WrapSelector(info.Env(), new WindowSelector(store->shape(), Number(info[1]), Number(info[2])));
}

// (sequence, kind, begin, keys, seed, cells)
Napi::Value CreateSequenceSelector(const Napi::CallbackInfo& info, SequenceHandle& sequence) {
  if (Status status = CheckAlive(*sequence)) return Throw(info.Env(), *status);
  const std::string kind = info[1].As<Napi::String>();
  const uint32_t begin = Number(info[2]), keys = Number(info[3]), seed = Number(info[4]), cells = Number(info[5]);
  Selector* selector = nullptr;
  if (kind == "topk") selector = new TopKSelector(sequence, begin, keys);
  if (kind == "oracle") selector = new OracleSelector(sequence, begin, keys, seed);
  if (kind == "quest") selector = new QuestSelector(sequence, begin, keys);
  if (kind == "ivf") selector = new IvfSelector(sequence, begin, keys, cells, seed);
  if (kind == "h2o") selector = new H2oSelector(sequence, begin, keys);
  return WrapSelector(info.Env(), selector);
}

template <typename T, Napi::Value (*kFunction)(const Napi::CallbackInfo&, T&)>
Napi::Value WithSelector(const Napi::CallbackInfo& info) {
  const auto* abi = Unwrap<magicpig_selector>(info[0], kSelectorTag);
  auto* selector = abi == nullptr ? nullptr : dynamic_cast<T*>(Selector::From(*abi));
  if (selector == nullptr) return Throw(info.Env(), {ErrorCode::kSelector, "Not a selector of this addon and kind."});
  if constexpr (std::is_base_of_v<SequenceSelector, T>) {
    // Its own disposal needs no sequence.
    const bool usable = std::is_same_v<T, SequenceSelector> ? !selector->disposed() : selector->alive();
    if (!usable) return Throw(info.Env(), {ErrorCode::kDisposed, "The selector or its sequence was disposed of."});
  }
  try {
    return kFunction(info, *selector);
  } catch (const std::bad_alloc&) {
    return Throw(info.Env(), {ErrorCode::kOutOfMemory, "The system gave no memory.", 0, UINT64_MAX});
  }
}

// (selector, index, ids, logProbabilities | undefined)
Napi::Value SetSelection(const Napi::CallbackInfo& info, GivenSelector& selector) {
  const auto ids = info[2].As<Napi::Uint32Array>();
  std::vector<float> log_probability;
  if (!info[3].IsUndefined()) {
    const auto given = info[3].As<Napi::Float32Array>();
    log_probability.assign(given.Data(), given.Data() + given.ElementLength());
  }
  selector.Set(Number(info[1]), {ids.Data(), ids.Data() + ids.ElementLength()}, std::move(log_probability));
  return info.Env().Undefined();
}

Napi::Value ClearSelections(const Napi::CallbackInfo& info, GivenSelector& selector) {
  selector.Clear();
  return info.Env().Undefined();
}

Napi::Value DisposeSelector(const Napi::CallbackInfo& info, SequenceSelector& selector) {
  selector.Dispose();
  return info.Env().Undefined();
}

// (selector, end)
Napi::Value IndexSelector(const Napi::CallbackInfo& info, IndexedSelector& selector) {
  return Napi::Boolean::New(info.Env(), selector.Index(Number(info[1])));
}

// (selector, layer, queries, offset, stride, rows, first)
Napi::Value ObserveSelector(const Napi::CallbackInfo& info, H2oSelector& selector) {
  return Napi::Boolean::New(
      info.Env(), selector.Observe(Number(info[1]), ReadableRows(info, 2), Number(info[5]), Number(info[6])));
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  exports.Set("isa", IsaName(ActiveIsa()));
  add("createStore", CreateStore);
  add("storeStats", WithHandle<StoreHandle, kStoreTag, StoreStats>);
  add("storeBytes", WithHandle<StoreHandle, kStoreTag, StoreBytes>);
  add("readBandwidth", WithHandle<StoreHandle, kStoreTag, ReadBandwidth>);
  add("disposeStore", WithHandle<StoreHandle, kStoreTag, DisposeStore>);
  add("openSequence", WithHandle<StoreHandle, kStoreTag, OpenSequence>);
  add("sequenceLength", WithHandle<SequenceHandle, kSequenceTag, SequenceLength>);
  add("forkSequence", WithHandle<SequenceHandle, kSequenceTag, ForkSequence>);
  add("truncateSequence", WithHandle<SequenceHandle, kSequenceTag, TruncateSequence>);
  add("disposeSequence", WithHandle<SequenceHandle, kSequenceTag, DisposeSequence>);
  add("readRows", WithHandle<SequenceHandle, kSequenceTag, ReadRows>);
  add("save", WithHandle<SequenceHandle, kSequenceTag, Save>);
  add("load", WithHandle<StoreHandle, kStoreTag, Load>);
  add("createStep", WithHandle<StoreHandle, kStoreTag, CreateStep>);
  add("append", WithHandle<StepHandle, kStepTag, Append>);
  add("attend", WithHandle<StepHandle, kStepTag, Attend>);
  add("rollbackStep", WithHandle<StepHandle, kStepTag, RollbackStep>);
  add("createGivenSelector", WithHandle<StoreHandle, kStoreTag, CreateGivenSelector>);
  add("createWindowSelector", WithHandle<StoreHandle, kStoreTag, CreateWindowSelector>);
  add("createSequenceSelector", WithHandle<SequenceHandle, kSequenceTag, CreateSequenceSelector>);
  add("setSelection", WithSelector<GivenSelector, SetSelection>);
  add("clearSelections", WithSelector<GivenSelector, ClearSelections>);
  add("disposeSelector", WithSelector<SequenceSelector, DisposeSelector>);
  add("indexSelector", WithSelector<IndexedSelector, IndexSelector>);
  add("observeSelector", WithSelector<H2oSelector, ObserveSelector>);
  return exports;
}

}  // namespace

NODE_API_MODULE(magicpig_kv_offload, Init)
