// What this machine can do at best: one read loop and one product loop, compiled for the processor they run on and loaded by floors.py.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

#ifdef __AVX512F__
constexpr int kBytes = 64, kTileRows = 6, kTileColumns = 4;  // 24 accumulators of 32 registers
#else
constexpr int kBytes = 32, kTileRows = 6, kTileColumns = 2;  // 12 of 16
#endif
typedef float Floats __attribute__((vector_size(kBytes)));
typedef uint32_t Words __attribute__((vector_size(kBytes)));
constexpr int kLanes = kBytes / sizeof(float);

template <class Part>
void on_threads(int threads, Part part) {
  std::vector<std::thread> others;
  for (int t = 1; t < threads; t++) others.emplace_back(part, t);
  part(0);
  for (auto& other : others) other.join();
}

uint32_t read_part(const char* data, size_t blocks) {
  constexpr int kStreams = 8;
  Words sums[kStreams] = {};
  for (size_t i = 0; i < blocks; i++) {
    for (int s = 0; s < kStreams; s++) {
      Words word;
      std::memcpy(&word, data + (i * kStreams + s) * kBytes, kBytes);
      sums[s] ^= word;
    }
  }
  uint32_t all = 0;
  for (auto& sum : sums)
    for (int lane = 0; lane < kLanes; lane++) all ^= sum[lane];
  return all;
}

// C[6, 4 vectors] += A[6, depth] B[depth, 4 vectors] with A and B in the first-level cache: the inner loop of any product.
float product_part(int64_t repeats) {
  constexpr int kDepth = 32;
  alignas(64) float a[kDepth * kTileRows];
  alignas(64) float b[kDepth * kTileColumns * kLanes];
  for (float& x : a) x = 1e-3f;
  for (float& x : b) x = 1e-3f;
  Floats c[kTileRows][kTileColumns] = {};
  for (int64_t r = 0; r < repeats; r++) {
    for (int k = 0; k < kDepth; k++) {
      Floats column[kTileColumns];
      std::memcpy(column, b + k * kTileColumns * kLanes, sizeof column);
      for (int i = 0; i < kTileRows; i++)
        for (int j = 0; j < kTileColumns; j++) c[i][j] += a[k * kTileRows + i] * column[j];
    }
    asm volatile("" : : "r"(a), "r"(b) : "memory");  // read again each time
  }
  float sum = 0;
  for (auto& row : c)
    for (auto& column : row)
      for (int lane = 0; lane < kLanes; lane++) sum += column[lane];
  return sum;
}

}  // namespace

// Reads `bytes` once, with so many threads; what is returned keeps the compiler from leaving anything out.
extern "C" uint32_t floor_read(const char* data, size_t bytes, int threads) {
  const size_t blocks = bytes / (8 * kBytes);
  std::vector<uint32_t> found(threads);
  on_threads(threads, [&](int t) {
    const size_t begin = blocks * t / threads, end = blocks * (t + 1) / threads;
    found[t] = read_part(data + begin * 8 * kBytes, end - begin);
  });
  uint32_t all = 0;
  for (uint32_t one : found) all ^= one;
  return all;
}

// Fused multiply-adds at full rate; returns the floating-point operations done (two per multiply-add and lane).
extern "C" double floor_product(int64_t repeats, int threads) {
  std::vector<float> found(threads);
  on_threads(threads, [&](int t) { found[t] = product_part(repeats); });
  volatile float used = found[0];
  (void)used;
  return 2.0 * threads * repeats * 32 * kTileRows * kTileColumns * kLanes;
}
