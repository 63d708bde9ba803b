// Gradients of the log-probability ops: a line per row (see Line), one pass over stored logits, or tiles of the product with the head and from them,
// in panels, the gradients of hidden states and head. Compiled once per instruction set into the namespace RRM_ISA.
#include "logprobs_backward.h"

#include "logprobs_gradients.h"

namespace {

// ---- lines

// What the forward found of a row: the largest logit, and the log-sum-exp relative to it.
struct Found {
  double max, log_total;

  explicit Found(const float* statistics) : max(statistics[0]), log_total(double{statistics[1]} + statistics[2]) {}
};

void token_lines(const Gradients& g, const TokenGradients& grads, int64_t begin, int64_t end) {
  const int64_t width = g.job.width;
  for (int64_t i = begin; i < end; ++i) {
    const Row& row = g.job.rows[i];
    const int64_t n = row.output, *order = grads.order + i * width;
    const Found found(grads.statistics + 3 * n);
    const double temperature = row.tempered.temperature, log_total = found.log_total;
    const double of_entropy = grads.entropy[n], of_sum = grads.logsumexp[n], entropy = grads.forward_entropy[n];
    const float* of_logprob = grads.logprob + n * width;
    double total = 0.0, unreached = 0.0, at_ids = 0.0;
    for (int64_t k = 0; k < width; ++k)
      if (row.ids[order[k]] >= 0) total += of_logprob[order[k]];
    const double scale = exp(-log_total) / temperature, b = -scale * of_entropy / temperature;
    const double a = scale * (of_sum - total - of_entropy * (entropy - log_total));
    const float mean = static_cast<float>((log_total - entropy) * temperature), centre = __builtin_isfinite(mean) ? mean : 0.0f;
    for (int64_t k = 0, next; k < width; k = next) {  // runs of the same id
      const int64_t id = row.ids[order[k]];
      double own = 0.0;
      for (next = k; next < width && row.ids[order[next]] == id; ++next) own += of_logprob[order[next]];
      if (id < 0) continue;
      const double x = g.job.selected[i * width + order[k]], logprob = (x - found.max) / temperature - log_total, p = exp(logprob);
      double dz = own;
      if (p != 0.0)  // 1 - p with all its digits
        dz = -own * expm1(logprob) - p * (total - own) + p * (of_sum - of_entropy * (logprob + entropy));
      const double d = x - found.max;
      if (x == -kInfinity)
        unreached += own;
      else
        at_ids += (dz / temperature - exp(d / temperature) * (a + b * d)) * (d - centre);
      for (int64_t j = k; j < next; ++j) g.chosen[i * width + order[j]] = static_cast<float>(dz / temperature);
    }
    g.lines[i] = {float(found.max), float(a), float(b), float(of_sum - unreached), centre, a + b * centre, b, at_ids};
  }
}

// What a row's results over labels say of them: log-weights relative to the largest logit, their softmax q, its logarithm and moments.
struct Labels {
  double *log_weights, *conditional, *q;
  double log_sum, entropy = 0.0, expected = 0.0, variance = 0.0;

  Labels(double* scratch, const float* x, const Found& found, double temperature, const float* values, int64_t n, int64_t forms)
      : log_weights(scratch), conditional(scratch + n), q(scratch + 2 * n) {
    for (int64_t l = 0; l < n; ++l) log_weights[l] = log_sum_exp(x + l * forms, forms, origin(found.max), temperature);
    log_sum = log_normalise(log_weights, conditional, n);
    for (int64_t l = 0; l < n; ++l) {
      q[l] = exp(conditional[l]);
      if (conditional[l] != -kInfinity) entropy -= q[l] * conditional[l];
      if (values) expected += q[l] * values[l];
    }
    if (values)
      for (int64_t l = 0; l < n; ++l) variance += q[l] * (values[l] - expected) * (values[l] - expected);
  }
  bool possible(int64_t l) const {  // or NaN
    return log_weights[l] != -kInfinity;
  }
};

void score_lines(const Gradients& g, const ScoreGradients& grads, int64_t begin, int64_t end) {
  const int64_t labels = grads.num_labels, forms = grads.forms_per_label;
  const bool full = grads.full_vocab;
  for (int64_t i = begin; i < end; ++i) {
    const Row& row = g.job.rows[i];
    const int64_t n = row.output;
    const Found found(grads.statistics + 3 * n);
    const double temperature = row.tempered.temperature, log_total = found.log_total;
    const float *x = g.job.selected + i * g.job.width, *values = grads.values ? grads.values[i] : nullptr;
    const float *of_logprob = full ? grads.logprob + n * labels : nullptr, *of_conditional = grads.conditional + n * labels;
    const double of_mass = full ? grads.log_mass[n] : 0.0;
    const Labels label(grads.scratch + i * 3 * labels, x, found, temperature, values, labels, forms);
    double through = 0.0, total = 0.0, of_impossible = 0.0, of_impossible_conditionals = 0.0;
    bool some_possible = false;
    for (int64_t l = 0; l < labels; ++l) {
      if (row.ids[l * forms] == kPadId) continue;  // a label of another set
      through += of_conditional[l];
      if (full) total += of_logprob[l];
      some_possible |= label.possible(l);
      if (!label.possible(l)) of_impossible += full ? of_logprob[l] : 0.0;
      if (!label.possible(l)) of_impossible_conditionals += of_conditional[l];
    }
    const double unreached = of_impossible + (some_possible ? of_impossible_conditionals : of_mass);
    const double a = full ? -exp(-log_total) / temperature * (total + of_mass) : 0.0;
    double at_ids = 0.0;
    for (int64_t l = 0; l < labels; ++l) {
      const double q = label.q[l], away = values ? values[l] - label.expected : 0.0;
      double d = 0.0;
      if (label.possible(l)) {
        d = of_conditional[l] - q * through - grads.entropy[n] * q * (label.conditional[l] + label.entropy);
        if (values) d += q * (grads.expected[n] * away + grads.variance[n] * (away * away - label.variance));
        if (full) {
          const double logprob = label.log_weights[l] - log_total;
          d += -of_logprob[l] * expm1(logprob) - exp(logprob) * (total - of_logprob[l]) - of_mass * q * expm1(label.log_sum - log_total);
        }
      }
      for (int64_t k = l * forms; k < (l + 1) * forms; ++k) {
        if (row.ids[k] < 0) continue;
        const double distance = x[k] - found.max;
        const double share = label.possible(l) ? exp(distance / temperature - label.log_weights[l]) : 0.0, dx = share * d / temperature;
        if (share != 0.0) at_ids += (dx - exp(distance / temperature) * a) * distance;
        double value = full && !__builtin_isfinite(log_total) ? double(NAN) : dx;
        if (!full && g.job.softcap != 0.0f && value != 0.0) value *= g.job.slopes[i * g.job.width + k];
        g.chosen[i * g.job.width + k] = static_cast<float>(value);
      }
    }
    g.lines[i] = {float(found.max), float(a), 0.0f, float(-unreached), 0.0f, a, 0.0, at_ids};
  }
}

// ---- a block of columns

template <class T>
void logits_gradients_of(const Gradients& g, int64_t begin, int64_t end) {
  alignas(64) float x[kLogitsBlock];
  const Job& job = g.job;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t i = task / job.num_blocks, block = task % job.num_blocks, first = block * kLogitsBlock;
    const int64_t n = smaller(job.vocab - first, kLogitsBlock);
    const T* from = static_cast<const T*>(job.logits) + job.rows[i].source + first * job.column_stride;
    const Range range = load_block(from, job.column_stride, n, x);
    gradient_block(g, i, first, n, range.min, x, nullptr, g.moments ? g.moments + 2 * task : nullptr);
    if (!g.logits) continue;
    T* out = static_cast<T*>(g.logits) + job.rows[i].output * job.vocab + first;
    int64_t c = 0;
    for (; c + kLanes <= n; c += kLanes) store(out + c, load(x + c));
    for (; c < n; ++c) out[c] = from_float<T>(x[c]);
  }
}

template <class T>
void spread_chosen_of(const Gradients& g, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const Row& row = g.job.rows[i];
    T* out = static_cast<T*>(g.logits) + row.output * g.job.vocab;
    std::memset(out, 0, g.job.vocab * sizeof(T));
    for (int64_t k = 0; k < g.job.width; ++k)
      if (row.ids[k] >= 0 && row.ids[k] < g.job.vocab) out[row.ids[k]] = from_float<T>(g.chosen[i * g.job.width + k]);
  }
}

// x [rows, n] of rows from i on and columns from c of those at hand on, into either kind of panels.
void scatter(const Gradients& g, int64_t i, int64_t rows, int64_t c, int64_t n, const float* x) {
  if (g.by_row)
    for (int64_t r = 0; r < rows; r += kPanelRows) {
      float* panel = g.by_row + (i + r) * g.row_depth + c * kPanelRows;
      const int64_t some = smaller(rows - r, kPanelRows);
      for (int64_t k = 0; k < n; ++k, panel += kPanelRows)
        for (int64_t j = 0; j < some; ++j) panel[j] = x[(r + j) * kLinearBlock + k];
    }
  if (g.by_column)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < n; ++k) {
        const int64_t column = c + k, lane = column % kPanelRows;
        g.by_column[(column - lane) * g.column_depth + (i + r) * kPanelRows + lane] = x[r * kLinearBlock + k];
      }
}

template <class T>
void linear_gradients_of(const Gradients& g, int64_t begin, int64_t end) {
  alignas(64) float x[kTaskRows * kLinearBlock], slope[kTaskRows * kLinearBlock];
  const Job& job = g.job;
  const bool capped = job.softcap != 0.0f;
  const int64_t groups = (job.num_rows + kTaskRows - 1) / kTaskRows;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t block = task / groups, i = task % groups * kTaskRows, c = block * kLinearBlock, first = g.first_column + c;
    const int64_t n = smaller(g.num_columns - c, kLinearBlock), rows = smaller(job.num_rows - i, kTaskRows);
    linear_block<T>(job, i, rows, first, n, x, kLinearBlock, capped ? slope : nullptr);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = x + r * kLinearBlock;
      for (int64_t k = n; k < round_up(n, kPadColumns); ++k) row[k] = -kInfinity;
      float* moments = g.moments ? g.moments + 2 * ((i + r) * g.moment_blocks + block) : nullptr;
      gradient_block(g, i + r, first, n, -kInfinity, row, capped ? slope + r * kLinearBlock : nullptr, moments);
    }
    scatter(g, i, rows, c, n, x);
  }
}

// ---- products

void multiply(const PanelProduct& p, int64_t begin, int64_t end) {
  const int64_t groups = (p.rows + kProductRows - 1) / kProductRows;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t row = task % groups * kProductRows, column = task / groups * kProductColumns;
    multiply_block(p, row, smaller(p.rows, row + kProductRows), column, smaller(p.columns, column + kProductColumns));
  }
}

void sum_columns(const Gradients& g, double* sums, int64_t begin, int64_t end) {
  for (int64_t c = begin; c < end; ++c) {
    const float* from = g.by_column + c / kPanelRows * kPanelRows * g.column_depth + c % kPanelRows;
    for (int64_t i = 0; i < g.job.num_rows; ++i) sums[c] += from[i * kPanelRows];
  }
}

template <class T>
void sum_rows_of(const SumOfRows& s, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    T* out = static_cast<T*>(s.out) + i * s.columns;
    int64_t c = 0;
    for (; c + kLanes <= s.columns; c += kLanes) {
      Vec sum = {};
      for (int64_t k = s.offsets[i]; k < s.offsets[i + 1]; ++k) sum += load(s.from + s.order[k] * s.columns + c);
      store(out + c, sum);
    }
    for (; c < s.columns; ++c) {
      float sum = 0.0f;
      for (int64_t k = s.offsets[i]; k < s.offsets[i + 1]; ++k) sum += s.from[s.order[k] * s.columns + c];
      out[c] = from_float<T>(sum);
    }
  }
}

// sum[0, n) += scale * x[0, n), x `stride` elements apart.
template <class T, class Sum>
void add_scaled(const T* x, int64_t stride, Sum scale, int64_t n, Sum* sum) {
  int64_t c = 0;
  for (; stride == 1 && c + kLanes <= n; c += kLanes) {
    float wide[kLanes];
    store(wide, load(x + c));
    for (int j = 0; j < kLanes; ++j) sum[c + j] += scale * wide[j];
  }
  for (; c < n; ++c) sum[c] += scale * to_float(x[c * stride]);
}

template <class T>
void label_rows_of(const LabelGradients& g, int64_t begin, int64_t end) {
  const Job& job = g.rows.job;
  for (int64_t k = begin * job.width; k < end * job.width; ++k) {
    if (g.places[k] < 0) continue;
    const T* weight = static_cast<const T*>(job.weight) + g.tokens[g.places[k]] * job.weight_stride;
    add_scaled(weight, 1, g.rows.chosen[k], job.hidden_size, g.of_rows + k / job.width * job.hidden_size);
  }
}

template <class T>
void label_tokens_of(const LabelGradients& g, int64_t begin, int64_t end) {
  const Job& job = g.rows.job;
  const int64_t first = begin * kHiddenPad, n = smaller(job.hidden_size, end * kHiddenPad) - first;
  for (int64_t k = 0; k < job.num_rows * job.width; ++k) {
    if (g.places[k] < 0) continue;
    const T* hidden = static_cast<const T*>(job.hidden) + job.rows[k / job.width].source + first * job.column_stride;
    add_scaled(hidden, job.column_stride, double{g.rows.chosen[k]}, n, g.of_tokens + g.places[k] * job.hidden_size + first);
  }
}

void logits_gradients(const Gradients& g, int64_t begin, int64_t end) {
  by_dtype(g.job.dtype, [&](auto x) { logits_gradients_of<decltype(x)>(g, begin, end); });
}

void spread_chosen(const Gradients& g, int64_t begin, int64_t end) {
  by_dtype(g.job.dtype, [&](auto x) { spread_chosen_of<decltype(x)>(g, begin, end); });
}

void label_rows(const LabelGradients& g, int64_t begin, int64_t end) {
  by_dtype(g.rows.job.dtype, [&](auto x) { label_rows_of<decltype(x)>(g, begin, end); });
}

void label_tokens(const LabelGradients& g, int64_t begin, int64_t end) {
  by_dtype(g.rows.job.dtype, [&](auto x) { label_tokens_of<decltype(x)>(g, begin, end); });
}

void linear_gradients(const Gradients& g, int64_t begin, int64_t end) {
  by_dtype(g.job.dtype, [&](auto x) { linear_gradients_of<decltype(x)>(g, begin, end); });
}

void pack_panels(const PanelRows& p, int64_t begin, int64_t end) {
  by_dtype(p.dtype, [&](auto x) { pack_panels_of<decltype(x)>(p, begin, end); });
}

void sum_rows(const SumOfRows& s, int64_t begin, int64_t end) {
  by_dtype(s.dtype, [&](auto x) { sum_rows_of<decltype(x)>(s, begin, end); });
}

}  // namespace

namespace rrm::RRM_ISA {

extern const LogprobBackwardKernels logprobs_backward;
const LogprobBackwardKernels logprobs_backward = {token_lines, score_lines, logits_gradients, spread_chosen, linear_gradients, pack_panels,
                                                  multiply,    sum_columns, sum_rows,         label_rows,    label_tokens};

}  // namespace rrm::RRM_ISA
