// Which instruction set answers: the processor's best, no better than ATEN_CPU_CAPABILITY (torch's own variable) allows.
#include <cstdlib>
#include <cstring>

#include "table.h"

namespace rrm {

namespace baseline {
extern const LogprobKernels logprobs;
}
#if defined(RRM_HAS_AVX512_BF16)
namespace avx512_bf16 {
extern const LogprobKernels logprobs;
}
#endif
#if defined(RRM_HAS_X86)
namespace avx512 {
extern const LogprobKernels logprobs;
}
namespace avx2 {
extern const LogprobKernels logprobs;
}
#endif

namespace {

constexpr int kMaxTables = 4;

struct Runnable {
  Table tables[kMaxTables];
  int count = 0;

  Runnable() {
#if defined(RRM_HAS_X86)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
#if defined(RRM_HAS_AVX512_BF16)
    if (avx512 && __builtin_cpu_supports("avx512bf16")) tables[count++] = {"avx512_bf16", &avx512_bf16::logprobs};
#endif
    if (avx512) tables[count++] = {"avx512", &avx512::logprobs};
    if (avx2) tables[count++] = {"avx2", &avx2::logprobs};
#endif
    tables[count++] = {"default", &baseline::logprobs};
  }
};

const Runnable& runnable() {
  static const Runnable all;
  return all;
}

const Table& choose() {
  const Runnable& all = runnable();
  const char* limit = std::getenv("ATEN_CPU_CAPABILITY");
  int first = 0;
  if (limit && std::strcmp(limit, "default") == 0) first = all.count - 1;
  if (limit && std::strcmp(limit, "avx2") == 0)
    while (first < all.count - 1 && std::strncmp(all.tables[first].name, "avx512", 6) == 0) ++first;
  return all.tables[first];
}

}  // namespace

const Table* runnable_tables(int* count) {
  *count = runnable().count;
  return runnable().tables;
}

const Table& table() {
  static const Table& chosen = choose();
  return chosen;
}

}  // namespace rrm
