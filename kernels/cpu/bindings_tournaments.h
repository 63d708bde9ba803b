// What the bindings of tournaments and votes share: arguments and results in float64, and problems shared out to threads by the time they take.
#pragma once

#include "bindings.h"

namespace {

using DoubleArray = Array<double, ScalarType::Double>;
using DoubleResult = ResultOf<double, ScalarType::Double>;
using Int64Result = ResultOf<int64_t, ScalarType::Long>;

// Nanoseconds of work worth a thread of its own.
constexpr int64_t kThreadTime = 20'000;

template <class Task>
void share(int64_t tasks, int64_t nanoseconds, const Task& task) {
  torch::stable::parallel_for(0, tasks, std::max<int64_t>(1, kThreadTime / std::max<int64_t>(1, nanoseconds)), task);
}

inline OptionalTensor in_float64(const OptionalTensor& t) {
  return t && t->scalar_type() != ScalarType::Double ? torch::stable::to(*t, ScalarType::Double) : t;
}

inline int64_t problems_of(const Tensor& square) {
  STD_TORCH_CHECK(square.dim() == 3 && square.size(1) == square.size(2), "expected shape [B, n, n]");
  return square.size(0);
}

}  // namespace
