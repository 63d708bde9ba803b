// The gradients of the log-probability ops under the CPU key, with the schemas of rrm_core/logprobs/schema.py.
#include <cmath>

#include "bindings_logprobs.h"

namespace {

using Tensors = std::vector<Tensor>;

const rrm::LogprobBackwardKernels& kernels() {
  return *rrm::table().logprobs_backward;
}

// Of a row: sums of w e and w e^2, see rrm::Gradients.
struct Moments {
  double first = 0.0, second = 0.0;

  void add(const float* blocks, int64_t n) {
    for (int64_t b = 0; b < n; ++b) {
      first += blocks[2 * b];
      second += blocks[2 * b + 1];
    }
  }
};

// The rows of a source that have gradients, with their lines and their ids' own.
struct LiveRows {
  std::vector<rrm::Row> rows;
  std::vector<rrm::Line> lines;
  std::vector<float> chosen;  // [rows, width]

  // Fills lines and chosen by fill(gradients, first row) of one pass after another.
  template <class Fill>
  void find_lines(const Source& s, const Fill& fill) {
    lines.resize(rows.size());
    chosen.resize(rows.size() * s.job.width);
    for_each_pass(s.job, rows, s.pass_rows(), false, [&](const rrm::Job& job, size_t first) { fill(gradients(job, first), first); });
  }

  // Of the rows from `first` on, which are the job's.
  rrm::Gradients gradients(const rrm::Job& job, size_t first) {
    rrm::Gradients g{};
    g.job = job;
    g.lines = lines.data() + first;
    g.chosen = chosen.data() + first * job.width;
    return g;
  }

  void set_rows(rrm::Job& job, size_t first, size_t most) const {
    job.rows = rows.data() + first;
    job.num_rows = std::min(most, rows.size() - first);
  }

  // dL/dz sums to `sum`, whatever the maximum. Where all is -inf, T changes nothing.
  void add_temperature(float* out, size_t i, const Moments& m) const {
    const rrm::Line& line = lines[i];
    if (line.max == -kInfinity) return;
    const double t = rows[i].tempered.temperature, product = line.centred_a * m.first + line.centred_b * m.second + line.at_ids;
    out[rows[i].output] = static_cast<float>(-product / t - (double{line.max} + line.centre) * line.sum / (t * t));
  }
};

// ---- rows and lines of either family

struct TokenRows : LiveRows {
  std::vector<int64_t> ids, order;  // [n, width], -1: no gradient of its own; [rows, width] places of a row's ids, ascending

  TokenRows(Source& s, const Tensor& token_ids, int64_t ignore_index, const Tensor& grad_logprob, const Tensor& grad_entropy,
            const Tensor& grad_logsumexp, const Tensor& entropy, const Tensor& statistics) {
    s.job.width = token_ids.dim() > static_cast<int64_t>(s.leading.size()) ? token_ids.size(token_ids.dim() - 1) : 1;
    const int64_t width = s.job.width;
    const Int64Array given(token_ids, s.n * width);
    const FloatArray of_logprob(grad_logprob, s.n * width), of_entropy(grad_entropy, s.n), of_logsumexp(grad_logsumexp, s.n), found(entropy, s.n),
        stats(statistics, 3 * s.n);
    ids.resize(s.n * width);
    rows.reserve(s.n);
    for (int64_t i = 0; i < s.n; ++i) {
      bool live = false;
      for (int64_t k = i * width; k < (i + 1) * width; ++k) {
        const int64_t id = given.data[k];
        live |= id != ignore_index;
        ids[k] = id == ignore_index || id < 0 || id >= s.job.vocab ? -1 : id;
      }
      const auto row = s.row(i, ids.data() + i * width);
      if (live && row) rows.push_back(*row);
    }
    order.resize(rows.size() * width);
    torch::stable::parallel_for(0, rows.size(), std::max<int64_t>(1, kThreadCost / width), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        int64_t* places = order.data() + i * width;
        std::iota(places, places + width, int64_t{0});
        std::sort(places, places + width, [&](int64_t a, int64_t b) { return std::pair(rows[i].ids[a], a) < std::pair(rows[i].ids[b], b); });
      }
    });
    find_lines(s, [&](const rrm::Gradients& g, size_t first) {
      const rrm::TokenGradients grads{of_logprob.data, of_entropy.data, of_logsumexp.data, found.data, order.data() + first * width, stats.data};
      run(kernels().token_lines, g.job.num_rows, width * 16 + 16, g, grads);
    });
  }
};

struct ScoreRows : LiveRows {
  Int64Array ids, set_of;
  int64_t sets;

  ScoreRows(Source& s, const Tensors& grads, const Tensor& statistics, const Tensor& form_ids, const OptionalTensor& values,
            const OptionalTensor& row_sets, bool full_vocab) {
    STD_TORCH_CHECK(form_ids.dim() == 3 && form_ids.numel() > 0, "form_ids: expected [sets, labels, forms]");
    STD_TORCH_CHECK(grads.size() == 6, "grads: expected those of six results");
    sets = form_ids.size(0);
    const int64_t labels = form_ids.size(1), forms = form_ids.size(2);
    ids = Int64Array(form_ids, sets * labels * forms);
    set_of = Int64Array(row_sets, s.n);
    const FloatArray label_values(values, sets * labels), stats(statistics, 3 * s.n);
    s.job.width = labels * forms;
    s.job.separate_selected = true;
    const auto of = [&](int i, bool asked, int64_t size) { return asked ? FloatArray(grads[i], s.n * size) : FloatArray(); };
    const FloatArray logprob = of(0, full_vocab, labels), conditional = of(1, true, labels), log_mass = of(2, full_vocab, 1),
                     expected = of(3, values.has_value(), 1), variance = of(4, values.has_value(), 1), entropy = of(5, true, 1);
    std::vector<const float*> row_values;
    rows.reserve(s.n);
    for (int64_t i = 0; i < s.n; ++i) {
      const int64_t set = set_of.data ? set_of.data[i] : 0;
      if (set < 0 || set >= sets) continue;
      if (const auto row = s.row(i, ids.data + set * s.job.width)) {
        rows.push_back(*row);
        if (values) row_values.push_back(label_values.data + set * labels);
      }
    }
    std::vector<double> scratch(std::min<int64_t>(s.pass_rows(), rows.size()) * 3 * labels);
    rrm::ScoreGradients of_results{labels,           forms,         scratch.data(), full_vocab,    nullptr,      logprob.data,
                                   conditional.data, log_mass.data, expected.data,  variance.data, entropy.data, stats.data};
    find_lines(s, [&](const rrm::Gradients& g, size_t first) {
      of_results.values = values ? row_values.data() + first : nullptr;
      run(kernels().score_lines, g.job.num_rows, 16 * g.job.width + 16, g, of_results);
    });
  }
};

// ---- from logits

Tensors logits_gradients(const Source& s, LiveRows& live, bool full_vocab, bool need_logits, bool need_temperature) {
  Tensors results;
  const Tensor& logits = s.base;
  const Tensor grad_temperature = zeros(logits, need_temperature ? s.leading : Sizes{0}, ScalarType::Float);
  float* of_temperature = static_cast<float*>(grad_temperature.mutable_data_ptr());
  char* out = nullptr;
  if (need_logits) {
    const Sizes sizes = with(s.leading, s.job.vocab);
    results.push_back(empty(logits, sizes, logits.scalar_type()));
    out = static_cast<char*>(results[0].mutable_data_ptr());
    std::vector<bool> written(s.n);
    for (const rrm::Row& row : live.rows) written[row.output] = true;
    const int64_t row_bytes = s.job.vocab * (s.job.dtype == rrm::DType::kFloat32 ? 4 : 2);
    torch::stable::parallel_for(0, s.n, std::max<int64_t>(1, (1 << 18) / row_bytes), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        if (!written[i]) std::memset(out + i * row_bytes, 0, row_bytes);
    });
  }
  if (full_vocab) {
    std::vector<float> moments(need_temperature ? std::min<size_t>(s.pass_rows(), live.rows.size()) * s.job.num_blocks * 2 : 0);
    for (size_t first = 0; first < live.rows.size(); first += s.pass_rows()) {
      rrm::Gradients g = live.gradients(s.job, first);
      live.set_rows(g.job, first, s.pass_rows());
      g.moments = need_temperature ? moments.data() : nullptr;
      g.logits = out;
      run(kernels().logits_gradients, g.job.num_rows * s.job.num_blocks, std::min(s.job.vocab, rrm::kLogitsBlock), g);
      for (int64_t i = 0; need_temperature && i < g.job.num_rows; ++i) {
        Moments of_row;
        of_row.add(moments.data() + 2 * i * s.job.num_blocks, s.job.num_blocks);
        live.add_temperature(of_temperature, first + i, of_row);
      }
    }
  } else {
    rrm::Gradients g = live.gradients(s.job, 0);
    live.set_rows(g.job, 0, live.rows.size());
    g.logits = out;
    if (need_logits) run(kernels().spread_chosen, g.job.num_rows, s.job.vocab / 16, g);
    for (size_t i = 0; need_temperature && i < live.rows.size(); ++i) live.add_temperature(of_temperature, i, {});
  }
  if (need_temperature) results.push_back(grad_temperature);
  return results;
}

// ---- from hidden states

struct Needs {
  bool hidden, weight, bias, temperature;
};

// Gradients of hidden states and head: fresh tensors, zeros until something is added.
struct HeadGradients {
  const Source& s;
  Needs need;
  Tensor weight, bias, temperature;
  std::vector<float> of_rows;  // [live rows, H] dL/dhidden of each
  int64_t h;

  HeadGradients(const Source& source, const Tensor& of_weight, const LiveRows& live, Needs needs)
      : s(source),
        need(needs),
        weight(zeros(of_weight, needs.weight ? Sizes(of_weight.sizes().begin(), of_weight.sizes().end()) : Sizes{0}, of_weight.scalar_type())),
        bias(zeros(of_weight, {needs.bias ? of_weight.size(0) : 0}, ScalarType::Float)),
        temperature(zeros(of_weight, {needs.temperature ? source.n : 0}, ScalarType::Float)),
        of_rows(needs.hidden ? live.rows.size() * source.job.hidden_size : 0),
        h(source.job.hidden_size) {}

  float* temperature_data() const {
    return static_cast<float*>(temperature.mutable_data_ptr());
  }
  char* weight_data(int64_t row) const {
    return static_cast<char*>(weight.mutable_data_ptr()) + row * h * (s.job.dtype == rrm::DType::kFloat32 ? 4 : 2);
  }
  float* bias_data() const {
    return static_cast<float*>(bias.mutable_data_ptr());
  }

  // Each row of hidden gets the sum of the gradients of the rows it was picked for, in their order.
  Tensor hidden(const LiveRows& live) const {
    const int64_t rows = s.base.size(0), n = live.rows.size();
    const Sizes sizes{rows, h};
    const Tensor out = empty(s.base, sizes, s.base.scalar_type());
    std::vector<int64_t> offsets(rows + 1), order(n);
    const auto source = [&](int64_t i) { return s.rows.data ? s.rows.data[live.rows[i].output] : live.rows[i].output; };
    for (int64_t i = 0; i < n; ++i) ++offsets[source(i) + 1];
    std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
    std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
    for (int64_t i = 0; i < n; ++i) order[next[source(i)]++] = i;
    const rrm::SumOfRows sum{s.job.dtype, out.mutable_data_ptr(), h, of_rows.data(), order.data(), offsets.data()};
    run(kernels().sum_rows, rows, h / 8, sum);
    return out;
  }

  Tensors results(const LiveRows& live) const {
    Tensors found;
    if (need.hidden) found.push_back(hidden(live));
    if (need.weight) found.push_back(weight);
    if (need.bias) found.push_back(bias);
    if (need.temperature) found.push_back(temperature);
    return found;
  }
};

// Every column of the vocabulary, kGradientColumns and kGradientRows at a time.
void add_vocabulary(const Source& s, LiveRows& live, HeadGradients& out) {
  if (live.rows.empty()) return;
  const rrm::LogprobKernels& forward = *rrm::table().logprobs;
  const int64_t n = live.rows.size(), h = out.h, vocab = s.job.vocab;
  const auto padded_to = [](int64_t pad, int64_t size) { return ceil_div(size, pad) * pad; };
  const int64_t padded = padded_to(rrm::kHiddenPad, h), most = std::min(n, rrm::kGradientRows), broad = std::min(vocab, rrm::kGradientColumns);
  const int64_t blocks = ceil_div(broad, rrm::kLinearBlock);
  const bool columns = out.need.weight || out.need.bias, wide = s.job.dtype == rrm::DType::kFloat32;
  std::vector<float> packed(most * padded), moments(out.need.temperature ? most * blocks * 2 : 0);
  std::vector<float> by_row(out.need.hidden ? padded_to(rrm::kPanelPad, most) * broad : 0),
      by_column(columns ? padded_to(rrm::kPanelPad, broad) * most : 0);
  std::vector<float> head(out.need.hidden ? broad * padded : 0), states(out.need.weight ? most * padded : 0);
  std::vector<float> of_weight(out.need.weight && !wide ? broad * h : 0);
  std::vector<double> sums(out.need.bias ? broad : 0);
  std::vector<Moments> moments_of(out.need.temperature ? n : 0);
  for (int64_t column = 0; column < vocab; column += rrm::kGradientColumns) {
    const int64_t size = std::min(vocab - column, rrm::kGradientColumns);
    const int64_t row_bytes = s.job.weight_stride * (wide ? 4 : 2);
    if (out.need.hidden) {
      const rrm::PanelRows p{s.job.dtype, static_cast<const char*>(s.job.weight) + column * row_bytes, nullptr, s.job.weight_stride, 1, h, broad,
                             head.data()};
      run(kernels().pack_panels, size, h / 8, p);
    }
    std::fill(of_weight.begin(), of_weight.end(), 0.0f);
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t first = 0; first < n; first += rrm::kGradientRows) {
      rrm::Gradients g = live.gradients(s.job, first);
      live.set_rows(g.job, first, rrm::kGradientRows);
      g.job.packed = packed.data();
      g.moments = out.need.temperature ? moments.data() : nullptr;
      g.moment_blocks = blocks;
      g.first_column = column;
      g.num_columns = size;
      g.by_row = out.need.hidden ? by_row.data() : nullptr;
      g.by_column = columns ? by_column.data() : nullptr;
      g.row_depth = broad;
      g.column_depth = most;
      const int64_t rows = g.job.num_rows;
      if (column == 0 || n > rrm::kGradientRows) {  // else they are there already
        run(forward.pack_hidden, rows, h / 8, g.job);
        const rrm::PanelRows p{s.job.dtype, s.job.hidden, g.job.rows, 0, s.job.column_stride, h, most, states.data()};
        if (out.need.weight) run(kernels().pack_panels, rows, h / 8, p);
      }
      run(kernels().linear_gradients, ceil_div(rows, rrm::kTaskRows) * ceil_div(size, rrm::kLinearBlock), kThreadCost, g);
      for (int64_t i = 0; out.need.temperature && i < rows; ++i)
        moments_of[first + i].add(moments.data() + 2 * i * blocks, ceil_div(size, rrm::kLinearBlock));
      const auto add = [&](const rrm::PanelProduct& p) {
        run(kernels().multiply, ceil_div(p.rows, rrm::kProductRows) * ceil_div(p.columns, rrm::kProductColumns), kThreadCost, p);
      };
      if (out.need.hidden) add({by_row.data(), broad, head.data(), broad, rows, h, size, out.of_rows.data() + first * h, h});
      if (out.need.weight)
        add({by_column.data(), most, states.data(), most, size, h, rows, wide ? reinterpret_cast<float*>(out.weight_data(column)) : of_weight.data(),
             h});
      if (out.need.bias) run(kernels().sum_columns, size, rows, g, sums.data());
    }
    if (out.need.weight && !wide) {
      cast_rows(of_weight.data(), size, h, s.job.dtype, out.weight_data(column));
    }
    if (out.need.bias) std::copy_n(sums.begin(), size, out.bias_data() + column);
  }
  for (int64_t i = 0; out.need.temperature && i < n; ++i) live.add_temperature(out.temperature_data(), i, moments_of[i]);
}

// The labels' own rows of the head and nothing else.
void add_labels(const Source& s, ScoreRows& live, HeadGradients& out) {
  const int64_t n = live.rows.size(), width = s.job.width, h = out.h;
  std::vector<int64_t> tokens(live.ids.data, live.ids.data + live.sets * width);
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  tokens.erase(std::lower_bound(tokens.begin(), tokens.end(), s.job.vocab), tokens.end());
  tokens.erase(tokens.begin(), std::lower_bound(tokens.begin(), tokens.end(), int64_t{0}));
  std::vector<int64_t> places(n * width, -1);
  std::vector<double> of_bias(tokens.size());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = i * width; k < (i + 1) * width; ++k) {
      const int64_t id = live.rows[i].ids[k - i * width];
      if (id < 0 || id >= s.job.vocab) continue;
      places[k] = std::lower_bound(tokens.begin(), tokens.end(), id) - tokens.begin();
      of_bias[places[k]] += live.chosen[k];
    }
  std::vector<double> of_tokens(out.need.weight ? tokens.size() * h : 0);
  rrm::LabelGradients g{live.gradients(s.job, 0), tokens.data(), places.data(), out.of_rows.data(), of_tokens.data()};
  live.set_rows(g.rows.job, 0, n);
  if (out.need.hidden) run(kernels().label_rows, n, width * h / 8, g);
  if (out.need.weight) {
    run(kernels().label_tokens, ceil_div(h, rrm::kHiddenPad), n * width * 4, g);
    const std::vector<float> rounded(of_tokens.begin(), of_tokens.end());
    for (size_t t = 0; t < tokens.size(); ++t) cast_rows(rounded.data() + t * h, 1, h, s.job.dtype, out.weight_data(tokens[t]));
  }
  for (size_t t = 0; out.need.bias && t < tokens.size(); ++t) out.bias_data()[tokens[t]] = static_cast<float>(of_bias[t]);
  for (int64_t i = 0; out.need.temperature && i < n; ++i) live.add_temperature(out.temperature_data(), i, {});
}

// ---- the ops, with the schemas of rrm_core/logprobs/schema.py

Tensors token_logprobs_backward(Tensor grad_logprob, Tensor grad_entropy, Tensor grad_logsumexp, Tensor entropy, Tensor statistics, Tensor logits,
                                Tensor token_ids, OptionalTensor temperature, int64_t ignore_index, bool need_logits, bool need_temperature) {
  Source s = from_logits(logits, temperature);
  TokenRows live(s, token_ids, ignore_index, grad_logprob, grad_entropy, grad_logsumexp, entropy, statistics);
  return logits_gradients(s, live, true, need_logits, need_temperature && temperature);
}

Tensors linear_token_logprobs_backward(Tensor grad_logprob, Tensor grad_entropy, Tensor grad_logsumexp, Tensor entropy, Tensor statistics,
                                       Tensor hidden, Tensor weight, Tensor token_ids, OptionalTensor rows, OptionalTensor bias,
                                       OptionalTensor temperature, std::optional<double> softcap, int64_t ignore_index, int64_t vocab_size,
                                       bool need_hidden, bool need_weight, bool need_bias, bool need_temperature) {
  Source s = from_hidden(hidden, weight, rows, bias, temperature, softcap, vocab_size);
  TokenRows live(s, token_ids, ignore_index, grad_logprob, grad_entropy, grad_logsumexp, entropy, statistics);
  HeadGradients out(s, weight, live, {need_hidden, need_weight, need_bias && bias, need_temperature && temperature});
  add_vocabulary(s, live, out);
  return out.results(live);
}

Tensors score_token_logprobs_backward(Tensors grads, Tensor statistics, Tensor hidden, Tensor weight, Tensor form_ids, OptionalTensor values,
                                      OptionalTensor rows, OptionalTensor row_sets, OptionalTensor bias, OptionalTensor temperature,
                                      std::optional<double> softcap, bool full_vocab, int64_t vocab_size, bool need_hidden, bool need_weight,
                                      bool need_bias, bool need_temperature) {
  Source s = from_hidden(hidden, weight, rows, bias, temperature, softcap, vocab_size);
  ScoreRows live(s, grads, statistics, form_ids, values, row_sets, full_vocab);
  HeadGradients out(s, weight, live, {need_hidden, need_weight, need_bias && bias, need_temperature && temperature});
  if (full_vocab)
    add_vocabulary(s, live, out);
  else
    add_labels(s, live, out);
  return out.results(live);
}

Tensors score_token_logprobs_from_logits_backward(Tensors grads, Tensor statistics, Tensor logits, Tensor form_ids, OptionalTensor values,
                                                  OptionalTensor row_sets, OptionalTensor temperature, bool full_vocab, bool need_logits,
                                                  bool need_temperature) {
  Source s = from_logits(logits, temperature);
  ScoreRows live(s, grads, statistics, form_ids, values, row_sets, full_vocab);
  return logits_gradients(s, live, full_vocab, need_logits, need_temperature && temperature);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rrm, CPU, m) {
  m.impl("token_logprobs_backward", TORCH_BOX(&token_logprobs_backward));
  m.impl("linear_token_logprobs_backward", TORCH_BOX(&linear_token_logprobs_backward));
  m.impl("score_token_logprobs_backward", TORCH_BOX(&score_token_logprobs_backward));
  m.impl("score_token_logprobs_from_logits_backward", TORCH_BOX(&score_token_logprobs_from_logits_backward));
}
