// Tensors for Node: memory that a Float32Array looks at.
#include "binding.h"

#include <new>

namespace magicpig::cpu {
namespace {

// { host: Float32Array, memory: External<Block> }. The array's buffer owns the block object, so the handle is good for as long
// as the array lives.
Napi::Value Allocate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const size_t length = Size(info, 0);
  const size_t bytes = length * sizeof(float);
  Block* block = new (std::nothrow) Block(Block::Allocate(bytes));
  if (!block || !*block) {
    delete block;
    return env.Null();
  }
  Napi::ArrayBuffer buffer =
      Napi::ArrayBuffer::New(env, block->data(), bytes, [](Napi::Env, void*, Block* owner) { delete owner; }, block);
  Napi::Object result = Napi::Object::New(env);
  result.Set("host", Napi::Float32Array::New(env, length, buffer, 0));
  result.Set("memory", Napi::External<Block>::New(env, block));
  return result;
}

// (host, memory): detaches the buffer, so that nothing can reach the memory, and frees it now.
void Free(const Napi::CallbackInfo& info) {
  Block* block = Handle<Block>(info, 1);
  Napi::ArrayBuffer buffer = info[0].As<Napi::TypedArray>().ArrayBuffer();
  napi_detach_arraybuffer(info.Env(), buffer);
  if (buffer.IsDetached()) *block = Block();
}

}  // namespace

void ExportTensors(Napi::Env env, Napi::Object exports) {
  Export<Allocate>(env, exports, "allocate");
  Export<Free>(env, exports, "free");
}

}  // namespace magicpig::cpu
