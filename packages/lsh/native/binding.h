// What the files that know of Node share: arguments (checked in TypeScript) and failures, which become errors with a `code`.
#ifndef MAGICPIG_LSH_BINDING_H_
#define MAGICPIG_LSH_BINDING_H_

#include <napi.h>

#include <memory>
#include <new>
#include <system_error>

#include "container.h"
#include "pool_handle.h"
#include "projection.h"
#include "vectors.h"

namespace magicpig::lsh {

inline Napi::Value Throw(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  error.ThrowAsJavaScriptException();
  return env.Undefined();
}

inline constexpr const char kOutOfMemory[] = "Out of memory; nothing was changed.";
inline constexpr const char kNonFinite[] =
    "A vector holds NaN or an infinity (or becomes infinite by centring); nothing was changed.";

// No C++ exception may pass into Node.
template <typename F>
Napi::Value Guard(Napi::Env env, F&& call) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return Throw(env, "OUT_OF_MEMORY", kOutOfMemory);
  } catch (const std::length_error&) {  // of a std::vector
    return Throw(env, "OUT_OF_MEMORY", kOutOfMemory);
  } catch (const std::system_error& error) {
    return Throw(env, "OUT_OF_MEMORY", error.what());
  } catch (const FileError& error) {
    return Throw(env, error.code, error.what());
  }
}

inline uint32_t Index(const Napi::Value& value) { return value.As<Napi::Number>().Uint32Value(); }

// A Float32Array or a Uint16Array of bfloat16. Empty ones may have no storage at all.
inline Vectors VectorsOf(const Napi::Value& value) {
  if (value.As<Napi::TypedArray>().TypedArrayType() == napi_float32_array) {
    return {value.As<Napi::Float32Array>().Data(), Element::kF32};
  }
  return {value.As<Napi::Uint16Array>().Data(), Element::kBf16};
}

// Elements over `width`.
inline size_t RowsOf(const Napi::Value& value, size_t width) { return value.As<Napi::TypedArray>().ElementLength() / width; }

// The pool that `value` names or holds; null, with a pending exception, when it is something else.
PoolHandle PoolOf(Napi::Env env, const Napi::Value& value);

std::shared_ptr<const Projection> ProjectionOf(const Napi::Value& value);

void DefineProjection(Napi::Env env, Napi::Object exports);
void DefineTables(Napi::Env env, Napi::Object exports);

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_BINDING_H_
