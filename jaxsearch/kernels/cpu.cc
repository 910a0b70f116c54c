// Kernels of a rollout on CPUs, called by XLA: products of few rows with packed matrices, and
// attention over a paged cache. kernels/__init__.py compiles this file for the processor that runs
// it; models/packed.py and rollout/caches/native.py say what the arrays are.
//
// Invariant: what is computed of a row depends on that row alone. Every sum runs in one fixed
// order, whatever the other rows, the number of threads and who takes which piece. That the tiles
// of a product also round alike is the compiler's doing; tests/test_native.py looks.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// Floats of a vector register; rows and vectors of columns whose sums a product keeps in registers,
// vectors of keys and of values that attention does (AVX has 16 registers, AVX-512 and ARM 32).
#if defined(__AVX512F__)
constexpr int kWidth = 16, kRows = 8, kVectors = 3, kKeyVectors = 4, kValueVectors = 5;
#elif defined(__AVX__)
constexpr int kWidth = 8, kRows = 4, kVectors = 3, kKeyVectors = 2, kValueVectors = 2;
#else
constexpr int kWidth = 4, kRows = 4, kVectors = 6, kKeyVectors = 4, kValueVectors = 4;
#endif
constexpr int kColumns = kVectors * kWidth;
typedef float Vector __attribute__((vector_size(kWidth * sizeof(float))));
typedef int32_t Integers __attribute__((vector_size(kWidth * sizeof(float))));

constexpr int kLine = 16;     // Floats of a cache line.
constexpr int kPanel = 48;    // Columns of a packed matrix that lie next to each other.
constexpr int kDepth = 160;   // Rows of a panel that stay in the first cache for all rows of x.
constexpr int kAhead = 320;   // Rows of a panel by which memory is asked in advance.
constexpr int kQueries = 4;   // Queries that attend together.
constexpr int kTokens = 64;   // Tokens whose weights exist at a time; pages are multiples of it.
constexpr int kLane = 16;     // Tokens whose keys lie next to each other, component by component.
constexpr float kMasked = -1e30f;
static_assert(kPanel % kColumns == 0 && kTokens % (kKeyVectors * kWidth) == 0);

inline Vector load(const float* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

// Of the lanes of a vector, pairwise.
template <typename Join>
inline float reduce(Vector vector, const Join& join) {
  float lanes[kWidth];
  std::memcpy(lanes, &vector, sizeof lanes);
  for (int half = kWidth / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] = join(lanes[i], lanes[i + half]);
  }
  return lanes[0];
}

inline void store(float* to, Vector vector) { std::memcpy(to, &vector, sizeof vector); }

// Runs work(0 … pieces - 1) on XLA's own threads and this one, and returns when all is done. It
// waits for pieces that somebody is at work on only: a pool that is busy cannot block it.
template <typename Work>
void parallel(ffi::ThreadPool& pool, int64_t pieces, const Work& work) {
  struct State {
    std::atomic<int64_t> next{0}, done{0};
  };
  auto state = std::make_shared<State>();
  // Who starts late finds nothing left, and looks at no argument of a caller that has returned.
  auto run = [state, pieces, &work] {
    int64_t piece;
    while ((piece = state->next.fetch_add(1)) < pieces) {
      work(piece);
      state->done.fetch_add(1, std::memory_order_release);
    }
  };
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), pieces) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(decltype(run)(run));
  run();
  for (int spins = 0; state->done.load(std::memory_order_acquire) < pieces; ++spins) {
    if (spins > 1000) std::this_thread::yield();
  }
}

// --- Products ------------------------------------------------------------------------------------

// Adds rows [R] of x [R,depth] times kColumns columns of a panel [depth,kPanel] to out, of which
// `columns` are there: one sum in order, whatever stretches it is cut into. From `ahead` on memory
// is asked for `step` floats with every row of the panel.
template <int R>
void product(const float* x, int64_t D, const float* panel, int64_t depth, bool is_first,
             float* out, int64_t N, int64_t columns, const float* ahead, int step) {
  // The last columns of a matrix pass through memory that has room for all kColumns.
  float room[R * kColumns];
  float* whole = columns == kColumns ? out : room;
  const int64_t stride = columns == kColumns ? N : kColumns;
  if (whole == room && !is_first) {
    for (int r = 0; r < R; ++r) std::memcpy(room + r * kColumns, out + r * N, columns * sizeof(float));
  }
  Vector sums[R][kVectors];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = is_first ? Vector{} : load(whole + r * stride + v * kWidth);
    }
  }
  for (int64_t d = 0; d < depth; ++d, ahead += step) {
    for (int at = 0; at < step; at += kLine) __builtin_prefetch(ahead + at, 0, 2);
    Vector w[kVectors];
    for (int v = 0; v < kVectors; ++v) w[v] = load(panel + d * kPanel + v * kWidth);
    for (int r = 0; r < R; ++r) {
      const float one = x[r * D + d];
      for (int v = 0; v < kVectors; ++v) sums[r][v] += one * w[v];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) store(whole + r * stride + v * kWidth, sums[r][v]);
    if (whole == room) std::memcpy(out + r * N, room + r * kColumns, columns * sizeof(float));
  }
}

// One matrix [D,N] in panels [P,D,kPanel], column n in panel n / kPanel, and its product [M,N].
struct Matrix {
  const float* panels;
  float* out;
  int64_t P, N;
};

// Rows of x [M,D] times one panel of a matrix.
void multiply(const float* x, int64_t M, int64_t D, const Matrix& matrix, int64_t p) {
  // What is asked of memory in advance is spread over the first things that are done with a panel.
  const int64_t tiles = (M + kRows - 1) / kRows * (kPanel / kColumns);
  const int step = std::max<int64_t>(kLine, (kPanel + tiles - 1) / tiles);
  const float* panel = matrix.panels + p * D * kPanel;
  for (int64_t d = 0; d < D; d += kDepth) {
    const int64_t depth = std::min<int64_t>(kDepth, D - d);
    const float* ahead = panel + (d + kAhead) * kPanel;
    const float* enough = ahead + depth * kPanel;
    for (int first = 0; first < kPanel; first += kColumns) {
      const int64_t n = p * kPanel + first;
      const int64_t columns = std::min<int64_t>(kColumns, matrix.N - n);
      if (columns <= 0) continue;
      const auto add = [&](auto tile, int64_t m) {
        tile(x + m * D + d, D, panel + d * kPanel + first, depth, d == 0,
             matrix.out + m * matrix.N + n, matrix.N, columns, ahead, ahead < enough ? step : 0);
        ahead += depth * step;
      };
      int64_t m = 0;
      for (; m + kRows <= M; m += kRows) add(product<kRows>, m);
      for (; m + kRows / 2 <= M; m += kRows / 2) add(product<kRows / 2>, m);
      for (; m < M; ++m) add(product<1>, m);
    }
  }
}

// x [M,D] times each of the matrices.
ffi::Error Products(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::RemainingArgs panels,
                    ffi::RemainingRets outs) {
  const int64_t M = x.dimensions()[0], D = x.dimensions()[1];
  std::vector<Matrix> matrices;
  int64_t total = 0;
  if (panels.size() != outs.size()) return ffi::Error::InvalidArgument("a result per matrix");
  for (size_t i = 0; i < panels.size(); ++i) {
    const auto w = panels.get<ffi::Buffer<ffi::F32>>(i);
    auto out = outs.get<ffi::Buffer<ffi::F32>>(i);
    if (!w.has_value()) return w.error();
    if (!out.has_value()) return out.error();
    const auto shape = w->dimensions();
    const int64_t N = (*out)->dimensions()[1];
    if (shape[1] != D || shape[2] != kPanel || N > shape[0] * kPanel) {
      return ffi::Error::InvalidArgument("a matrix is not packed as [P,D,48]");
    }
    matrices.push_back({w->typed_data(), (*out)->typed_data(), shape[0], N});
    total += matrices.back().P;
  }
  // Neighbouring panels are one thread's: what it asks for in advance comes to its own core.
  const int64_t pieces = std::min<int64_t>(total, std::max<int64_t>(1, pool.num_threads()));
  parallel(pool, pieces, [&, xs = x.typed_data()](int64_t piece) {
    int64_t first = total * piece / pieces, last = total * (piece + 1) / pieces;
    for (const Matrix& matrix : matrices) {
      for (int64_t p = std::max<int64_t>(first, 0); p < std::min(last, matrix.P); ++p) {
        multiply(xs, M, D, matrix, p);
      }
      first -= matrix.P;
      last -= matrix.P;
    }
  });
  return ffi::Error::Success();
}

// --- Attention -----------------------------------------------------------------------------------

// exp(x) for x <= 0, to about 2e-7 of its value; below the smallest normal number 0.
inline Vector exponential(Vector x) {
  const Vector lowest = Vector{} - 87.3f;
  const Integers vanishes = x < lowest;
  x = vanishes ? lowest : x;
  const float shift = 12582912.0f;  // 1.5 * 2**23: adding it rounds to a whole number.
  const Vector n = (x * 1.44269504f + shift) - shift;
  const Vector r = x - n * 0.693359375f + n * 2.12194440e-4f;  // In two parts, Cody and Waite.
  Vector y = Vector{} + 1.9875691500e-4f;
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                        5.0000001201e-1f}) {
    y = y * r + c;
  }
  y = y * r * r + r + 1.0f;
  const Integers exponent = (__builtin_convertvector(n, Integers) + 127) << 23;
  Vector power;
  std::memcpy(&power, &exponent, sizeof power);
  return vanishes ? Vector{} : y * power;
}

// Logits of kQueries queries [H] and kTokens keys, which lie in lanes [kTokens / kLane,H,kLane].
void score(const float* q, int64_t H, const float* keys, const float* ahead, float* logits) {
  for (int first = 0; first < kTokens; first += kKeyVectors * kWidth) {
    Vector sums[kQueries][kKeyVectors] = {};
    for (int64_t h = 0; h < H; ++h) {
      Vector k[kKeyVectors];
      for (int v = 0; v < kKeyVectors; ++v) {
        const int token = first + v * kWidth;
        const int64_t at = (token / kLane * H + h) * kLane + token % kLane;
        if (token % kLane == 0) __builtin_prefetch(ahead + at, 0, 2);
        k[v] = load(keys + at);
      }
      for (int t = 0; t < kQueries; ++t) {
        const float one = q[t * H + h];
        for (int v = 0; v < kKeyVectors; ++v) sums[t][v] += one * k[v];
      }
    }
    for (int t = 0; t < kQueries; ++t) {
      std::memcpy(logits + t * kTokens + first, sums[t], sizeof sums[t]);
    }
  }
}

// out = out * fade + weights * values for V vectors of components; values are [kTokens,H].
template <int V>
void mix(const float* weights, const float* fade, const float* values, int count, int64_t H,
         const float* ahead, float* out) {
  Vector sums[kQueries][V];
  for (int t = 0; t < kQueries; ++t) {
    for (int v = 0; v < V; ++v) sums[t][v] = load(out + t * H + v * kWidth) * fade[t];
  }
  for (int j = 0; j < count; ++j) {
    Vector x[V];
    for (int v = 0; v < V; ++v) {
      if (v * kWidth % kLine == 0) __builtin_prefetch(ahead + j * H + v * kWidth, 0, 2);
      x[v] = load(values + j * H + v * kWidth);
    }
    for (int t = 0; t < kQueries; ++t) {
      const float one = weights[t * kTokens + j];
      for (int v = 0; v < V; ++v) sums[t][v] += one * x[v];
    }
  }
  for (int t = 0; t < kQueries; ++t) {
    for (int v = 0; v < V; ++v) store(out + t * H + v * kWidth, sums[t][v]);
  }
}

void mix_all(const float* weights, const float* fade, const float* values, int count, int64_t H,
             const float* ahead, float* out) {
  int64_t h = 0;
  for (; h + kValueVectors * kWidth <= H; h += kValueVectors * kWidth) {
    mix<kValueVectors>(weights, fade, values + h, count, H, ahead + h, out + h);
  }
  for (; h + kWidth <= H; h += kWidth) {
    mix<1>(weights, fade, values + h, count, H, ahead + h, out + h);
  }
  for (; h < H; ++h) {
    for (int t = 0; t < kQueries; ++t) {
      float sum = out[t * H + h] * fade[t];
      for (int j = 0; j < count; ++j) sum += weights[t * kTokens + j] * values[j * H + h];
      out[t * H + h] = sum;
    }
  }
}

// Softmax attention of kQueries queries, as far as tokens have been seen (arXiv 1805.02867).
struct Tile {
  int64_t last[kQueries];  // The last token that each query sees.
  float top[kQueries], weight[kQueries];
};

// Adds tokens [first, first + kTokens) to a tile whose sums of values are out [kQueries,H].
void attend(const float* q, int64_t H, const float* keys, const float* values, int64_t first,
            const float* keys_ahead, const float* values_ahead, Tile& tile, float* out) {
  const int64_t last = *std::max_element(tile.last, tile.last + kQueries);
  if (last < first) return;
  alignas(64) float weights[kQueries * kTokens];
  float fade[kQueries];
  score(q, H, keys, keys_ahead, weights);
  for (int t = 0; t < kQueries; ++t) {
    float* row = weights + t * kTokens;
    for (int64_t j = std::max<int64_t>(0, tile.last[t] - first + 1); j < kTokens; ++j) {
      row[j] = kMasked;
    }
    Vector highest = load(row), sum{};
    for (int j = kWidth; j < kTokens; j += kWidth) {
      const Vector one = load(row + j);
      highest = highest < one ? one : highest;
    }
    const float most = reduce(highest, [](float a, float b) { return a < b ? b : a; });
    const float top = std::max(tile.top[t], most);
    for (int j = 0; j < kTokens; j += kWidth) {
      const Vector one = exponential(load(row + j) - top);
      store(row + j, one);
      sum += one;
    }
    fade[t] = exponential(Vector{} + (tile.top[t] - top))[0];
    tile.weight[t] = tile.weight[t] * fade[t] + reduce(sum, [](float a, float b) { return a + b; });
    tile.top[t] = top;
  }
  const int count = std::min<int64_t>(kTokens, last - first + 1);
  mix_all(weights, fade, values, count, H, values_ahead, out);
}

// The arrays of one call; all rows' tokens lie in pages of B tokens.
struct Call {
  int64_t R, C, Q, K, H, B, N;
  const float *q, *k, *v;        // [R,C,Q,H] and twice [R,C,K,H].
  float *keys, *values, *out;    // [P,K,B / kLane,H,kLane], [P,K,B,H], [R,C,Q,H].
  const int32_t *pages, *start, *count;  // [R,N], [R], [R].

  // Where the page that holds a token of a row begins, in keys and in values.
  int64_t page(int64_t row, int64_t token, int64_t head) const {
    return (pages[row * N + std::min(token / B, N - 1)] * K + head) * B * H;
  }

  void write(int64_t row, int64_t head) const {
    for (int64_t c = 0; c < count[row]; ++c) {
      const int64_t token = start[row] + c, from = ((row * C + c) * K + head) * H;
      const int64_t at = page(row, token, head), inside = token % B;
      float* key = keys + at + inside / kLane * H * kLane + inside % kLane;
      for (int64_t h = 0; h < H; ++h) key[h * kLane] = k[from + h];
      std::memcpy(values + at + inside * H, v + from, H * sizeof(float));
    }
  }

  void attend_row(int64_t row, int64_t head) const {
    const int64_t G = Q / K, queries = count[row] * G, tiles = (queries + kQueries - 1) / kQueries;
    // Queries of a head, position by position; the last tile is filled up with its last query.
    const auto where = [&](int64_t n) {
      n = std::min(n, queries - 1);
      return ((row * C + n / G) * Q + head * G + n % G) * H;
    };
    std::vector<float> scaled(tiles * kQueries * H), sums(tiles * kQueries * H);
    std::vector<Tile> state(tiles);
    for (int64_t n = 0; n < tiles * kQueries; ++n) {
      std::memcpy(&scaled[n * H], q + where(n), H * sizeof(float));
      Tile& tile = state[n / kQueries];
      tile.last[n % kQueries] = start[row] + std::min(n, queries - 1) / G;
      tile.top[n % kQueries] = kMasked;
      tile.weight[n % kQueries] = 0;
    }
    for (int64_t first = 0; first < start[row] + count[row]; first += kTokens) {
      const int64_t here = page(row, first, head) + first % B * H, then = first + kTokens;
      const int64_t ahead = page(row, then, head) + then % B * H;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t at = tile * kQueries * H;
        attend(&scaled[at], H, keys + here, values + here, first, keys + ahead, values + ahead,
               state[tile], &sums[at]);
      }
    }
    for (int64_t n = 0; n < queries; ++n) {
      const float weight = state[n / kQueries].weight[n % kQueries];
      for (int64_t h = 0; h < H; ++h) out[where(n) + h] = sums[n * H + h] / weight;
    }
  }
};

// Writes the first count[r] tokens of every row behind its first start[r], then lets them attend.
ffi::Error Attend(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> q, ffi::Buffer<ffi::F32> k,
                  ffi::Buffer<ffi::F32> v, ffi::Buffer<ffi::F32> keys,
                  ffi::Buffer<ffi::F32> values, ffi::Buffer<ffi::S32> pages,
                  ffi::Buffer<ffi::S32> start, ffi::Buffer<ffi::S32> count,
                  ffi::ResultBuffer<ffi::F32> out, ffi::ResultBuffer<ffi::F32> keys_out,
                  ffi::ResultBuffer<ffi::F32> values_out) {
  const auto shape = q.dimensions();
  const Call call{shape[0], shape[1], shape[2], k.dimensions()[2], shape[3],
                  values.dimensions()[2], pages.dimensions()[1],
                  q.typed_data(), k.typed_data(), v.typed_data(),
                  keys_out->typed_data(), values_out->typed_data(), out->typed_data(),
                  pages.typed_data(), start.typed_data(), count.typed_data()};
  if (keys.typed_data() != call.keys || values.typed_data() != call.values) {
    return ffi::Error::Internal("the cache is not written in place");
  }
  if (keys.dimensions()[4] != kLane || call.B % kTokens != 0) {
    return ffi::Error::InvalidArgument("pages are not a multiple of 64 tokens, in lanes of 16");
  }
  for (int64_t row = 0; row < call.R; ++row) {
    const int64_t first = call.start[row], many = call.count[row];
    if (many < 0 || many > call.C || (many > 0 && (first < 0 || first + many > call.N * call.B))) {
      return ffi::Error::InvalidArgument("a row has no room for its tokens");
    }
  }
  std::memset(call.out, 0, out->size_bytes());
  for (int64_t row = 0; row < call.R; ++row) {
    for (int64_t head = 0; head < call.K; ++head) call.write(row, head);
  }
  parallel(pool, call.R * call.K, [&call](int64_t piece) {
    const int64_t row = piece / call.K;
    if (call.count[row] > 0) call.attend_row(row, piece % call.K);
  });
  return ffi::Error::Success();
}

}  // namespace

using Floats = ffi::Buffer<ffi::F32>;
using Numbers = ffi::Buffer<ffi::S32>;

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxsearch_products, Products,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .RemainingArgs()
                                  .RemainingRets());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxsearch_attend, Attend,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Numbers>()
                                  .Arg<Numbers>()
                                  .Arg<Numbers>()
                                  .Ret<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Floats>());
