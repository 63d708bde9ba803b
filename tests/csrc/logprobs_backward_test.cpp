// The raw gradient kernels of the log-probability ops against plain loops in double, on memory of exactly the promised size.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "data.h"

namespace {

using namespace rrm;

int64_t up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Rows of logits [rows, vocab] from hidden states, or stored (hidden == 0), with two ids a row and random gradients of the results.
struct Problem {
  int64_t hidden, vocab, rows;
  float softcap, temperature;
  Data x, w;
  std::vector<float> bias;
  std::vector<int64_t> ids, order;
  std::vector<Row> row_list;
  std::vector<double> z, dz;  // [rows, vocab] in double, before softcap and temperature, and dL of it
  std::vector<double> of_temperature;
  double scale = 1;  // of the sums a logit comes from: what its rounding errors are relative to
  std::vector<float> of_logprob, of_entropy, of_sum, entropy, statistics;
  Job job{};

  Problem(DType dtype, int64_t h, int64_t v, int64_t n, float cap, float t)
      : hidden(h),
        vocab(v),
        rows(n),
        softcap(cap),
        temperature(t),
        x(dtype, normal(n * (h ? h : v), h ? 1.0f : 4.0f, 1)),
        w(dtype, normal(h * v, 0.3f, 2)),
        bias(normal(v, 1.0f, 3)),
        ids(2 * n),
        order(2 * n),
        z(n * v),
        dz(n * v),
        of_temperature(n),
        of_logprob(normal(2 * n, 1.0f, 4)),
        of_entropy(normal(n, 1.0f, 5)),
        of_sum(normal(n, 1.0f, 6)),
        entropy(n),
        statistics(3 * n) {
    for (int64_t i = 0; i < n; ++i) {
      ids[2 * i] = v - 1 - i % v;
      ids[2 * i + 1] = i % 3 == 0 ? ids[2 * i] : i % 3 == 1 ? -1 : 0;  // the same, none, another
      row_list.push_back({i, i * (h ? h : v), &ids[2 * i], Tempered(t)});
      solve(i);
    }
    job.dtype = dtype;
    job.column_stride = 1;
    job.vocab = v;
    job.width = 2;
    job.num_rows = n;
    job.softcap = cap;
    job.rows = row_list.data();
    job.logits = h ? nullptr : x.bytes.data();
    job.hidden = h ? x.bytes.data() : nullptr;
    job.hidden_size = h;
    job.weight = w.bytes.data();
    job.weight_stride = h;
    job.bias = h ? bias.data() : nullptr;
    job.num_blocks = (v + (h ? kLinearBlock : kLogitsBlock) - 1) / (h ? kLinearBlock : kLogitsBlock);
  }

  void solve(int64_t i) {
    std::vector<double> capped(vocab), share(vocab, 1.0);
    double max = -INFINITY, sum = 0, mean = 0;
    for (int64_t v = 0; v < vocab; ++v) {
      double& raw = z[i * vocab + v];
      raw = hidden ? bias[v] : x.values[i * vocab + v];
      double terms = 0;
      for (int64_t k = 0; k < hidden; ++k) {
        raw += x.values[i * hidden + k] * w.values[v * hidden + k];
        terms += std::fabs(x.values[i * hidden + k] * w.values[v * hidden + k]);
      }
      scale = std::fmax(scale, terms / temperature);
      capped[v] = softcap != 0 ? softcap * std::tanh(raw / softcap) : raw;
      if (softcap != 0) share[v] = 1 - capped[v] / softcap * (capped[v] / softcap);
      max = std::fmax(max, capped[v]);
    }
    for (int64_t v = 0; v < vocab; ++v) sum += std::exp((capped[v] - max) / temperature);
    const auto logprob = [&](int64_t v) { return (capped[v] - max) / temperature - std::log(sum); };
    for (int64_t v = 0; v < vocab; ++v) mean -= std::exp(logprob(v)) * logprob(v);
    entropy[i] = static_cast<float>(mean);
    statistics[3 * i] = static_cast<float>(max);
    statistics[3 * i + 1] = static_cast<float>(std::log(sum));
    statistics[3 * i + 2] = static_cast<float>(std::log(sum) - statistics[3 * i + 1]);
    order[2 * i] = ids[2 * i] > ids[2 * i + 1];
    order[2 * i + 1] = 1 - order[2 * i];
    for (int64_t v = 0; v < vocab; ++v) {
      const double p = std::exp(logprob(v));
      double d = p * (of_sum[i] - of_entropy[i] * (logprob(v) + mean));
      for (int64_t k = 0; k < 2; ++k)
        if (ids[2 * i + k] >= 0) d += of_logprob[2 * i + k] * ((ids[2 * i + k] == v) - p);
      of_temperature[i] -= d * capped[v] / (temperature * temperature);
      dz[i * vocab + v] = d / temperature * share[v];
    }
  }
};

void check_temperature(const Table& table, const Problem& p, const std::vector<Line>& lines, const std::vector<float>& moments, int64_t blocks) {
  for (int64_t i = 0; i < p.rows; ++i) {
    double product = lines[i].at_ids;
    for (int64_t b = 0; b < blocks; ++b)
      product += lines[i].centred_a * moments[2 * (i * blocks + b)] + lines[i].centred_b * moments[2 * (i * blocks + b) + 1];
    const double t = p.temperature, got = -product / t - (double{lines[i].max} + lines[i].centre) * lines[i].sum / (t * t);
    check_close(table.name, "gradient of the temperature", got, p.of_temperature[i], 1e-5 * p.scale * (1 + std::fabs(p.of_temperature[i])));
  }
}

// The chunk that a loss from hidden states keeps: the same logits, partials and gradients, in the memory promised.
void test_chunk(const Table& table, const Problem& p, const Gradients& rows) {
  const LinearLossKernels& kernels = *table.linear_losses;
  const int64_t n = p.rows, h = p.job.hidden_size, vocab = p.vocab, blocks = p.job.num_blocks, pieces = up(blocks, kPieceBlocks) / kPieceBlocks;
  const int64_t padded = up(h, kHiddenPad), groups = up(h, kPieceColumns) / kPieceColumns;
  std::vector<float> logits(blocks * kTaskRows * kLinearBlock), states(kTaskRows * padded), of_weight(vocab * h), of_hidden(pieces * n * h),
      out(n * h);
  std::vector<double> of_bias(vocab);
  std::vector<Partial> partials(n * blocks), expected(n * blocks);
  HeadChunk chunk{rows, logits.data(), states.data(), of_weight.data(), of_bias.data(), of_hidden.data(), out.data()};
  chunk.rows.moments = nullptr;
  chunk.rows.job.partials = expected.data();
  table.logprobs->linear_partials(chunk.rows.job, 0, up(n, kTaskRows) / kTaskRows * blocks);
  chunk.rows.job.partials = partials.data();
  kernels.logits(chunk, 0, blocks);
  for (int64_t i = 0; i < n * blocks; ++i)
    check(std::memcmp(&partials[i], &expected[i], sizeof partials[i]) == 0, table.name, "a sum of a chunk", partials[i].rest, expected[i].rest);
  table.logprobs_backward->pack_panels({p.job.dtype, p.job.hidden, p.job.rows, 0, 1, h, kTaskRows, states.data()}, 0, n);
  kernels.gradients(chunk, 0, blocks);
  kernels.hidden_pieces(chunk, 0, pieces * groups);
  kernels.hidden_rows(chunk, 0, n);
  for (int64_t v = 0; v < vocab; ++v) {
    double bias = 0;
    for (int64_t i = 0; i < n; ++i) bias += p.dz[i * vocab + v];
    check_close(table.name, "gradient of the bias, at hand", of_bias[v], bias, 1e-5 * p.scale);
    for (int64_t k = 0; k < h; ++k) {
      double sum = 0;
      for (int64_t i = 0; i < n; ++i) sum += p.dz[i * vocab + v] * p.x.values[i * h + k];
      check_close(table.name, "gradient of the head, at hand", of_weight[v * h + k], sum, 1e-5 * p.scale);
    }
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < h; ++k) {
      double sum = 0, found = 0;
      for (int64_t v = 0; v < vocab; ++v) sum += p.dz[i * vocab + v] * p.w.values[v * h + k];
      for (int64_t piece = 0; piece < pieces; ++piece) found += of_hidden[(piece * n + i) * h + k];
      check_close(table.name, "gradient of a hidden state, at hand", found, sum, 1e-5 * p.scale);
      check_close(table.name, "gradient of a hidden state, written", out[i * h + k], sum, 1e-5 * p.scale);
    }
}

void test_rows(const Table& table, DType dtype, int64_t hidden, int64_t vocab, int64_t rows, float softcap, float temperature) {
  Problem p(dtype, hidden, vocab, rows, softcap, temperature);
  const LogprobBackwardKernels& kernels = *table.logprobs_backward;
  std::vector<float> selected(2 * rows, NAN), slopes(2 * rows, NAN), chosen(2 * rows), packed(rows * up(hidden, kHiddenPad));
  std::vector<Line> lines(rows);
  p.job.selected = selected.data();
  p.job.slopes = slopes.data();
  p.job.packed = packed.data();
  if (hidden) table.logprobs->pack_hidden(p.job, 0, rows);
  table.logprobs->selected(p.job, 0, rows);
  Gradients g{};
  g.job = p.job;
  g.lines = lines.data();
  g.chosen = chosen.data();
  kernels.token_lines(g, {p.of_logprob.data(), p.of_entropy.data(), p.of_sum.data(), p.entropy.data(), p.order.data(), p.statistics.data()}, 0, rows);
  const double unit = dtype == DType::kFloat32 ? 1e-5 : dtype == DType::kBFloat16 ? 8e-3 : 1e-3;  // what the storage of a result keeps
  if (!hidden) {
    const size_t size = dtype == DType::kFloat32 ? 4 : 2;
    std::vector<uint8_t> out(rows * vocab * size);
    std::vector<float> moments(2 * rows * p.job.num_blocks);
    g.logits = out.data();
    g.moments = moments.data();
    kernels.logits_gradients(g, 0, rows * p.job.num_blocks);
    for (int64_t i = 0; i < rows * vocab; ++i) {
      float got;
      uint16_t half;
      std::memcpy(&got, &out[i * size], size);
      std::memcpy(&half, &out[i * size], 2);
      if (dtype != DType::kFloat32) got = dtype == DType::kBFloat16 ? from_bfloat16(half) : from_float16(half);
      check_close(table.name, "gradient of a logit", got, p.dz[i], unit * (std::fabs(p.dz[i]) + 1e-2));
    }
    check_temperature(table, p, lines, moments, p.job.num_blocks);
    return;
  }
  const int64_t columns = std::min(vocab, kGradientColumns), blocks = up(columns, kLinearBlock) / kLinearBlock, padded = up(hidden, kHiddenPad);
  std::vector<float> moments(2 * rows * blocks), by_row(up(rows, kPanelPad) * columns), by_column(up(columns, kPanelPad) * rows);
  std::vector<float> head(columns * padded), states(rows * padded), of_hidden(rows * hidden), of_weight(columns * hidden);
  std::vector<double> sums(columns);
  g.moments = moments.data();
  g.moment_blocks = blocks;
  g.num_columns = columns;
  g.by_row = by_row.data();
  g.by_column = by_column.data();
  g.row_depth = columns;
  g.column_depth = rows;
  kernels.linear_gradients(g, 0, up(rows, kTaskRows) / kTaskRows * (up(columns, kLinearBlock) / kLinearBlock));
  kernels.pack_panels({dtype, p.job.weight, nullptr, hidden, 1, hidden, columns, head.data()}, 0, columns);
  kernels.pack_panels({dtype, p.job.hidden, p.job.rows, 0, 1, hidden, rows, states.data()}, 0, rows);
  kernels.multiply({by_row.data(), columns, head.data(), columns, rows, hidden, columns, of_hidden.data(), hidden}, 0,
                   up(rows, kProductRows) / kProductRows * (up(hidden, kProductColumns) / kProductColumns));
  kernels.multiply({by_column.data(), rows, states.data(), rows, columns, hidden, rows, of_weight.data(), hidden}, 0,
                   up(columns, kProductRows) / kProductRows * (up(hidden, kProductColumns) / kProductColumns));
  kernels.sum_columns(g, sums.data(), 0, columns);
  for (int64_t v = 0; v < columns; ++v) {
    double of_bias = 0;
    for (int64_t i = 0; i < rows; ++i) of_bias += p.dz[i * vocab + v];
    check_close(table.name, "gradient of the bias", sums[v], of_bias, 1e-5 * p.scale);
    for (int64_t k = 0; k < hidden; ++k) {
      double expected = 0;
      for (int64_t i = 0; i < rows; ++i) expected += p.dz[i * vocab + v] * p.x.values[i * hidden + k];
      check_close(table.name, "gradient of the head", of_weight[v * hidden + k], expected, 1e-5 * p.scale);
    }
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < hidden; ++k) {
      double expected = 0;
      for (int64_t v = 0; v < vocab; ++v) expected += p.dz[i * vocab + v] * p.w.values[v * hidden + k];
      check_close(table.name, "gradient of a hidden state", of_hidden[i * hidden + k], expected, 1e-5 * p.scale);
    }
  check_temperature(table, p, lines, moments, blocks);
  if (rows <= kTaskRows) test_chunk(table, p, g);
}

}  // namespace

void test_logprob_gradients(const Table& table) {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (int64_t vocab : {1, 2, 31, 33, 1023, 1025, 2100}) test_rows(table, dtype, 0, vocab, 4, 0.0f, vocab % 2 ? 0.7f : 1.0f);
    for (int64_t hidden : {1, 16, 33, 100})
      for (int64_t vocab : {1, 5, 255, 300})
        for (int64_t rows : {1, 5, 13, 96, 100}) test_rows(table, dtype, hidden, vocab, rows, hidden % 2 ? 5.0f : 0.0f, vocab % 2 ? 1.0f : 1.3f);
  }
}
