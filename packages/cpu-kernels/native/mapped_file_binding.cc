// Mapped files for Node.
#include "binding.h"

#include <memory>
#include <string>

#include "mapped_file.h"

namespace magicpig::cpu {
namespace {

// The handle and every view hold the mapping.
using Mapping = std::shared_ptr<MappedFile>;

Napi::Value MapFile(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string path = info[0].As<Napi::String>().Utf8Value();
  const char* error = "ENOMEM";
  auto* mapping = OrOutOfMemory<Mapping*>(nullptr, [&] { return new Mapping(std::make_shared<MappedFile>()); });
  if (mapping) error = (*mapping)->Map(path.c_str());
  if (error) {
    delete mapping;
    return Napi::String::New(env, error);
  }
  const size_t size = (*mapping)->size();
  Napi::Object result = Napi::Object::New(env);
  result.Set("handle", NewHandle(env, mapping));
  result.Set("size", Napi::Number::New(env, static_cast<double>(size)));
  return result;
}

Napi::Value MapView(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Mapping& mapping = *Handle<Mapping>(info, 0);
  const size_t offset = Size(info, 1);
  const size_t length = Size(info, 2);
  // Nothing writes through the pointer: pages are read-only.
  void* data = const_cast<uint8_t*>(mapping->data() + offset);
  Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(
      env, data, length,
      [length](Napi::Env env, void*, Mapping* held) {
        Napi::MemoryManagement::AdjustExternalMemory(env, static_cast<int64_t>(length));
        delete held;
      },
      new Mapping(mapping));
  // Pages of a file are not memory that a garbage collection could win back: the collector does not count them.
  Napi::MemoryManagement::AdjustExternalMemory(env, -static_cast<int64_t>(length));
  return Napi::Uint8Array::New(env, length, buffer, 0);
}

void TrimFile(const Napi::CallbackInfo& info) { (*Handle<Mapping>(info, 0))->Trim(); }

void UnmapFile(const Napi::CallbackInfo& info) {
  const Napi::Array buffers = info[1].As<Napi::Array>();
  for (uint32_t i = 0; i < buffers.Length(); ++i) napi_detach_arraybuffer(info.Env(), buffers.Get(i));
  (*Handle<Mapping>(info, 0))->Unmap();
}

}  // namespace

void ExportMappedFiles(Napi::Env env, Napi::Object exports) {
  Export<MapFile>(env, exports, "mapFile");
  Export<MapView>(env, exports, "mapView");
  Export<TrimFile>(env, exports, "trimFile");
  Export<UnmapFile>(env, exports, "unmapFile");
}

}  // namespace magicpig::cpu
