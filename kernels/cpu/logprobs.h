// What the log-probability kernels are given. The meaning of the results is in rrm_core/logprobs/reference.py.
#pragma once

#include <cstdint>
#include <cstring>

namespace rrm {

enum class DType : int32_t { kFloat32, kBFloat16, kFloat16 };

// Column blocks of one online softmax. They are part of the numeric contract: the same for every batch, so that a row's bits never depend on it.
constexpr int64_t kLogitsBlock = 1024;
constexpr int64_t kLinearBlock = 256;
// Rows that one task of a linear job covers: the weight is read once for them.
constexpr int64_t kTaskRows = 96;
// Packed hidden rows are padded with zeros to a multiple of this many elements.
constexpr int64_t kHiddenPad = 32;

// Fills up a row of form ids: no token.
constexpr int64_t kPadId = -1;

// Softmax statistics of some columns x of a row: max = largest x, rest = sum exp((x - max) / T) - 1 (the maximum's own term left out, so that nothing
// is lost when it dominates), moment = sum exp((x - max) / T) (max - x). No column: {-inf, -1, 0}.
struct Partial {
  float max, rest, moment;
};

// exp(x / T) as 2^((high + low) x), high of 12 significant bits; 0 below `least`, where it would no longer be a normal number.
struct Tempered {
  double temperature;
  float high, low, least;

  explicit Tempered(float t) : temperature(t) {
    const double scale = 1.4426950408889634 / temperature;
    high = static_cast<float>(scale);
    uint32_t bits;
    std::memcpy(&bits, &high, sizeof bits);
    bits &= 0xfffff000u;
    std::memcpy(&high, &bits, sizeof bits);
    low = static_cast<float>(scale - high);
    least = static_cast<float>(-87.33 * temperature > -3.4e38 ? -87.33 * temperature : -3.4e38);
  }
};

// One row that is to be computed. Ignored and invalid rows never reach a kernel.
struct Row {
  int64_t output;      // row of the outputs
  int64_t source;      // elements from the base of logits or hidden to the row's first element
  const int64_t* ids;  // [width] token ids whose logits are wanted; an id outside [0, vocab) is never looked up
  Tempered tempered;
};

// A set of rows against the vocabulary: x = softcap(h W^T + bias), where logits are not stored. The temperature comes in with the exponential.
struct Job {
  DType dtype;
  const void* logits;     // strided rows; used by logits_partials
  int64_t column_stride;  // elements between two columns of logits or hidden
  const void* hidden;     // strided rows; packed by pack_hidden
  void* packed;           // [num_rows, padded hidden size], four bytes an element reserved
  int64_t hidden_size;
  const void* weight;  // [vocab, hidden_size], rows contiguous
  int64_t weight_stride;
  const float* bias;  // [vocab] or null
  float softcap;      // 0: none
  int64_t vocab;
  const Row* rows;
  int64_t num_rows;
  int64_t width;           // token ids per row
  bool separate_selected;  // leave the selected columns out of the partials
  Partial* partials;       // [num_rows, num_blocks]
  int64_t num_blocks;
  float* selected;  // [num_rows, width] x of the ids, prefilled for ids that are never looked up
  float* slopes;    // alike: of the softcap at each; written by `selected` alone
};

struct TokenOutputs {
  int64_t ignore_index;
  float* logprob;     // [N, width]
  float* entropy;     // [N]
  float* logsumexp;   // [N]
  float* statistics;  // [N, 3] largest x, log sum exp(x / T) relative to it, what its rounding lost
};

struct ScoreOutputs {
  int64_t num_labels, forms_per_label;  // width = num_labels * forms_per_label
  double* scratch;                      // [num_rows, 2 * (num_labels + 1)]
  bool full_vocab;
  const float* const* values;  // per row of the job: [num_labels] or null
  float* logprob;              // [N, num_labels], full_vocab only
  float* conditional;          // [N, num_labels]
  float* log_mass;             // [N], full_vocab only
  float* expected;             // [N], with values only
  float* variance;             // [N], with values only
  float* entropy;              // [N]
  float* statistics;           // [N, 3] as above, over the vocabulary; over the labels without full_vocab
};

struct LogprobKernels {
  // Tasks t in [begin, end): column block t % num_blocks of row t / num_blocks.
  void (*logits_partials)(const Job&, int64_t begin, int64_t end);
  // Rows in [begin, end).
  void (*pack_hidden)(const Job&, int64_t begin, int64_t end);
  // Tasks t in [begin, end): the t % G-th of G groups of kTaskRows rows, weight block t / G.
  void (*linear_partials)(const Job&, int64_t begin, int64_t end);
  // Rows in [begin, end): the selected logits alone.
  void (*selected)(const Job&, int64_t begin, int64_t end);
  // Rows in [begin, end): merge the partials in block order and write the results.
  void (*token_outputs)(const Job&, const TokenOutputs&, int64_t begin, int64_t end);
  void (*score_outputs)(const Job&, const ScoreOutputs&, int64_t begin, int64_t end);
};

}  // namespace rrm
