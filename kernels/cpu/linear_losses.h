// What the kernels of a loss from hidden states are given: a chunk of rows whose logits are kept, so that their gradients need no second product.
#pragma once

#include "logprobs_backward.h"

namespace rrm {

// Blocks of columns whose part of dL/dhidden one task sums up, and columns of hidden of a task. The former are part of the numeric contract.
constexpr int64_t kPieceBlocks = 64;
constexpr int64_t kPieceColumns = 128;
static_assert(kPieceColumns % kHiddenPad == 0);

// At most kTaskRows rows against the whole vocabulary.
struct HeadChunk {
  Gradients rows;  // job, lines and chosen
  // [blocks, kTaskRows, kLinearBlock] h W^T + bias; then dL/d(h W^T + bias), each block in panels [row / R][kLinearBlock][R], R the instruction
  // set's.
  float* logits;
  const float* states;  // hidden in panels [column / C][kTaskRows][C]
  float* of_weight;     // [vocab, H] += dL/dweight, or null
  double* of_bias;      // [vocab] += dL/dbias, or null
  float* of_hidden;     // [pieces, num_rows, H] dL/dhidden, or null
  float* out;           // [.., H]: where each row's goes
};

struct LinearLossKernels {
  // Blocks of columns in [begin, end): logits and their partials.
  void (*logits)(const HeadChunk&, int64_t begin, int64_t end);
  // The same: gradients in their place, of_weight and of_bias.
  void (*gradients)(const HeadChunk&, int64_t begin, int64_t end);
  // Tasks t in [begin, end): the t % G-th of G groups of kPieceColumns columns, the t / G-th piece.
  void (*hidden_pieces)(const HeadChunk&, int64_t begin, int64_t end);
  // Rows in [begin, end): out, from their pieces.
  void (*hidden_rows)(const HeadChunk&, int64_t begin, int64_t end);
};

}  // namespace rrm
