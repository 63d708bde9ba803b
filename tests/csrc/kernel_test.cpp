// The raw kernels of every instruction set this processor runs, on memory of exactly the promised size (a sanitizer sees a step outside), against
// plain loops in double. Prints one closing line "N passed, N failed".
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "check.h"
#include "data.h"

namespace {

using namespace rrm;

struct Expected {
  double log_sum, entropy;
};

Expected softmax_of(const std::vector<double>& z) {
  double max = -INFINITY, sum = 0, moment = 0;
  for (double v : z) max = std::fmax(max, v);
  for (double v : z) sum += std::exp(v - max);
  for (double v : z) moment += v == -INFINITY ? 0 : std::exp(v - max) / sum * (max - v);
  return {max + std::log(sum), std::log(sum) + moment};
}

// One row against `vocab` columns, from logits (hidden == 0) or from a product of that size; every result of token_outputs.
void test_tokens(const Table& table, DType dtype, int64_t hidden, int64_t vocab, int64_t rows, float softcap, float temperature) {
  const Data x(dtype, normal(rows * (hidden ? hidden : vocab), hidden ? 1.0f : 4.0f, 1)), w(dtype, normal(hidden * vocab, 0.3f, 2));
  const std::vector<float> bias = normal(vocab, 1.0f, 3);
  Job job{};
  job.dtype = dtype;
  job.column_stride = 1;
  job.vocab = vocab;
  job.width = 2;
  job.num_rows = rows;
  job.softcap = softcap;
  job.num_blocks = (vocab + (hidden ? kLinearBlock : kLogitsBlock) - 1) / (hidden ? kLinearBlock : kLogitsBlock);
  std::vector<int64_t> ids(rows * 2);
  std::vector<Row> row_list;
  for (int64_t i = 0; i < rows; ++i) {
    ids[2 * i] = vocab - 1 - i % vocab;
    ids[2 * i + 1] = vocab;  // out of range: its prefilled NaN must stay
    row_list.push_back({i, i * (hidden ? hidden : vocab), &ids[2 * i], Tempered(temperature)});
  }
  std::vector<Partial> partials(rows * job.num_blocks);
  std::vector<float> selected(rows * 2, NAN), packed(rows * ((hidden + kHiddenPad - 1) / kHiddenPad * kHiddenPad)), alone(rows * 2, NAN),
      slopes(rows * 2, NAN);
  job.rows = row_list.data();
  job.partials = partials.data();
  job.selected = selected.data();
  const LogprobKernels& kernels = *table.logprobs;
  if (hidden) {
    job.hidden = x.bytes.data();
    job.hidden_size = hidden;
    job.weight = w.bytes.data();
    job.weight_stride = hidden;
    job.bias = bias.data();
    job.packed = packed.data();
    kernels.pack_hidden(job, 0, rows);
    kernels.linear_partials(job, 0, (rows + kTaskRows - 1) / kTaskRows * job.num_blocks);
  } else {
    job.logits = x.bytes.data();
    kernels.logits_partials(job, 0, rows * job.num_blocks);
  }
  std::vector<float> logprob(rows * 2), entropy(rows), log_sum(rows), statistics(rows * 3);
  kernels.token_outputs(job, {-100, logprob.data(), entropy.data(), log_sum.data(), statistics.data()}, 0, rows);
  job.selected = alone.data();
  job.slopes = slopes.data();
  kernels.selected(job, 0, rows);

  for (int64_t i = 0; i < rows; ++i) {
    std::vector<double> z(vocab);
    double scale = 1;  // of the largest logit and of the sums it comes from
    for (int64_t v = 0; v < vocab; ++v) {
      z[v] = hidden ? bias[v] : x.values[i * vocab + v];
      double terms = std::fabs(z[v]);
      for (int64_t k = 0; k < hidden; ++k) {
        z[v] += x.values[i * hidden + k] * w.values[v * hidden + k];
        terms += std::fabs(x.values[i * hidden + k] * w.values[v * hidden + k]);
      }
      scale = std::fmax(scale, terms / temperature);
      if (softcap != 0) z[v] = softcap * std::tanh(z[v] / softcap);
      z[v] /= temperature;
    }
    const Expected e = softmax_of(z);
    const double tolerance = scale * 1e-6;
    check_close(table.name, "logprob", logprob[2 * i], z[ids[2 * i]] - e.log_sum, tolerance);
    check_close(table.name, "logprob of an id out of range", logprob[2 * i + 1], NAN, 0);
    check_close(table.name, "entropy", entropy[i], e.entropy, tolerance);
    check_close(table.name, "logsumexp", log_sum[i], e.log_sum, tolerance);
    const double top = *std::max_element(z.begin(), z.end());
    check_close(table.name, "largest logit", statistics[3 * i], top * temperature, tolerance * temperature);
    check_close(table.name, "log sum relative to it", statistics[3 * i + 1], e.log_sum - top, tolerance);
    check(std::memcmp(&alone[2 * i], &selected[2 * i], sizeof(float)) == 0, table.name, "a selected logit alone", alone[2 * i], selected[2 * i]);
    if (softcap == 0.0f) continue;
    const double share = selected[2 * i] / softcap;
    check(std::abs(slopes[2 * i] - (1 - share * share)) < 1e-6, table.name, "a selected logit's slope", slopes[2 * i], 1 - share * share);
  }
}

// Every float16 bit pattern, one per row of a vocabulary of one: logsumexp is the value itself.
void test_float16_conversion(const Table& table) {
  std::vector<uint16_t> bits(65536);
  std::vector<Row> rows(65536, Row{0, 0, nullptr, Tempered(1.0f)});
  const int64_t id = 0;
  for (int i = 0; i < 65536; ++i) {
    bits[i] = static_cast<uint16_t>(i);
    rows[i] = {i, i, &id, Tempered(1.0f)};
  }
  std::vector<Partial> partials(65536);
  std::vector<float> selected(65536), out(3 * 65536);
  Job job{};
  job.dtype = DType::kFloat16;
  job.logits = bits.data();
  job.column_stride = job.vocab = job.width = job.num_blocks = 1;
  job.rows = rows.data();
  job.num_rows = 65536;
  job.partials = partials.data();
  job.selected = selected.data();
  table.logprobs->logits_partials(job, 0, 65536);
  int wrong = 0;
  for (int i = 0; i < 65536; ++i) {
    const float expected = from_float16(bits[i]);
    wrong += !(selected[i] == expected || (std::isnan(selected[i]) && std::isnan(expected)));
  }
  check(wrong == 0, table.name, "float16 conversions gone wrong", wrong, 0);
}

void test_special_rows(const Table& table) {
  const float inf = INFINITY, nan = NAN;
  struct Case {
    std::vector<float> z;
    double log_sum, entropy, logprob;
  };
  const std::vector<Case> cases = {{{-inf, -inf, -inf}, -inf, nan, nan},
                                   {{inf, 0, 1}, inf, nan, nan},
                                   {{nan, 0, 1}, nan, nan, nan},
                                   {{-inf, nan, -inf}, nan, nan, nan},
                                   {{-inf, 2, -inf}, 2, 0, -inf},
                                   {{2, -inf, -inf}, 2, 0, 0},
                                   {{-120, -120, -120}, -120 + std::log(3.0), std::log(3.0), -std::log(3.0)},
                                   {{500, 500, -500}, 500 + std::log(2.0), std::log(2.0), -std::log(2.0)},
                                   {{0, -40, -60}, std::exp(-40.0), std::exp(-40.0) * 41, -std::exp(-40.0)}};
  for (const Case& c : cases) {
    const int64_t id = 0;
    const Row row{0, 0, &id, Tempered(1.0f)};
    Partial partial;
    float selected = nan, logprob, entropy, log_sum, statistics[3];
    Job job{};
    job.dtype = DType::kFloat32;
    job.logits = c.z.data();
    job.column_stride = job.width = job.num_blocks = job.num_rows = 1;
    job.vocab = 3;
    job.rows = &row;
    job.partials = &partial;
    job.selected = &selected;
    table.logprobs->logits_partials(job, 0, 1);
    table.logprobs->token_outputs(job, {-100, &logprob, &entropy, &log_sum, statistics}, 0, 1);
    check_close(table.name, "logsumexp of a special row", log_sum, c.log_sum, std::fabs(c.log_sum) * 1e-6);
    check_close(table.name, "entropy of a special row", entropy, c.entropy, std::fabs(c.entropy) * 1e-6);
    check_close(table.name, "logprob of a special row", logprob, c.logprob, std::fabs(c.logprob) * 1e-6);
  }
}

}  // namespace

int main() {
  int count;
  const Table* tables = runnable_tables(&count);
  for (int t = 0; t < count; ++t) {
    const int before = passed;
    for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      for (int64_t vocab : {1, 2, 7, 63, 64, 65, 1023, 1025, 3000}) test_tokens(tables[t], dtype, 0, vocab, 3, 0.0f, vocab % 2 ? 0.7f : 1.0f);
      for (int64_t hidden : {1, 3, 16, 31, 32, 33, 100})
        for (int64_t vocab : {1, 5, 64, 67})
          for (int64_t rows : {1, 2, 3, 5, 37, 97})
            test_tokens(tables[t], dtype, hidden, vocab, rows, hidden % 2 ? 5.0f : 0.0f, vocab % 2 ? 1.0f : 1.3f);
    }
    test_special_rows(tables[t]);
    test_float16_conversion(tables[t]);
    test_logprob_gradients(tables[t]);
    test_advantages(tables[t]);
    test_losses(tables[t]);
    test_tournaments(tables[t]);
    test_tournaments_ratings(tables[t]);
    test_votes(tables[t]);
    std::printf("%s: %d checks\n", tables[t].name, passed - before);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
