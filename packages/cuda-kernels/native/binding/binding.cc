// The addon: unpacks numbers, calls, returns the CUDA status. Handles and device addresses are plain numbers (below 2^53); the
// TypeScript side owns their lifetimes and has checked every size and type before it calls. Compiled twice: over CUDA, and over
// the emulator.
#include <cuda_runtime.h>
#include <napi.h>

#include <map>
#include <new>
#include <utility>

#include "../kernels/attention_decode.h"
#include "../kernels/attention_prefill.h"
#include "../kernels/elementwise.h"
#include "../kernels/fill.h"
#include "../kernels/gemm.h"
#include "../kernels/hadamard.h"
#include "../kernels/linear.h"
#include "../kernels/rms_norm.h"
#include "../kernels/rope.h"
#include "../kernels/scatter_rows.h"
#include "../kernels/simhash.h"
#include "../kernels/sketch.h"
#include "../kernels/table_build.h"
#include "../kernels/weights.h"
#include "../runtime/cublaslt.h"
#include "sample_selector.h"

namespace magicpig {
namespace {

// ---- From JavaScript numbers to arguments ------------------------------------------------------------------------------

template <typename T>
T unpack(const Napi::Value& value) {
  if constexpr (std::is_same_v<T, bool>) {
    return value.ToBoolean();
  } else if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<T>(static_cast<uintptr_t>(value.As<Napi::Number>().Int64Value()));
  } else if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(value.As<Napi::Number>().DoubleValue());
  } else {
    return static_cast<T>(value.As<Napi::Number>().Int64Value());
  }
}

double pack(const void* pointer) { return static_cast<double>(reinterpret_cast<uintptr_t>(pointer)); }

template <typename... P, size_t... I>
Napi::Value call(const Napi::CallbackInfo& info, cudaError_t (*function)(P...), std::index_sequence<I...>) {
  // Every argument is a number or a boolean; anything else would be read as another type's memory.
  if (info.Length() != sizeof...(P) || !((info[I].IsNumber() || info[I].IsBoolean()) && ...)) {
    Napi::TypeError::New(info.Env(), "expected " + std::to_string(sizeof...(P)) + " numbers or booleans").ThrowAsJavaScriptException();
    return info.Env().Undefined();
  }
  const cudaError_t status = function(unpack<P>(info[I])...);
  if (status != cudaSuccess) cudaGetLastError();  // an error that is reported here must not surface again at the next launch
  return Napi::Number::New(info.Env(), status);
}

// Exports `function` as a JavaScript function of as many numbers, returning the status.
template <auto kFunction>
Napi::Value exported(const Napi::CallbackInfo& info) {
  return []<typename... P>(const Napi::CallbackInfo& i, cudaError_t (*function)(P...)) {
    return call(i, function, std::index_sequence_for<P...>{});
  }(info, kFunction);
}

// ---- Kernels that take structures: their members one by one -------------------------------------------------------------

cudaError_t prefill(cudaStream_t stream, float* out_f32, bf16* out_bf16, float* lse, const bf16* q, const bf16* k, const bf16* v,
                    const int32_t* pages, int64_t page_stride, int64_t token_stride, int64_t head_stride, int queries, int keys,
                    int query_heads, int kv_heads, int head_dim, int64_t query_position, int64_t key_position, float scale) {
  return attention_prefill(stream, out_f32, out_bf16, lse, q, KvView{k, v, pages, page_stride, token_stride, head_stride},
                           PrefillShape{queries, keys, query_heads, kv_heads, head_dim, query_position, key_position, scale});
}

cudaError_t decode(cudaStream_t stream, float* out_f32, bf16* out_bf16, float* lse, void* workspace, const bf16* q, const bf16* k,
                   const bf16* v, const int32_t* pages, int64_t page_stride, int64_t token_stride, int64_t head_stride,
                   const int32_t* lengths, const int32_t* gaps, int sequences, int query_heads, int kv_heads, int head_dim, int pages_stride,
                   int64_t sequence_stride, int max_keys, int split, float scale) {
  return attention_decode(stream, out_f32, out_bf16, lse, workspace, q, KvView{k, v, pages, page_stride, token_stride, head_stride}, lengths, gaps,
                          DecodeShape{sequences, query_heads, kv_heads, head_dim, pages_stride, sequence_stride, max_keys, split, scale});
}

cudaError_t linear_view(cudaStream_t stream, float* out, const bf16* x, int kind, void* values, uint16_t* scales, const float* bias, int rows,
                        int outputs, int inputs, bool accumulate) {
  return linear(stream, out, x, WeightView{static_cast<WeightKind>(kind), values, scales}, bias, rows, outputs, inputs, accumulate);
}

cudaError_t linear_gated_view(cudaStream_t stream, bf16* out, const bf16* x, int kind, void* values, uint16_t* scales, int rows, int width,
                              int inputs) {
  return linear_gated(stream, out, x, WeightView{static_cast<WeightKind>(kind), values, scales}, rows, width, inputs);
}

cudaError_t pack_view(cudaStream_t stream, int kind, void* values, uint16_t* scales, int64_t first_row, const void* source, int type, int rows,
                 int columns) {
  return pack_weight(stream, WeightView{static_cast<WeightKind>(kind), values, scales}, first_row, source, static_cast<SourceType>(type), rows,
                     columns);
}

cudaError_t unpack_view(cudaStream_t stream, float* out_f32, bf16* out_bf16, int kind, void* values, uint16_t* scales, const int32_t* indices,
                   int rows, int columns, int matrix_rows) {
  return unpack_weight(stream, out_f32, out_bf16, WeightView{static_cast<WeightKind>(kind), values, scales}, indices, rows, columns, matrix_rows);
}

cudaError_t hash(cudaStream_t stream, uint16_t* codes, float* inverse_norms, int32_t* non_finite, const void* x, bool x_bf16,
                 const float* centre, const int8_t* projections, int rows, int dim, int bits, int tables, int64_t x_stride,
                 int64_t row_stride, int64_t table_stride) {
  const HashShape shape{rows, dim, bits, tables, x_stride, row_stride, table_stride};
  return x_bf16 ? simhash_bf16(stream, codes, inverse_norms, non_finite, static_cast<const bf16*>(x), centre, projections, shape)
                : simhash(stream, codes, inverse_norms, non_finite, static_cast<const float*>(x), centre, projections, shape);
}

cudaError_t hash_hadamard(cudaStream_t stream, uint16_t* codes, float* inverse_norms, int32_t* non_finite, const void* x, bool x_bf16,
                          const float* centre, const uint32_t* flips, int rows, int dim, int bits, int tables, int64_t x_stride,
                          int64_t row_stride, int64_t table_stride) {
  const HashShape shape{rows, dim, bits, tables, x_stride, row_stride, table_stride};
  return x_bf16 ? hadamard_bf16(stream, codes, inverse_norms, non_finite, static_cast<const bf16*>(x), centre, flips, shape)
                : hadamard(stream, codes, inverse_norms, non_finite, static_cast<const float*>(x), centre, flips, shape);
}

cudaError_t mean(cudaStream_t stream, float* out, const void* x, bool x_bf16, int rows, int heads, int dim, int64_t x_stride,
                 int64_t head_stride) {
  return x_bf16 ? column_mean_bf16(stream, out, static_cast<const bf16*>(x), rows, heads, dim, x_stride, head_stride)
                : column_mean(stream, out, static_cast<const float*>(x), rows, heads, dim, x_stride, head_stride);
}

cudaError_t encode_sketch(cudaStream_t stream, uint32_t* codes, uint16_t* factors, const int32_t* pages, int pages_stride, int32_t* rejected,
                          const void* x, bool x_bf16, const float* centres, const uint32_t* flips, int dim, int bits, int kv_heads,
                          int sequence, int first_key, int rows, int64_t row_stride, int64_t head_stride) {
  return sketch_encode(stream, SketchView{codes, factors, pages, pages_stride}, rejected, x, x_bf16, centres, flips,
                       SketchShape{dim, bits, kv_heads, 1}, SketchKeys{sequence, first_key, rows, row_stride, head_stride});
}

cudaError_t draw_sketch(cudaStream_t stream, uint32_t* samples, void* workspace, uint32_t* codes, uint16_t* factors, const int32_t* pages,
                        int pages_stride, const float* q, const uint32_t* flips, const int32_t* keys, const uint32_t* steps, int dim, int bits,
                        int kv_heads, int group, int sequences, int max_keys, int room, int64_t q_stride, int budget_kind, double budget,
                        double least, double most, double floor_share, double scale, uint32_t first_head, uint64_t seed) {
  return sketch_draw(stream, samples, workspace, SketchView{codes, factors, pages, pages_stride}, q, flips, keys, steps,
                     SketchShape{dim, bits, kv_heads, group},
                     SketchDraw{sequences, max_keys, room, q_stride, {budget_kind, budget, least, most}, floor_share, scale, first_head, seed});
}

// ---- What a thread holds: freed with it, should it end without disposing of its Device --------------------------------------

struct Instance {
  CublasLt cublaslt;
  std::map<void*, cudaError_t (*)(void*)> held;  // and how each thing is freed

  ~Instance() {
    if (held.empty()) return;
    cudaDeviceSynchronize();
    for (const auto& [handle, release] : held) release(handle);
  }
};

Instance& instance(Napi::Env env) { return *env.GetInstanceData<Instance>(); }

template <typename Handle, cudaError_t (*kRelease)(Handle)>
cudaError_t release_handle(void* handle) {
  return kRelease(static_cast<Handle>(handle));
}

// Remembers a new handle, and how to free it.
template <typename Handle, cudaError_t (*kRelease)(Handle)>
void hold(const Napi::CallbackInfo& info, Handle handle) {
  if (handle != nullptr) instance(info.Env()).held[handle] = release_handle<Handle, kRelease>;
}
// Exports the freeing of such a handle.
template <typename Handle, cudaError_t (*kRelease)(Handle)>
Napi::Value released(const Napi::CallbackInfo& info) {
  instance(info.Env()).held.erase(unpack<void*>(info[0]));
  return exported<kRelease>(info);
}

// ---- Runtime -------------------------------------------------------------------------------------------------------------

cudaError_t free_pinned(void* pointer) {
  // Work that still uses it must end first.
  const cudaError_t status = cudaDeviceSynchronize();
  const cudaError_t freed = cudaFreeHost(pointer);
  return status != cudaSuccess ? status : freed;
}
cudaError_t unpin(void* pointer) {
  const cudaError_t status = cudaDeviceSynchronize();
  const cudaError_t unpinned = cudaHostUnregister(pointer);
  return status != cudaSuccess ? status : unpinned;
}
cudaError_t copy(cudaStream_t stream, void* to, const void* from, int64_t bytes) {
  return cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream);
}
cudaError_t copy_matrix(cudaStream_t stream, void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t width, int64_t rows) {
  // Pitches have a limit, 2 GiB; what has no gaps needs none, and copies of one piece are the fastest.
  if (rows == 1 || (to_pitch == width && from_pitch == width)) return copy(stream, to, from, width * rows);
  return cudaMemcpy2DAsync(to, static_cast<size_t>(to_pitch), from, static_cast<size_t>(from_pitch), static_cast<size_t>(width),
                           static_cast<size_t>(rows), cudaMemcpyDefault, stream);
}
cudaError_t fill_bytes(cudaStream_t stream, void* to, int value, int64_t bytes) {
  return cudaMemsetAsync(to, value, static_cast<size_t>(bytes), stream);
}
cudaError_t wait_event(cudaStream_t stream, cudaEvent_t event) { return cudaStreamWaitEvent(stream, event, 0); }
cudaError_t record_event(cudaEvent_t event, cudaStream_t stream) { return cudaEventRecord(event, stream); }
cudaError_t begin_capture(cudaStream_t stream) { return cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal); }
cudaError_t set_device(int device) { return cudaSetDevice(device); }

// { status, value } of calls that return something besides the status.
Napi::Value result(Napi::Env env, cudaError_t status, const Napi::Value& value) {
  if (status != cudaSuccess) cudaGetLastError();
  Napi::Object object = Napi::Object::New(env);
  object.Set("status", static_cast<double>(status));
  object.Set("value", value);
  return object;
}
Napi::Value result(Napi::Env env, cudaError_t status, double value) { return result(env, status, Napi::Number::New(env, value)); }

Napi::Value device_count(const Napi::CallbackInfo& info) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  return result(info.Env(), status, status == cudaSuccess ? count : 0);
}

Napi::Value versions(const Napi::CallbackInfo& info) {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("driver", driver);
  object.Set("runtime", runtime);
  return object;
}

Napi::Value device_properties(const Napi::CallbackInfo& info) {
  cudaDeviceProp p{};
  const cudaError_t status = cudaGetDeviceProperties(&p, info[0].As<Napi::Number>().Int32Value());
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("name", p.name);
  object.Set("major", p.major);
  object.Set("minor", p.minor);
  object.Set("multiprocessors", p.multiProcessorCount);
  object.Set("totalMemory", static_cast<double>(p.totalGlobalMem));
  object.Set("l2CacheBytes", p.l2CacheSize);
  object.Set("sharedMemoryPerBlock", static_cast<double>(p.sharedMemPerBlockOptin));
  return result(info.Env(), status, object);
}

Napi::Value memory_info(const Napi::CallbackInfo& info) {
  size_t free = 0, total = 0;
  const cudaError_t status = cudaMemGetInfo(&free, &total);
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("free", static_cast<double>(free));
  object.Set("total", static_cast<double>(total));
  return result(info.Env(), status, object);
}

Napi::Value error_name(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), cudaGetErrorName(static_cast<cudaError_t>(info[0].As<Napi::Number>().Int32Value())));
}
Napi::Value error_text(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), cudaGetErrorString(static_cast<cudaError_t>(info[0].As<Napi::Number>().Int32Value())));
}

Napi::Value allocate(const Napi::CallbackInfo& info) {
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, static_cast<size_t>(info[0].As<Napi::Number>().Int64Value()));
  if (status == cudaSuccess) hold<void*, cudaFree>(info, pointer);
  return result(info.Env(), status, pack(pointer));
}

// Pinned host memory as an ArrayBuffer over it, and its address. free_pinned() comes after detach().
Napi::Value allocate_pinned(const Napi::CallbackInfo& info) {
  const auto bytes = static_cast<size_t>(info[0].As<Napi::Number>().Int64Value());
  void* pointer = nullptr;
  const cudaError_t status = cudaHostAlloc(&pointer, bytes, cudaHostAllocPortable);
  if (status != cudaSuccess) return result(info.Env(), status, info.Env().Undefined());
  hold<void*, free_pinned>(info, pointer);
  Napi::Object value = Napi::Object::New(info.Env());
  value.Set("pointer", pack(pointer));
  value.Set("buffer", Napi::ArrayBuffer::New(info.Env(), pointer, bytes));
  return result(info.Env(), status, value);
}
Napi::Value detach(const Napi::CallbackInfo& info) {
  info[0].As<Napi::ArrayBuffer>().Detach();
  return info.Env().Undefined();
}

// Page-locks the memory of a typed array in place, and says where it is.
Napi::Value pin_array(const Napi::CallbackInfo& info) {
  const auto array = info[0].As<Napi::TypedArray>();
  void* const host = static_cast<char*>(array.ArrayBuffer().Data()) + array.ByteOffset();
  const cudaError_t status = cudaHostRegister(host, array.ByteLength(), cudaHostRegisterPortable);
  if (status == cudaSuccess) hold<void*, unpin>(info, host);
  return result(info.Env(), status, pack(host));
}

// Copies between a typed array and the device; returns when the array may be used again.
Napi::Value copy_array(const Napi::CallbackInfo& info) {
  const auto stream = unpack<cudaStream_t>(info[0]);
  void* const device = unpack<void*>(info[1]);
  const auto array = info[2].As<Napi::TypedArray>();
  void* const host = static_cast<char*>(array.ArrayBuffer().Data()) + array.ByteOffset();
  const bool upload = info[3].As<Napi::Boolean>();
  cudaError_t status = cudaMemcpyAsync(upload ? device : host, upload ? host : device, array.ByteLength(), cudaMemcpyDefault, stream);
  if (status == cudaSuccess) status = cudaStreamSynchronize(stream);
  if (status != cudaSuccess) cudaGetLastError();
  return Napi::Number::New(info.Env(), status);
}

Napi::Value create_stream(const Napi::CallbackInfo& info) {
  cudaStream_t stream = nullptr;
  const cudaError_t status = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (status == cudaSuccess) hold<cudaStream_t, cudaStreamDestroy>(info, stream);
  return result(info.Env(), status, pack(stream));
}
Napi::Value create_event(const Napi::CallbackInfo& info) {
  cudaEvent_t event = nullptr;
  const bool timed = info[0].As<Napi::Boolean>();
  const cudaError_t status = cudaEventCreateWithFlags(&event, timed ? cudaEventDefault : cudaEventDisableTiming);
  if (status == cudaSuccess) hold<cudaEvent_t, cudaEventDestroy>(info, event);
  return result(info.Env(), status, pack(event));
}
Napi::Value elapsed(const Napi::CallbackInfo& info) {
  float milliseconds = 0;
  const cudaError_t status = cudaEventElapsedTime(&milliseconds, unpack<cudaEvent_t>(info[0]), unpack<cudaEvent_t>(info[1]));
  return result(info.Env(), status, milliseconds);
}
Napi::Value end_capture(const Napi::CallbackInfo& info) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaError_t status = cudaStreamEndCapture(unpack<cudaStream_t>(info[0]), &graph);
  if (status == cudaSuccess) status = cudaGraphInstantiate(&exec, graph, 0);
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (status == cudaSuccess) hold<cudaGraphExec_t, cudaGraphExecDestroy>(info, exec);
  return result(info.Env(), status, pack(exec));
}

Napi::Value decode_workspace(const Napi::CallbackInfo& info) {
  DecodeShape shape{};
  shape.sequences = unpack<int>(info[0]);
  shape.query_heads = unpack<int>(info[1]);
  shape.head_dim = unpack<int>(info[2]);
  shape.max_keys = unpack<int>(info[3]);
  shape.split = unpack<int>(info[4]);
  return Napi::Number::New(info.Env(), static_cast<double>(attention_decode_workspace(shape)));
}
Napi::Value build_workspace(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(),
                           static_cast<double>(table_build_workspace(unpack<int>(info[0]), unpack<int>(info[1]), unpack<int>(info[2]))));
}

Napi::Value draw_workspace(const Napi::CallbackInfo& info) {
  const SketchShape shape{unpack<int>(info[0]), 1, unpack<int>(info[1]), unpack<int>(info[2])};
  return Napi::Number::New(info.Env(), static_cast<double>(sketch_draw_workspace(shape, unpack<int>(info[3]), unpack<int>(info[4]))));
}

// ---- Draws of a device as a selector of host attention ------------------------------------------------------------------------

constexpr napi_type_tag kSelectorTag = {MAGICPIG_SELECTOR_TAG_LOWER, MAGICPIG_SELECTOR_TAG_UPPER};

// (head_dim, heads) -> External; undefined without memory.
Napi::Value create_sample_selector(const Napi::CallbackInfo& info) {
  auto* created = new (std::nothrow) SampleSelector(unpack<uint32_t>(info[0]), unpack<uint32_t>(info[1]));
  if (created == nullptr) return info.Env().Undefined();
  const auto finalize = [](Napi::Env, magicpig_selector* selector) { selector->release(selector->context); };
  auto external = Napi::External<magicpig_selector>::New(info.Env(), created->abi(), finalize);
  external.TypeTag(&kSelectorTag);
  return external;
}

// (External of the above, address of the rows, query_heads, room)
Napi::Value set_samples(const Napi::CallbackInfo& info) {
  auto* selector = info[0].As<Napi::External<magicpig_selector>>().Data();
  static_cast<SampleSelector*>(selector->context)->set(unpack<const int32_t*>(info[1]), unpack<uint32_t>(info[2]), unpack<uint32_t>(info[3]));
  return info.Env().Undefined();
}

// ---- cuBLASLt: one handle for each thread that loads the addon -----------------------------------------------------------

Napi::Value open_cublaslt(const Napi::CallbackInfo& info) {
  CublasLt& library = instance(info.Env()).cublaslt;
  const bool open = library.open();
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("open", open);
  object.Set("path", library.path());
  object.Set("whyNot", library.why_not());
  object.Set("workspaceBytes", static_cast<double>(CublasLt::kWorkspaceBytes));
  return object;
}
Napi::Value multiply_cublaslt(const Napi::CallbackInfo& info) {
  CublasLt& library = instance(info.Env()).cublaslt;
  const cudaError_t status = library.multiply(unpack<cudaStream_t>(info[0]), unpack<float*>(info[1]), unpack<const bf16*>(info[2]),
                                              unpack<const bf16*>(info[3]), unpack<int>(info[4]), unpack<int>(info[5]),
                                              unpack<int>(info[6]), unpack<bool>(info[7]), unpack<void*>(info[8]));
  return Napi::Number::New(info.Env(), status);
}

#if defined(MAGICPIG_EMULATE)
// Failure injection and the size of the emulated device, for tests.
Napi::Value emulator_fail_call(const Napi::CallbackInfo& info) {
  emulator::fail_call(unpack<unsigned>(info[0]), unpack<int>(info[1]));
  return info.Env().Undefined();
}
Napi::Value emulator_set_memory(const Napi::CallbackInfo& info) {
  emulator::set_device_memory(unpack<size_t>(info[0]));
  return info.Env().Undefined();
}
#endif

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Instance);
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
#if defined(MAGICPIG_EMULATE)
  exports.Set("kind", "emulated");
  add("emulatorFailCall", emulator_fail_call);
  add("emulatorSetMemory", emulator_set_memory);
#else
  exports.Set("kind", "cuda");
#endif
  add("deviceCount", device_count);
  add("versions", versions);
  add("deviceProperties", device_properties);
  add("setDevice", exported<set_device>);
  add("memoryInfo", memory_info);
  add("errorName", error_name);
  add("errorText", error_text);
  add("allocate", allocate);
  add("free", released<void*, cudaFree>);
  add("allocatePinned", allocate_pinned);
  add("detach", detach);
  add("freePinned", released<void*, free_pinned>);
  add("pinArray", pin_array);
  add("unpin", released<void*, unpin>);
  add("copy", exported<copy>);
  add("copyMatrix", exported<copy_matrix>);
  add("copyArray", copy_array);
  add("fillBytes", exported<fill_bytes>);
  add("createStream", create_stream);
  add("destroyStream", released<cudaStream_t, cudaStreamDestroy>);
  add("synchronizeStream", exported<cudaStreamSynchronize>);
  add("synchronizeDevice", exported<cudaDeviceSynchronize>);
  add("createEvent", create_event);
  add("destroyEvent", released<cudaEvent_t, cudaEventDestroy>);
  add("recordEvent", exported<record_event>);
  add("waitEvent", exported<wait_event>);
  add("queryEvent", exported<cudaEventQuery>);
  add("synchronizeEvent", exported<cudaEventSynchronize>);
  add("elapsed", elapsed);
  add("beginCapture", exported<begin_capture>);
  add("endCapture", end_capture);
  add("launchGraph", exported<cudaGraphLaunch>);
  add("destroyGraph", released<cudaGraphExec_t, cudaGraphExecDestroy>);

  add("rmsNorm", exported<rms_norm>);
  add("rmsNormF32", exported<rms_norm_f32>);
  add("addRmsNorm", exported<add_rms_norm>);
  add("ropeTable", exported<rope_table>);
  add("rope", exported<rope>);
  add("ropeSplit", exported<rope_split>);
  add("scatterRows", exported<scatter_rows>);
  add("swiglu", exported<swiglu>);
  add("add", exported<magicpig::add>);
  add("addBias", exported<add_bias>);
  add("embed", exported<embed>);
  add("copyRows", exported<copy_rows>);
  add("toBf16", exported<static_cast<cudaError_t (*)(cudaStream_t, bf16*, const float*, int64_t)>(to_bf16)>);
  add("toF32", exported<to_f32>);
  add("fillNormal", exported<fill_normal>);
  add("linear", exported<linear_view>);
  add("linearGated", exported<linear_gated_view>);
  add("packWeight", exported<pack_view>);
  add("unpackWeight", exported<unpack_view>);
  add("gemm", exported<gemm>);
  add("createSampleSelector", create_sample_selector);
  add("setSamples", set_samples);
  add("openCublasLt", open_cublaslt);
  add("multiplyCublasLt", multiply_cublaslt);
  add("attentionPrefill", exported<prefill>);
  add("attentionDecode", exported<decode>);
  add("attentionDecodeWorkspace", decode_workspace);
  add("mergeAttention", exported<merge_attention>);
  add("simhashProjections", exported<simhash_projections>);
  add("simhash", exported<hash>);
  add("hadamardFlips", exported<hadamard_flips>);
  add("hadamard", exported<hash_hadamard>);
  add("sketchFlips", exported<sketch_flips>);
  add("sketchEncode", exported<encode_sketch>);
  add("sketchDraw", exported<draw_sketch>);
  add("sketchDrawWorkspace", draw_workspace);
  add("columnMean", exported<mean>);
  add("tableBuild", exported<table_build>);
  add("tableBuildWorkspace", build_workspace);
  return exports;
}

NODE_API_MODULE(magicpig_cuda_kernels, initialise)

}  // namespace
}  // namespace magicpig
