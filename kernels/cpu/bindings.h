// What the families' bindings share: the only files that see torch, through its stable ABI, are this one and those that include it. They check,
// allocate, split the work over torch's threads and register under the CPU key. What users see as errors is raised in Python before any of this runs;
// the checks here are the last line of defence.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "table.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
// A small argument, made contiguous and kept alive: [count] elements, or nothing.
template <class T, ScalarType kType>
struct Array {
  std::optional<Tensor> tensor;
  const T* data = nullptr;

  Array() = default;
  Array(const OptionalTensor& t, int64_t count) {
    if (!t) return;
    STD_TORCH_CHECK(t->scalar_type() == kType && t->numel() == count, "expected ", count, " elements of the op's dtype");
    tensor = t->is_contiguous() ? *t : torch::stable::contiguous(*t);
    data = static_cast<const T*>(tensor->const_data_ptr());
  }
};
using Int64Array = Array<int64_t, ScalarType::Long>;
using FloatArray = Array<float, ScalarType::Float>;

// Larger arguments, made contiguous and kept alive.
struct Kept {
  std::vector<Tensor> tensors;

  const void* data(const Tensor& t) {
    tensors.push_back(t.is_contiguous() ? t : torch::stable::contiguous(t));
    return tensors.back().const_data_ptr();
  }
  const void* data(const OptionalTensor& t) {
    return t ? data(*t) : nullptr;
  }
};

using Sizes = std::vector<int64_t>;

inline int64_t product(const Sizes& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<int64_t>());
}
inline int64_t ceil_div(int64_t n, int64_t d) {
  return (n + d - 1) / d;
}

inline Sizes with(Sizes sizes, int64_t last) {
  sizes.push_back(last);
  return sizes;
}

// Memory this large comes fresh from the system, page by page as it is first written; in pages of 2 MB where the system grants them on request, that
// takes a quarter of the time.
constexpr int64_t kHugePage = int64_t{1} << 21;
constexpr int64_t kWorthHugePages = 2 * kHugePage;

inline void ask_for_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  const auto begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & -kHugePage, end = (reinterpret_cast<uintptr_t>(data) + bytes) & -kHugePage;
  if (bytes >= kWorthHugePages && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // may be refused: no harm
#endif
}

// Past the dispatcher, which looks ops up by their names.
inline Tensor empty(const Tensor& like, const Sizes& sizes, ScalarType type) {
  Sizes strides(sizes.size());
  int64_t step = 1;
  for (size_t i = sizes.size(); i-- > 0; step *= std::max<int64_t>(1, sizes[i])) strides[i] = step;
  const auto dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(sizes.size(), sizes.data(), strides.data(), dtype, aoti_torch_device_type_cpu(), like.get_device_index(), &made));
  const Tensor t(made);
  ask_for_huge_pages(t.mutable_data_ptr(), t.numel() * static_cast<int64_t>(t.element_size()));
  return t;
}

inline Tensor zeros(const Tensor& like, const Sizes& sizes, ScalarType type) {
  const Tensor t = torch::stable::new_zeros(like, torch::headeronly::IntHeaderOnlyArrayRef(sizes.data(), sizes.size()), type);
  ask_for_huge_pages(t.mutable_data_ptr(), t.numel() * static_cast<int64_t>(t.element_size()));
  return t;
}

// A result, NaN (0 for integers) until a kernel writes it.
template <class T, ScalarType kType>
struct ResultOf {
  Tensor tensor;
  T* data;

  ResultOf(const Tensor& like, const Sizes& sizes) : tensor(empty(like, sizes, kType)), data(static_cast<T*>(tensor.mutable_data_ptr())) {
    std::fill_n(data, tensor.numel(), std::numeric_limits<T>::quiet_NaN());
  }
};
using Result = ResultOf<float, ScalarType::Float>;

}  // namespace
