#include "cublaslt.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <vector>

namespace magicpig {
namespace {

// The part of cublasLt.h that is used, as its stable C ABI has it (the toolkits here may come without the header).
using Status = int;  // cublasStatus_t; 0 is success
constexpr int kCompute32F = 68;                // CUBLAS_COMPUTE_32F
constexpr int kReal32F = 0, kRealBF16 = 14;    // CUDA_R_32F, CUDA_R_16BF
constexpr int kTransposeA = 3;                 // CUBLASLT_MATMUL_DESC_TRANSA
constexpr int32_t kOperationT = 1;             // CUBLAS_OP_T
constexpr int kMaxWorkspaceBytes = 1;          // CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES
constexpr int kMinAlignments[] = {5, 6, 7, 8};  // CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_{A,B,C,D}_BYTES
constexpr uint32_t kAlignment = 16;            // of every array, as the kernels' own; the library would count on 256
struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {  // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspace;
  Status state;
  float waves;
  int reserved[4];
};

[[maybe_unused]] std::vector<std::string> candidates() {
  const std::vector<std::string> names = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
  std::vector<std::string> found;
  if (const char* named = std::getenv("MAGICPIG_CUBLASLT"); named != nullptr && *named != '\0') found.push_back(named);
  found.insert(found.end(), names.begin(), names.end());

  std::vector<std::filesystem::path> folders;
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    if (const char* root = std::getenv(variable)) folders.push_back(std::filesystem::path(root) / "lib64");
  }
  folders.push_back("/usr/local/cuda/lib64");
  // Python packages: <prefix>/lib*/python3*/{site,dist}-packages/nvidia/<package>/lib.
  std::vector<std::filesystem::path> prefixes;
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (const char* root = std::getenv(variable)) prefixes.emplace_back(root);
  }
  if (const char* home = std::getenv("HOME")) prefixes.push_back(std::filesystem::path(home) / ".local");
  // The interpreter that `python3` starts: its prefix is two levels above the file, the link not followed (virtual environments).
  if (const char* path = std::getenv("PATH")) {
    const std::string all = path;
    for (size_t begin = 0; begin <= all.size();) {
      const size_t end = std::min(all.find(':', begin), all.size());
      const std::filesystem::path folder = all.substr(begin, end - begin);
      std::error_code ignored;
      if (!folder.empty() && std::filesystem::exists(folder / "python3", ignored)) prefixes.push_back(folder.parent_path());
      begin = end + 1;
    }
  }
  for (const char* prefix : {"/usr/local", "/usr"}) prefixes.emplace_back(prefix);
  const auto subfolders = [](const std::filesystem::path& folder) {
    std::vector<std::filesystem::path> result;
    std::error_code error;
    for (std::filesystem::directory_iterator it(folder, std::filesystem::directory_options::skip_permission_denied, error), end;
         !error && it != end; it.increment(error)) {
      result.push_back(it->path());
    }
    return result;
  };
  for (const auto& prefix : prefixes) {
    for (const char* lib : {"lib", "lib64"}) {
      for (const auto& python : subfolders(prefix / lib)) {
        if (python.filename().string().rfind("python3", 0) != 0) continue;
        for (const char* packages : {"site-packages", "dist-packages"}) {
          for (const auto& package : subfolders(python / packages / "nvidia")) folders.push_back(package / "lib");
        }
      }
    }
  }
  for (const auto& folder : folders) {
    for (const auto& name : names) {
      std::error_code ignored;
      if (std::filesystem::exists(folder / name, ignored)) found.push_back((folder / name).string());
    }
  }
  return found;
}

}  // namespace

struct CublasLt::Functions {
  Status (*create)(void** handle);
  Status (*destroy)(void* handle);
  Status (*matmul)(void* handle, void* description, const void* alpha, const void* a, void* a_layout, const void* b, void* b_layout,
                   const void* beta, const void* c, void* c_layout, void* d, void* d_layout, const Algorithm* algorithm,
                   void* workspace, size_t workspace_bytes, cudaStream_t stream);
  Status (*description_create)(void** description, int compute_type, int scale_type);
  Status (*description_destroy)(void* description);
  Status (*description_set)(void* description, int attribute, const void* value, size_t bytes);
  Status (*layout_create)(void** layout, int type, uint64_t rows, uint64_t columns, int64_t leading);
  Status (*layout_destroy)(void* layout);
  Status (*preference_create)(void** preference);
  Status (*preference_destroy)(void* preference);
  Status (*preference_set)(void* preference, int attribute, const void* value, size_t bytes);
  Status (*heuristic)(void* handle, void* description, void* a, void* b, void* c, void* d, void* preference, int requested,
                      Heuristic* results, int* returned);
};

// Row-major out = x W^T is, column by column, the column-major product out^T [outputs x rows] = W^T' x^T with W held transposed.
struct CublasLt::Plan {
  void *description = nullptr, *weight = nullptr, *x = nullptr, *out = nullptr;
  Algorithm algorithm{};
  bool usable = false;
};

bool CublasLt::load(const std::string& file) {
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* error = dlerror();
    why_not_ += "\n  " + file + ": " + (error != nullptr ? error : "cannot be loaded");
    return false;
  }
  auto* functions = new Functions{};
  const std::pair<const char*, void**> symbols[] = {
      {"cublasLtCreate", reinterpret_cast<void**>(&functions->create)},
      {"cublasLtDestroy", reinterpret_cast<void**>(&functions->destroy)},
      {"cublasLtMatmul", reinterpret_cast<void**>(&functions->matmul)},
      {"cublasLtMatmulDescCreate", reinterpret_cast<void**>(&functions->description_create)},
      {"cublasLtMatmulDescDestroy", reinterpret_cast<void**>(&functions->description_destroy)},
      {"cublasLtMatmulDescSetAttribute", reinterpret_cast<void**>(&functions->description_set)},
      {"cublasLtMatrixLayoutCreate", reinterpret_cast<void**>(&functions->layout_create)},
      {"cublasLtMatrixLayoutDestroy", reinterpret_cast<void**>(&functions->layout_destroy)},
      {"cublasLtMatmulPreferenceCreate", reinterpret_cast<void**>(&functions->preference_create)},
      {"cublasLtMatmulPreferenceDestroy", reinterpret_cast<void**>(&functions->preference_destroy)},
      {"cublasLtMatmulPreferenceSetAttribute", reinterpret_cast<void**>(&functions->preference_set)},
      {"cublasLtMatmulAlgoGetHeuristic", reinterpret_cast<void**>(&functions->heuristic)},
  };
  bool good = true;
  for (const auto& [name, place] : symbols) {
    *place = dlsym(library, name);
    if (*place == nullptr) {
      why_not_ += "\n  " + file + ": has no " + name;
      good = false;
      break;
    }
  }
  if (good) {
    const Status status = functions->create(&handle_);
    if (status != 0) {
      why_not_ += "\n  " + file + ": cublasLtCreate failed with status " + std::to_string(status);
      handle_ = nullptr;
      good = false;
    }
  }
  if (!good) {
    delete functions;
    dlclose(library);
    return false;
  }
  library_ = library;
  functions_ = functions;
  path_ = file;
  return true;
}

bool CublasLt::open() {
  if (is_open()) return true;
#if defined(MAGICPIG_EMULATE)
  why_not_ = "the emulator runs this package's own kernels only";
  return false;
#else
  why_not_ =
      "cuBLASLt was not found, so this package's own matrix product is used. Install it with the CUDA toolkit (package libcublas) or "
      "with `pip install nvidia-cublas`, or name the file in MAGICPIG_CUBLASLT. Tried:";
  for (const std::string& file : candidates()) {
    if (load(file)) {
      why_not_.clear();
      return true;
    }
  }
  return false;
#endif
}

CublasLt::~CublasLt() {
  if (!is_open()) return;
  for (auto& [shape, plan] : plans_) {
    if (plan->out != nullptr) functions_->layout_destroy(plan->out);
    if (plan->x != nullptr) functions_->layout_destroy(plan->x);
    if (plan->weight != nullptr) functions_->layout_destroy(plan->weight);
    if (plan->description != nullptr) functions_->description_destroy(plan->description);
    delete plan;
  }
  functions_->destroy(handle_);
  delete functions_;
  // The library stays loaded: unloading one that holds device state is not safe at exit.
}

cudaError_t CublasLt::multiply(cudaStream_t stream, float* out, const bf16* x, const bf16* weight, int rows, int outputs, int inputs,
                               bool accumulate, void* workspace) {
  if (!is_open() || rows < 0 || outputs <= 0 || inputs <= 0 || inputs % 8 != 0) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  Plan*& plan = plans_[{rows, outputs, inputs}];
  if (plan == nullptr) {
    plan = new Plan;
    const Functions& f = *functions_;
    const int32_t transpose = kOperationT;
    const size_t workspace_bytes = kWorkspaceBytes;
    void* preference = nullptr;
    Heuristic best{};
    int returned = 0;
    plan->usable = f.description_create(&plan->description, kCompute32F, kReal32F) == 0 &&
                   f.description_set(plan->description, kTransposeA, &transpose, sizeof transpose) == 0 &&
                   f.layout_create(&plan->weight, kRealBF16, static_cast<uint64_t>(inputs), static_cast<uint64_t>(outputs), inputs) == 0 &&
                   f.layout_create(&plan->x, kRealBF16, static_cast<uint64_t>(inputs), static_cast<uint64_t>(rows), inputs) == 0 &&
                   f.layout_create(&plan->out, kReal32F, static_cast<uint64_t>(outputs), static_cast<uint64_t>(rows), outputs) == 0 &&
                   f.preference_create(&preference) == 0 &&
                   f.preference_set(preference, kMaxWorkspaceBytes, &workspace_bytes, sizeof workspace_bytes) == 0 &&
                   std::all_of(std::begin(kMinAlignments), std::end(kMinAlignments),
                               [&](int attribute) { return f.preference_set(preference, attribute, &kAlignment, sizeof kAlignment) == 0; }) &&
                   f.heuristic(handle_, plan->description, plan->weight, plan->x, plan->out, plan->out, preference, 1, &best, &returned) == 0 &&
                   returned > 0 && best.state == 0;
    if (preference != nullptr) f.preference_destroy(preference);
    plan->algorithm = best.algorithm;
  }
  if (!plan->usable) return cudaErrorNotSupported;
  const float alpha = 1.0f, beta = accumulate ? 1.0f : 0.0f;
  const Status status = functions_->matmul(handle_, plan->description, &alpha, weight, plan->weight, x, plan->x, &beta, out, plan->out, out,
                                           plan->out, &plan->algorithm, workspace, kWorkspaceBytes, stream);
  return status == 0 ? cudaSuccess : cudaErrorNotSupported;
}

}  // namespace magicpig
