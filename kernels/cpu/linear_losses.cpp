// A chunk's logits, kept; then, with its rows' lines known, the gradients in their place and the two products with them. Compiled once per
// instruction set into the namespace RRM_ISA.
#include "linear_losses.h"

#include "logprobs_gradients.h"

namespace {

constexpr int64_t kBlockSize = kTaskRows * kLinearBlock;
static_assert(kTaskRows % kPanelRows == 0 && kPieceColumns % kPanelColumns == 0);

// Row `from` [n] of kept logits, as x [kLinearBlock]: softcapped, -inf past the last.
inline void take_row(const float* from, int64_t n, float softcap, float* x, float* slope) {
  std::memcpy(x, from, n * sizeof *x);
  std::fill(x + n, x + round_up(n, kPadColumns), 0.0f);
  cap(x, round_up(n, kPadColumns), softcap, slope);
  std::fill(x + n, x + round_up(n, kPadColumns), -kInfinity);
}

template <class T>
void logits_of(const HeadChunk& chunk, int64_t begin, int64_t end) {
  alignas(64) float x[kLinearBlock];
  const Job& job = chunk.rows.job;
  Job uncapped = job;
  uncapped.softcap = 0.0f;
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kLinearBlock, n = smaller(job.vocab - first, kLinearBlock);
    float* logits = chunk.logits + block * kBlockSize;
    linear_block<T>(uncapped, 0, job.num_rows, first, n, logits, kLinearBlock);
    for (int64_t r = 0; r < job.num_rows; ++r) {
      take_row(logits + r * kLinearBlock, n, job.softcap, x, nullptr);
      finish_block(job, r, block, x, first, n, block_range(x, round_up(n, kPadColumns)), nullptr, 0);
    }
  }
}

void gradients(const HeadChunk& chunk, int64_t begin, int64_t end) {
  alignas(64) float x[kPanelRows * kLinearBlock], slope[kLinearBlock], by_column[(kLinearBlock + kPanelRows) * kTaskRows];
  const Job& job = chunk.rows.job;
  const int64_t rows = job.num_rows, h = job.hidden_size;
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kLinearBlock, n = smaller(job.vocab - first, kLinearBlock);
    for (int64_t r = 0; r < rows; r += kPanelRows) {
      const int64_t some = smaller(rows - r, kPanelRows);
      float* panel = chunk.logits + block * kBlockSize + r * kLinearBlock;
      for (int64_t i = 0; i < some; ++i) {
        float* row = x + i * kLinearBlock;
        take_row(panel + i * kLinearBlock, n, job.softcap, row, slope);
        gradient_block(chunk.rows, r + i, first, n, -kInfinity, row, job.softcap == 0.0f ? nullptr : slope, nullptr);
      }
      for (int64_t k = 0; k < n; ++k) {
        float* column = by_column + k / kPanelRows * kPanelRows * kTaskRows + k % kPanelRows + r * kPanelRows;
        for (int64_t i = 0; i < some; ++i) column[i * kPanelRows] = panel[k * kPanelRows + i] = x[i * kLinearBlock + k];
      }
    }
    if (chunk.of_bias)
      for (int64_t k = 0; k < n; ++k) {
        const float* column = by_column + k / kPanelRows * kPanelRows * kTaskRows + k % kPanelRows;
        for (int64_t r = 0; r < rows; ++r) chunk.of_bias[first + k] += column[r * kPanelRows];
      }
    if (!chunk.of_weight) continue;
    const PanelProduct product{by_column, kTaskRows, chunk.states, kTaskRows, n, h, rows, chunk.of_weight + first * h, h};
    for (int64_t c = 0; c < h; c += kProductColumns) multiply_block(product, 0, n, c, smaller(h, c + kProductColumns));
  }
}

template <class T>
void hidden_pieces_of(const HeadChunk& chunk, int64_t begin, int64_t end) {
  alignas(64) float head[kLinearBlock * kPieceColumns];
  const Job& job = chunk.rows.job;
  const int64_t rows = job.num_rows, h = job.hidden_size, groups = (h + kPieceColumns - 1) / kPieceColumns;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t piece = task / groups, c = task % groups * kPieceColumns, columns = smaller(h - c, kPieceColumns);
    float* out = chunk.of_hidden + piece * rows * h + c;
    for (int64_t r = 0; r < rows; ++r) std::fill_n(out + r * h, columns, 0.0f);
    const int64_t last = smaller(job.num_blocks, (piece + 1) * kPieceBlocks);
    for (int64_t block = piece * kPieceBlocks; block < last; ++block) {
      const int64_t first = block * kLinearBlock, n = smaller(job.vocab - first, kLinearBlock);
      const T* weight = static_cast<const T*>(job.weight) + first * job.weight_stride + c;
      pack_panels_of<T>({job.dtype, weight, nullptr, job.weight_stride, 1, columns, n, head}, 0, n);
      multiply_block({chunk.logits + block * kBlockSize, kLinearBlock, head, n, rows, columns, n, out, h}, 0, rows, 0, columns);
    }
  }
}

void hidden_rows(const HeadChunk& chunk, int64_t begin, int64_t end) {
  const Job& job = chunk.rows.job;
  const int64_t h = job.hidden_size, pieces = (job.num_blocks + kPieceBlocks - 1) / kPieceBlocks;
  for (int64_t r = begin; r < end; ++r) {
    float* out = chunk.out + job.rows[r].output * h;
    for (int64_t c = 0; c < h; ++c) {
      float sum = 0.0f;
      for (int64_t p = 0; p < pieces; ++p) sum += chunk.of_hidden[(p * job.num_rows + r) * h + c];
      out[c] = sum;
    }
  }
}

void logits(const HeadChunk& chunk, int64_t begin, int64_t end) {
  by_dtype(chunk.rows.job.dtype, [&](auto x) { logits_of<decltype(x)>(chunk, begin, end); });
}

void hidden_pieces(const HeadChunk& chunk, int64_t begin, int64_t end) {
  by_dtype(chunk.rows.job.dtype, [&](auto x) { hidden_pieces_of<decltype(x)>(chunk, begin, end); });
}

}  // namespace

namespace rrm::RRM_ISA {

extern const LinearLossKernels linear_losses;
const LinearLossKernels linear_losses = {logits, gradients, hidden_pieces, hidden_rows};

}  // namespace rrm::RRM_ISA
