// What the gradient kernels of the log-probability ops are given. The formulas are in rrm_core/logprobs/reference_backward.py.
#pragma once

#include "logprobs.h"

namespace rrm {

// Rows of a packed panel are a multiple of this many, whatever the instruction set's own.
constexpr int64_t kPanelPad = 12;
// Terms of a product that are summed up before they are added to its total. Part of the numeric contract.
constexpr int64_t kChain = 256;
// Columns and rows whose dL/dx is at hand at a time; whole chains of either product, whole tasks of the tiles.
constexpr int64_t kGradientColumns = 1536;
constexpr int64_t kGradientRows = 768;
static_assert(kGradientColumns % kChain == 0 && kGradientRows % kChain == 0 && kGradientColumns % kLinearBlock == 0 &&
              kGradientRows % kTaskRows == 0);
static_assert(kGradientColumns % kPanelPad == 0 && kTaskRows % kPanelPad == 0);
// Rows and columns of a product's task.
constexpr int64_t kProductRows = 192;
constexpr int64_t kProductColumns = 256;
static_assert(kProductRows % kPanelPad == 0 && kProductColumns % kHiddenPad == 0);

// A row's dL/dx = exp((x - max) / T) (a + b (x - max)) away from its ids, which have values of their own (`chosen`). sum: of all its dL/dz, but where
// x is -inf. For the temperature, centre: what moments are taken around, near the mean of x - max where that is known, or else they would cancel. In
// double, as a rounding that all columns share adds up, the line a + b (x - max - centre), and at_ids: the sum over the ids of what dL/dx exceeds the
// line by, times x - max - centre.
struct Line {
  float max, a, b, sum, centre;
  double centred_a, centred_b, at_ids;
};

struct TokenGradients {
  const float* logprob;    // [N, width]
  const float* entropy;    // [N]
  const float* logsumexp;  // [N]
  const float* forward_entropy;
  const int64_t* order;     // [num_rows, width] places of each row's ids, ascending
  const float* statistics;  // [N, 3], the forward's
};

struct ScoreGradients {
  int64_t num_labels, forms_per_label;
  double* scratch;  // [num_rows, 3 * num_labels]
  bool full_vocab;
  const float* const* values;  // per row of the job: [num_labels] or null
  const float* logprob;        // [N, num_labels], full_vocab only
  const float* conditional;    // [N, num_labels]
  const float* log_mass;       // [N], full_vocab only
  const float* expected;       // [N], with values only
  const float* variance;       // [N], with values only
  const float* entropy;        // [N]
  const float* statistics;     // [N, 3], the forward's
};

// Rows of a job with what their gradients follow from.
struct Gradients {
  Job job;        // of logits: all columns. From hidden states: `packed` rows
  Line* lines;    // [num_rows]
  float* chosen;  // [num_rows, width] dL/dx of the ids
  // Per row and block of columns (of the vocabulary, or of those at hand): sums of w e and w e^2, w = exp((x - max) / T) and e = x - max - centre; or
  // null.
  float* moments;  // [num_rows, moment_blocks, 2]
  int64_t moment_blocks;

  void* logits;  // [N, vocab] dL/dlogits of the job's dtype, or null

  int64_t first_column, num_columns;  // at hand
  // dL/d(h W^T + bias) in panels: [row / R][row_depth][R] and [column / R][column_depth][R], R the instruction set's; or null.
  float* by_row;
  float* by_column;
  int64_t row_depth, column_depth;  // at least num_columns and the number of rows
};

// Rows of hidden or weight, widened and packed as the right side of a product: [column / C][depth][C], C the instruction set's, zeros past the last
// column.
struct PanelRows {
  DType dtype;
  const void* source;
  const Row* rows;  // each row's place in source; or null: `stride` elements apart
  int64_t stride, column_stride;
  int64_t columns, depth;
  float* panels;
};

// c [rows, columns] += a b.
struct PanelProduct {
  const float* a;
  int64_t a_depth;  // room of a panel of a, of b
  const float* b;
  int64_t b_depth;
  int64_t rows, columns, depth;
  float* c;
  int64_t c_stride;
};

// out [N, columns] of a dtype: each row the sum of some of `from`, in their order.
struct SumOfRows {
  DType dtype;
  void* out;
  int64_t columns;
  const float* from;
  const int64_t* order;    // rows of from
  const int64_t* offsets;  // [N + 1] into order
};

// Rows whose ids are all that has a gradient, from hidden states.
struct LabelGradients {
  Gradients rows;
  const int64_t* tokens;  // the ids that occur
  const int64_t* places;  // [num_rows, width] each id's place among them, -1: no id
  float* of_rows;         // [num_rows, H] dL/dhidden
  double* of_tokens;      // [tokens, H] += dL/dweight
};

struct LogprobBackwardKernels {
  // Rows in [begin, end): lines and chosen, from the selected logits of the job.
  void (*token_lines)(const Gradients&, const TokenGradients&, int64_t begin, int64_t end);
  void (*score_lines)(const Gradients&, const ScoreGradients&, int64_t begin, int64_t end);
  // Tasks t in [begin, end): column block t % num_blocks of row t / num_blocks.
  void (*logits_gradients)(const Gradients&, int64_t begin, int64_t end);
  // Rows in [begin, end) of logits: zeros, and what is chosen.
  void (*spread_chosen)(const Gradients&, int64_t begin, int64_t end);
  // Tasks t in [begin, end): the t % G-th of G groups of kTaskRows rows, the t / G-th block of the columns at hand.
  void (*linear_gradients)(const Gradients&, int64_t begin, int64_t end);
  // Rows in [begin, end).
  void (*pack_panels)(const PanelRows&, int64_t begin, int64_t end);
  // Tasks t in [begin, end): kProductRows x kProductColumns of c, along its rows first.
  void (*multiply)(const PanelProduct&, int64_t begin, int64_t end);
  // Columns in [begin, end) of those at hand: sums[c] += the sum of by_column over the rows.
  void (*sum_columns)(const Gradients&, double* sums, int64_t begin, int64_t end);
  // Rows of out in [begin, end).
  void (*sum_rows)(const SumOfRows&, int64_t begin, int64_t end);
  // Rows in [begin, end): of_rows. Tasks in [begin, end): kHiddenPad columns of of_tokens.
  void (*label_rows)(const LabelGradients&, int64_t begin, int64_t end);
  void (*label_tokens)(const LabelGradients&, int64_t begin, int64_t end);
};

}  // namespace rrm
