// Which instruction set answers: the processor's best, no better than ATEN_CPU_CAPABILITY (torch's own variable) allows.
#include <cstdlib>
#include <cstring>

#include "table.h"

namespace rrm {

#define RRM_DECLARE(isa)                                    \
  namespace isa {                                           \
  extern const AdvantageKernels advantages;                 \
  extern const LinearLossKernels linear_losses;             \
  extern const LogprobKernels logprobs;                     \
  extern const LogprobBackwardKernels logprobs_backward;    \
  extern const LossKernels losses;                          \
  extern const TournamentKernels tournaments;               \
  extern const TournamentRatingKernels tournaments_ratings; \
  extern const VoteKernels votes;                           \
  }
#define RRM_TABLE(name, isa)                                                                            \
  {name,         &isa::advantages,  &isa::linear_losses,       &isa::logprobs, &isa::logprobs_backward, \
   &isa::losses, &isa::tournaments, &isa::tournaments_ratings, &isa::votes}

RRM_DECLARE(baseline)
#if defined(RRM_HAS_AVX512_BF16)
RRM_DECLARE(avx512_bf16)
#endif
#if defined(RRM_HAS_X86)
RRM_DECLARE(avx512)
RRM_DECLARE(avx2)
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
    if (avx512 && __builtin_cpu_supports("avx512bf16")) tables[count++] = RRM_TABLE("avx512_bf16", avx512_bf16);
#endif
    if (avx512) tables[count++] = RRM_TABLE("avx512", avx512);
    if (avx2) tables[count++] = RRM_TABLE("avx2", avx2);
#endif
    tables[count++] = RRM_TABLE("default", baseline);
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

// The name of the instruction set in use, for rrm_core.backend_info().
extern "C" __attribute__((visibility("default"))) const char* rrm_cpu_isa() {
  return rrm::table().name;
}
