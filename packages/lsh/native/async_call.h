// Calls of tables that JavaScript need not wait for.
#ifndef MAGICPIG_LSH_ASYNC_CALL_H_
#define MAGICPIG_LSH_ASYNC_CALL_H_

#include <napi.h>

#include <cstring>
#include <functional>
#include <memory>

#include "binding.h"
#include "tables.h"

namespace magicpig::lsh {

// Runs `work` on a thread of libuv and resolves a promise to what `result` makes of it here.
class AsyncCall : public Napi::AsyncWorker {
 public:
  static Napi::Value Start(Napi::Env env, const Napi::Value& control, std::function<Status()> work,
                           std::function<Napi::Value(Napi::Env, Status)> result) {
    auto* call = new AsyncCall(env, control, std::move(work), std::move(result));
    const Napi::Promise promise = call->deferred_.Promise();
    call->Queue();
    return promise;
  }

 private:
  AsyncCall(Napi::Env env, const Napi::Value& control, std::function<Status()> work,
            std::function<Napi::Value(Napi::Env, Status)> result)
      : Napi::AsyncWorker(env, "magicpig_lsh"),
        deferred_(env),
        control_(Napi::Persistent(control.As<Napi::Object>())),
        work_(std::move(work)),
        result_(std::move(result)) {}

  void Execute() override {
    try {
      status_ = work_();
    } catch (const std::exception&) {  // std::bad_alloc and what vectors throw
      out_of_memory_ = true;
    }
  }

  void OnOK() override {
    const Napi::Env env = Env();
    const Napi::Value value = Guard(env, [&] {
      if (out_of_memory_) throw std::bad_alloc();
      return result_(env, status_);
    });
    if (env.IsExceptionPending()) {
      deferred_.Reject(env.GetAndClearPendingException().Value());
    } else {
      deferred_.Resolve(value);
    }
  }

  Napi::Promise::Deferred deferred_;
  Napi::ObjectReference control_;  // keeps its memory
  std::function<Status()> work_;
  std::function<Napi::Value(Napi::Env, Status)> result_;
  Status status_ = Status::kOk;
  bool out_of_memory_ = false;
};

// Vectors of an asynchronous call, out of the reach of JavaScript.
inline std::shared_ptr<Buffer<uint8_t>> CopyOf(const Napi::Value& value) {
  const size_t bytes = value.As<Napi::TypedArray>().ByteLength();
  auto copy = std::make_shared<Buffer<uint8_t>>(bytes);
  if (bytes > 0) std::memcpy(copy->data(), VectorsOf(value).data, bytes);
  return copy;
}

inline Control* ControlOf(const Napi::Value& value) { return reinterpret_cast<Control*>(value.As<Napi::Uint32Array>().Data()); }

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_ASYNC_CALL_H_
