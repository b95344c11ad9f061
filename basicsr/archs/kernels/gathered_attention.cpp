// Softmax attention in windows whose rows are gathered by index, for one head width at a time.
//
// Compiled on first use by basicsr/archs/gathered_attention.py, which says what the arguments mean, with
//   -DDQ=<width of a query/key head> -DDV=<width of a value head>.
// Plain C++17 with the vector extension of GCC and Clang: sixteen floats wide, which the compiler maps to AVX-512, AVX2
// or NEON. No library but the standard one.
//
// Forward. A lane is a query: sixteen queries are transposed into DQ registers, then every key of the window is visited
// once, eight at a time: DQ multiply-adds give sixteen scores, a polynomial their exponentials, DV multiply-adds the
// sixteen weighted values. Scores never leave the registers, and nothing is summed across lanes.
//
// Backward. Weights are computed again from the saved sums, for sixteen queries and eight keys at a time: with queries
// as lanes for the gradient of the queries, then with channels as lanes for that of keys and values. One thread does
// all windows of one head of one image in their order, so rows that windows share need no locks and sums do not depend
// on the number of threads.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr int LANES = 16;
constexpr int ROW = DQ + DV;  // a packed key and its value
typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES), aligned(4 * LANES)));

inline Vec all(float value) { return Vec{} + value; }

// 2^x for |x| < 126, relative error below 2e-7: round to n, a polynomial on [-1/2, 1/2], n added to the exponent.
inline Vec exp2_lanes(Vec x) {
    const Vec magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer that then sits in the low bits
    const Vec shifted = x + magic;
    const Vec f = x - (shifted - magic);
    Vec p = all(1.33336498402e-3f);
    p = p * f + 9.61817937287e-3f;
    p = p * f + 5.55036059316e-2f;
    p = p * f + 2.40226506e-1f;
    p = p * f + 6.93147182e-1f;
    p = p * f + 1.0f;
    return (Vec)((IntVec)p + ((IntVec)shifted << 23));
}

inline Vec not_below(Vec x, float least) { return x < least ? all(least) : x; }

inline Vec load(const float *from) {
    Vec x;
    std::memcpy(&x, from, sizeof(x));
    return x;
}

constexpr int BLOCK = 8;                    // keys that share the loads of a query
constexpr float LOG2_E = 1.44269504089f;    // scores are in units of log2
constexpr float FAR = -100.0f * LOG2_E;     // added to the scores of places with different labels; layers.py has it too
constexpr float LEAST = -120.0f;            // of an exponent; 2^LEAST counts as nothing

// What is added to the scores of sixteen queries: a number for every key and query, and FAR where labels differ.
struct Bias {
    const float *numbers = nullptr;     // of the first key and these queries; the next key's lie `stride` further
    size_t stride = 0;
    const int32_t *labels = nullptr;    // of the keys
    IntVec own = {};                    // of the queries

    Vec at(int key) const {
        Vec x = load(numbers + key * stride);
        if (labels) x += labels[key] != own ? all(FAR) : Vec{};
        return x;
    }
};

struct Sums {
    Vec shift;        // subtracted from the scores
    Vec weights;      // sum of exponentials
    Vec values[DV];   // sum of exponentials times values, then divided by that
};

// Scores of N keys for sixteen queries.
template <bool BIASED, int N>
inline void scores_of(const Vec *q, const float *keys, const Bias &bias, int first, Vec *score) {
    for (int j = 0; j < N; ++j) score[j] = BIASED ? bias.at(first + j) : Vec{};
    for (int d = 0; d < DQ; ++d)
        for (int j = 0; j < N; ++j) score[j] += q[d] * keys[j * ROW + d];
}

template <bool SHIFT, bool BIASED, int N>
inline void visit_block(const Vec *q, const float *keys, const Bias &bias, int first, Sums &sums) {
    Vec score[N];
    scores_of<BIASED, N>(q, keys, bias, first, score);
    for (int j = 0; j < N; ++j) {
        if (SHIFT) score[j] -= sums.shift;
        if (SHIFT || BIASED) score[j] = not_below(score[j], LEAST);
        score[j] = exp2_lanes(score[j]);
        sums.weights += score[j];
    }
    for (int d = 0; d < DV; ++d) {
        Vec value = sums.values[d];
        for (int j = 0; j < N; ++j) value += score[j] * keys[j * ROW + DQ + d];
        sums.values[d] = value;
    }
}

template <bool SHIFT, bool BIASED>
void visit_keys(const Vec *q, const float *keys, int count, const Bias &bias, Sums &sums) {
    sums.weights = Vec{};
    for (int d = 0; d < DV; ++d) sums.values[d] = Vec{};
    int j = 0;
    for (; j + BLOCK <= count; j += BLOCK)
        visit_block<SHIFT, BIASED, BLOCK>(q, keys + (size_t)j * ROW, bias, j, sums);
    for (; j < count; ++j) visit_block<SHIFT, BIASED, 1>(q, keys + (size_t)j * ROW, bias, j, sums);
    for (int d = 0; d < DV; ++d) sums.values[d] = sums.values[d] / sums.weights;
}

// Exponentials are taken as they are where no score can be large (a bound by the norms of query and key, and by the
// largest bias), so that they neither overflow nor vanish; otherwise the largest score is subtracted first. With a bias
// the bound is lower, for what is FAR must stay far below the others.
template <bool BIASED>
inline void softmax_sums(const Vec *q, float bound, const float *keys, int count, const Bias &bias, Sums &sums) {
    sums.shift = Vec{};
    if (bound < (BIASED ? 60.0f : 100.0f)) return visit_keys<false, BIASED>(q, keys, count, bias, sums);
    Vec largest = all(-INFINITY);
    for (int j = 0; j < count; ++j) {
        Vec score;
        scores_of<BIASED, 1>(q, keys + (size_t)j * ROW, bias, j, &score);
        largest = score > largest ? score : largest;
    }
    sums.shift = largest;
    visit_keys<true, BIASED>(q, keys, count, bias, sums);
}

float largest_norm(const float *rows, int count, int stride) {
    float largest = 0;
    for (int j = 0; j < count; ++j) {
        float square = 0;
        for (int d = 0; d < DQ; ++d) square += rows[(size_t)j * stride + d] * rows[(size_t)j * stride + d];
        largest = std::max(largest, square);
    }
    return std::sqrt(largest);
}

// The shapes of a call; see Windows and Heads in gathered_attention.py.
struct Layout {
    const int32_t *rows;
    int64_t images, windows, places, step;
    int queries, keys;
    int64_t valid;
    int globals, heads;
    float scale;
    int scatter;
    const float *bias;      // (heads, keys, padded queries), in units of log2; null: none
    const int32_t *labels;  // (windows, keys); null: none
    int64_t uniform;        // windows at the beginning whose labels are all the same

    int width() const { return heads * (2 * DQ + DV); }
    int padded_queries() const { return (queries + LANES - 1) / LANES * LANES; }
    // Whether every row is the query of one place and the key of that place, beside those that padding repeats.
    bool each_row_once() const { return scatter && step == keys; }
    size_t bias_size() const { return (size_t)keys * padded_queries(); }
    // Of the queries `first` and the fifteen after it.
    Bias bias_of(int head, int64_t window, int first) const {
        Bias result;
        if (!bias) return result;
        result.numbers = bias + head * bias_size() + first;
        result.stride = padded_queries();
        if (labels && window >= uniform) {
            result.labels = labels + window * keys;
            std::memcpy(&result.own, result.labels + first, sizeof(int32_t) * std::min(LANES, queries - first));
        }
        return result;
    }
    const int32_t *index(int64_t image, int64_t window) const { return rows + image * places + window * step; }
    int real_queries(int64_t window) const {
        return (int)std::max<int64_t>(0, std::min<int64_t>(queries, valid - window * step));
    }
    // Where the output of a query lies, in rows of heads * DV.
    size_t target(int64_t image, int64_t window, int query) const {
        if (scatter) return (size_t)index(image, window)[query];
        return (size_t)((image * windows + window) * queries + query);
    }
    size_t query_at(int32_t row, int head) const { return (size_t)row * width() + head * DQ; }
    size_t key_at(int32_t row, int head) const { return query_at(row, head) + heads * DQ; }
    size_t value_at(int32_t row, int head) const { return (size_t)row * width() + 2 * heads * DQ + head * DV; }
    void pack_keys(const float *qkv, const int32_t *index, int head, float *packed) const {
        for (int j = 0; j < keys; ++j) {
            std::memcpy(packed + (size_t)j * ROW, qkv + key_at(index[j], head), sizeof(float) * DQ);
            std::memcpy(packed + (size_t)j * ROW + DQ, qkv + value_at(index[j], head), sizeof(float) * DV);
        }
    }
};

// With OpenMP the threads are PyTorch's own. Threads beside those would wait for them: they keep a core busy for a while
// after every call, in case another one follows.
template <class Task>
void run_tasks(int64_t tasks, int threads, Task task) {
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t i = 0; i < tasks; ++i) task(i);
#else
    std::atomic<int64_t> next{0};
    auto work = [&]() {
        for (int64_t i; (i = next.fetch_add(1)) < tasks;) task(i);
    };
    std::vector<std::thread> helpers;
    for (int t = 1; t < threads; ++t) helpers.emplace_back(work);
    work();
    for (auto &helper : helpers) helper.join();
#endif
}

// Four numbers a query and head tell the backward pass its weights: exp2(score - shift) * inverse, window then globals.
constexpr int STATS = 4;

void attend_window(const Layout &l, const float *qkv, const float *global_keys, const float *global_norms,
                   const float *largest_bias, float *out, float *window_out, float *stats, int64_t image, int64_t window, int first_head, int end_head,
                   float *packed) {
    const float log2_scale = l.scale * LOG2_E;
    const int32_t *index = l.index(image, window);
    const int real = l.real_queries(window);
    for (int h = first_head; h < end_head && real > 0; ++h) {
        l.pack_keys(qkv, index, h, packed);
        const float key_norm = largest_norm(packed, l.keys, ROW);
        for (int first = 0; first < real; first += LANES) {
            const int count = std::min(LANES, real - first);
            alignas(64) float lanes[DQ][LANES] = {};
            float q_norm = 0;
            for (int i = 0; i < count; ++i) {
                const float *source = qkv + l.query_at(index[first + i], h);
                float square = 0;
                for (int d = 0; d < DQ; ++d) {
                    lanes[d][i] = source[d] * log2_scale;
                    square += lanes[d][i] * lanes[d][i];
                }
                q_norm = std::max(q_norm, square);
            }
            q_norm = std::sqrt(q_norm);
            Vec q[DQ];
            std::memcpy(q, lanes, sizeof(q));
            Sums local, other;
            const Bias bias = l.bias_of(h, window, first);
            if (l.bias)
                softmax_sums<true>(q, q_norm * key_norm + largest_bias[h], packed, l.keys, bias, local);
            else
                softmax_sums<false>(q, q_norm * key_norm, packed, l.keys, bias, local);
            if (l.globals > 0)
                softmax_sums<false>(q, q_norm * global_norms[h], global_keys + (size_t)h * l.globals * ROW, l.globals,
                                    Bias(), other);
            alignas(64) float result[DV][LANES];
            if (window_out) {
                std::memcpy(result, local.values, sizeof(result));
                for (int i = 0; i < count; ++i)
                    for (int d = 0; d < DV; ++d)
                        window_out[(l.target(image, window, first + i) * l.heads + h) * DV + d] = result[d][i];
            }
            if (stats) {
                alignas(64) float numbers[STATS][LANES] = {};
                const Vec inverse = 1.0f / local.weights;
                std::memcpy(numbers[0], &local.shift, sizeof(Vec));
                std::memcpy(numbers[1], &inverse, sizeof(Vec));
                if (l.globals > 0) {
                    const Vec other_inverse = 1.0f / other.weights;
                    std::memcpy(numbers[2], &other.shift, sizeof(Vec));
                    std::memcpy(numbers[3], &other_inverse, sizeof(Vec));
                }
                for (int i = 0; i < count; ++i)
                    for (int n = 0; n < STATS; ++n)
                        stats[(l.target(image, window, first + i) * l.heads + h) * STATS + n] = numbers[n][i];
            }
            if (l.globals > 0)
                for (int d = 0; d < DV; ++d) local.values[d] += other.values[d];
            std::memcpy(result, local.values, sizeof(result));
            for (int i = 0; i < count; ++i) {
                float *target = out + (l.target(image, window, first + i) * l.heads + h) * DV;
                for (int d = 0; d < DV; ++d) target[d] = result[d][i];
            }
        }
    }
}

// The backward pass keeps rows of sixteen floats at a time, zeros behind what there is.
constexpr int QUERY_VECS = (DQ + LANES - 1) / LANES, VALUE_VECS = (DV + LANES - 1) / LANES;
constexpr int GRAD_ROW = (QUERY_VECS + VALUE_VECS) * LANES;  // gradient of a key and of its value

// Sixteen queries of the backward pass. Scaled queries and gradients of their outputs twice, a lane being a query or a
// channel; the numbers that give their weights; and the gradient of the queries.
struct Queries {
    Vec q[DQ], grad[DV], dq[DQ], shift, inverse, delta;
    Vec q_rows[LANES][QUERY_VECS], grad_rows[LANES][VALUE_VECS];
};

// Sums over queries i of weight[j][i] * row[i], added to the rows of N keys.
template <int VECS, int N>
inline void add_rows(const float (*weight)[LANES], const Vec (*rows)[VECS], float *keys) {
    for (int v = 0; v < VECS; ++v) {
        Vec sum[N];
        for (int j = 0; j < N; ++j) sum[j] = load(keys + (size_t)j * GRAD_ROW + v * LANES);
        for (int i = 0; i < LANES; ++i)
            for (int j = 0; j < N; ++j) sum[j] += weight[j][i] * rows[i][v];
        for (int j = 0; j < N; ++j) std::memcpy(keys + (size_t)j * GRAD_ROW + v * LANES, &sum[j], sizeof(Vec));
    }
}

// What N keys and sixteen queries say about each other's gradients, and about those of the bias between them.
template <bool BIASED, int N>
inline void gradients_of(Queries &x, const float *keys, const Bias &bias, int first, float *dkv, float *dbias) {
    Vec weight[N], slope[N];
    scores_of<BIASED, N>(x.q, keys, bias, first, weight);
    for (int j = 0; j < N; ++j) slope[j] = -x.delta;
    for (int d = 0; d < DV; ++d)
        for (int j = 0; j < N; ++j) slope[j] += x.grad[d] * keys[j * ROW + DQ + d];
    for (int j = 0; j < N; ++j) {
        weight[j] = exp2_lanes(not_below(weight[j] - x.shift, LEAST)) * x.inverse;
        slope[j] *= weight[j];
    }
    for (int d = 0; d < DQ; ++d) {
        Vec sum = x.dq[d];
        for (int j = 0; j < N; ++j) sum += slope[j] * keys[j * ROW + d];
        x.dq[d] = sum;
    }
    alignas(64) float weights[N][LANES], slopes[N][LANES];
    std::memcpy(weights, weight, sizeof(weight));
    std::memcpy(slopes, slope, sizeof(slope));
    add_rows<QUERY_VECS, N>(slopes, x.q_rows, dkv);
    add_rows<VALUE_VECS, N>(weights, x.grad_rows, dkv + QUERY_VECS * LANES);
    if (dbias)
        for (int j = 0; j < N; ++j) {
            const Vec sum = load(dbias + j * bias.stride) + slope[j];
            std::memcpy(dbias + j * bias.stride, &sum, sizeof(Vec));
        }
}

template <bool BIASED>
void all_gradients(Queries &x, const float *keys, int count, const Bias &bias, float *dkv, float *dbias) {
    int j = 0;
    for (; j + BLOCK <= count; j += BLOCK)
        gradients_of<BIASED, BLOCK>(x, keys + (size_t)j * ROW, bias, j, dkv + (size_t)j * GRAD_ROW,
                                    dbias ? dbias + j * bias.stride : nullptr);
    for (; j < count; ++j)
        gradients_of<BIASED, 1>(x, keys + (size_t)j * ROW, bias, j, dkv + (size_t)j * GRAD_ROW,
                                dbias ? dbias + j * bias.stride : nullptr);
}

// All windows of one head of one image, in order.
void backward_head(const Layout &l, const float *qkv, const float *global_keys, const float *out,
                   const float *window_out, const float *stats, const float *grad_out, float *grad_qkv,
                   float *grad_global, float *grad_bias, int64_t image, int h) {
    const float log2_scale = l.scale * LOG2_E, undo_log2 = 1 / LOG2_E;
    std::vector<float> packed((size_t)l.keys * ROW), dkv((size_t)l.keys * GRAD_ROW);
    std::vector<float> dglobal((size_t)l.globals * GRAD_ROW);
    if (grad_bias) grad_bias += (image * l.heads + h) * l.bias_size();
    for (int64_t window = 0; window < l.windows; ++window) {
        const int32_t *index = l.index(image, window);
        const int real = l.real_queries(window);
        if (real == 0) continue;
        l.pack_keys(qkv, index, h, packed.data());
        std::fill(dkv.begin(), dkv.end(), 0.0f);
        for (int first = 0; first < real; first += LANES) {
            const int count = std::min(LANES, real - first);
            for (int part = 0; part < (l.globals > 0 ? 2 : 1); ++part) {  // the window's keys, then the global ones
                alignas(64) float lanes[DQ + DV + 3][LANES] = {};
                Queries x = {};
                for (int i = 0; i < count; ++i) {
                    const size_t at = l.target(image, window, first + i) * l.heads + h;
                    const float *source = qkv + l.query_at(index[first + i], h);
                    for (int d = 0; d < DQ; ++d) lanes[d][i] = source[d] * log2_scale;
                    for (int d = 0; d < DV; ++d) {
                        const float own = window_out ? window_out[at * DV + d] : out[at * DV + d];
                        lanes[DQ + d][i] = grad_out[at * DV + d];
                        lanes[DQ + DV + 2][i] += grad_out[at * DV + d] * (part == 0 ? own : out[at * DV + d] - own);
                    }
                    lanes[DQ + DV][i] = stats[at * STATS + 2 * part];
                    lanes[DQ + DV + 1][i] = stats[at * STATS + 2 * part + 1];  // 0 for lanes without a query
                    alignas(64) float row[GRAD_ROW] = {};
                    for (int d = 0; d < DQ; ++d) row[d] = lanes[d][i];
                    for (int d = 0; d < DV; ++d) row[QUERY_VECS * LANES + d] = lanes[DQ + d][i];
                    std::memcpy(x.q_rows[i], row, sizeof(x.q_rows[i]));
                    std::memcpy(x.grad_rows[i], row + QUERY_VECS * LANES, sizeof(x.grad_rows[i]));
                }
                std::memcpy(x.q, lanes[0], sizeof(x.q));
                std::memcpy(x.grad, lanes[DQ], sizeof(x.grad));
                x.shift = load(lanes[DQ + DV]);
                x.inverse = load(lanes[DQ + DV + 1]);
                x.delta = load(lanes[DQ + DV + 2]);
                if (part == 1)
                    all_gradients<false>(x, global_keys + (size_t)h * l.globals * ROW, l.globals, Bias(),
                                         dglobal.data(), nullptr);
                else if (l.bias)
                    all_gradients<true>(x, packed.data(), l.keys, l.bias_of(h, window, first), dkv.data(),
                                        grad_bias ? grad_bias + first : nullptr);
                else
                    all_gradients<false>(x, packed.data(), l.keys, Bias(), dkv.data(), nullptr);
                alignas(64) float dq[DQ][LANES];
                std::memcpy(dq, x.dq, sizeof(dq));
                for (int i = 0; i < count; ++i) {
                    float *target = grad_qkv + l.query_at(index[first + i], h);
                    if (part == 0 && l.each_row_once())
                        for (int d = 0; d < DQ; ++d) target[d] = l.scale * dq[d][i];
                    else
                        for (int d = 0; d < DQ; ++d) target[d] += l.scale * dq[d][i];
                }
            }
        }
        for (int j = 0; j < l.keys; ++j) {
            const float *row = &dkv[(size_t)j * GRAD_ROW], *value_row = row + QUERY_VECS * LANES;
            float *key = grad_qkv + l.key_at(index[j], h), *value = grad_qkv + l.value_at(index[j], h);
            if (l.each_row_once() && window * l.step + j < l.valid) {  // the first time that this row comes
                for (int d = 0; d < DQ; ++d) key[d] = undo_log2 * row[d];
                for (int d = 0; d < DV; ++d) value[d] = value_row[d];
            } else {
                for (int d = 0; d < DQ; ++d) key[d] += undo_log2 * row[d];
                for (int d = 0; d < DV; ++d) value[d] += value_row[d];
            }
        }
    }
    for (int j = 0; j < l.globals; ++j) {
        const float *row = &dglobal[(size_t)j * GRAD_ROW];
        float *target = grad_global + ((image * l.heads + h) * l.globals + j) * ROW;
        for (int d = 0; d < DQ; ++d) target[d] += undo_log2 * row[d];
        for (int d = 0; d < DV; ++d) target[DQ + d] += row[QUERY_VECS * LANES + d];
    }
}

}  // namespace

extern "C" {

// `window_out` and `stats` are what the backward pass needs; null where there will be none.
void forward(Layout l, const float *qkv, const float *global_keys, float *out, float *window_out, float *stats,
             int threads) {
    std::vector<float> global_norms(l.heads, 0.0f), largest_bias(l.heads, 0.0f);
    for (int h = 0; h < l.heads && l.globals > 0; ++h)
        global_norms[h] = largest_norm(global_keys + (size_t)h * l.globals * ROW, l.globals, ROW);
    for (int h = 0; h < l.heads && l.bias; ++h)
        for (size_t i = 0; i < l.bias_size(); ++i)
            largest_bias[h] = std::max(largest_bias[h], std::fabs(l.bias[h * l.bias_size() + i]));
    // Few large windows would leave threads idle at the end, and the biases of all heads at once are too large for a
    // cache: then every head is a task of its own, all windows of one head before those of the next.
    const int64_t windows = l.images * l.windows;
    const int heads = l.bias || windows < 16 * threads ? 1 : l.heads;
    run_tasks(windows * (l.heads / heads), threads, [&](int64_t task) {
        thread_local std::vector<float> packed;
        packed.resize((size_t)l.keys * ROW);
        const int64_t window = task % windows;
        const int head = (int)(task / windows) * heads;
        attend_window(l, qkv, global_keys, global_norms.data(), largest_bias.data(), out, window_out, stats,
                      window / l.windows, window % l.windows, head, head + heads, packed.data());
    });
}

// Adds to `grad_qkv` (rows, width), `grad_global` (images, heads, globals, ROW) and `grad_bias` (images, heads, keys,
// padded queries), which come as zeros; the last may be null. With `scatter` and step = keys, `grad_qkv` is written
// whatever was in it.
void backward(Layout l, const float *qkv, const float *global_keys, const float *out, const float *window_out,
              const float *stats, const float *grad_out, float *grad_qkv, float *grad_global, float *grad_bias,
              int threads) {
    run_tasks(l.images * l.heads, threads, [&](int64_t task) {  // neighbouring tasks write to different images
        backward_head(l, qkv, global_keys, out, window_out, stats, grad_out, grad_qkv, grad_global, grad_bias,
                      task % l.images, (int)(task / l.images));
    });
}

}  // extern "C"
