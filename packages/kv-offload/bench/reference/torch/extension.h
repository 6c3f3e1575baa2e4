// The little of torch/extension.h that the reference's C++ uses, so that it compiles unchanged without PyTorch: tensors that
// point at memory of the caller, and Python bindings that are never made.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <vector>

namespace torch {

enum Dtype { kInt8, kFloat32, kBFloat16 };

struct TensorOptions {
  TensorOptions dtype(Dtype) const { return *this; }
};

struct Tensor {
  void* data;
  std::vector<int64_t> sizes;

  void* data_ptr() const { return data; }
  int64_t size(int i) const { return sizes[static_cast<size_t>(i)]; }
  Tensor to(Dtype) const { std::abort(); }  // only on machines without AVX-512 BF16
};

inline Tensor from_blob(void* data, std::initializer_list<int64_t> sizes, TensorOptions) { return {data, sizes}; }

}  // namespace torch

namespace py {

template <typename... Arguments>
struct init {};

template <typename T>
struct class_ {
  template <typename... Arguments>
  class_(Arguments&&...) {}
  template <typename... Arguments>
  class_& def(Arguments&&...) {
    return *this;
  }
};

}  // namespace py

#define PYBIND11_MODULE(name, module) \
  template <typename Module>          \
  void name##_bindings(Module& module)
