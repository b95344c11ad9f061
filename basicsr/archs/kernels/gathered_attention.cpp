// Softmax attention in windows whose rows are gathered by index, for one head width at a time.
//
// Compiled on first use by basicsr/archs/gathered_attention.py, which says what the arguments mean, with
//   -DDQ=<width of a query/key head> -DDV=<width of a value head>.
// Plain C++17 with the vector extension of GCC and Clang: sixteen floats wide, which the compiler maps to AVX-512, AVX2
// or NEON. No library but the standard one.
//
// Forward. A lane is a query: sixteen queries are transposed into DQ registers, then every key of the window is visited
// once: DQ multiply-adds give sixteen scores, a polynomial their exponentials, DV multiply-adds the sixteen weighted
// values. Scores never leave the registers, and nothing is summed across lanes.
//
// Backward. Weights are computed again from the saved sums, twice: with queries as lanes for the gradient of the
// queries, with keys as lanes for that of keys and values. One thread does all windows of one head of one image in
// their order, so rows that windows share need no locks and sums do not depend on the number of threads.

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

struct Sums {
    Vec shift;        // subtracted from the scores
    Vec weights;      // sum of exponentials
    Vec values[DV];   // sum of exponentials times values, then divided by that
};

template <bool SHIFT>
inline void visit_keys(const Vec *q, const float *keys, int count, Sums &sums) {
    const Vec shift = sums.shift;
    Vec weights = {};
    Vec values[DV] = {};
    for (int j = 0; j < count; ++j) {
        const float *key = keys + (size_t)j * ROW;
        Vec score = q[0] * key[0];
        for (int d = 1; d < DQ; ++d) score += q[d] * key[d];
        if (SHIFT) score = not_below(score - shift, -120.0f);
        const Vec weight = exp2_lanes(score);
        weights += weight;
        for (int d = 0; d < DV; ++d) values[d] += weight * key[DQ + d];
    }
    sums.weights = weights;
    for (int d = 0; d < DV; ++d) sums.values[d] = values[d] / weights;
}

// Exponentials are taken as they are where no score can pass +-100 (a bound by the norms of query and key), so that
// they neither overflow nor vanish; otherwise the largest score is subtracted first.
inline void softmax_sums(const Vec *q, float q_norm, const float *keys, float key_norm, int count, Sums &sums) {
    sums.shift = Vec{};
    if (q_norm * key_norm < 100.0f) return visit_keys<false>(q, keys, count, sums);
    Vec largest = all(-INFINITY);
    for (int j = 0; j < count; ++j) {
        Vec score = q[0] * keys[(size_t)j * ROW];
        for (int d = 1; d < DQ; ++d) score += q[d] * keys[(size_t)j * ROW + d];
        largest = score > largest ? score : largest;
    }
    sums.shift = largest;
    visit_keys<true>(q, keys, count, sums);
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

    int width() const { return heads * (2 * DQ + DV); }
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

template <class Task>
void run_tasks(int64_t tasks, int threads, Task task) {
    std::atomic<int64_t> next{0};
    auto work = [&]() {
        for (int64_t i; (i = next.fetch_add(1)) < tasks;) task(i);
    };
    std::vector<std::thread> helpers;
    for (int t = 1; t < threads; ++t) helpers.emplace_back(work);
    work();
    for (auto &helper : helpers) helper.join();
}

// Four numbers a query and head tell the backward pass its weights: exp2(score - shift) * inverse, window then globals.
constexpr int STATS = 4;

void attend_window(const Layout &l, const float *qkv, const float *global_keys, const float *global_norms, float *out,
                   float *window_out, float *stats, int64_t image, int64_t window, int first_head, int end_head,
                   float *packed) {
    const float log2_scale = l.scale * 1.44269504089f;
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
            softmax_sums(q, q_norm, packed, key_norm, l.keys, local);
            if (l.globals > 0)
                softmax_sums(q, q_norm, global_keys + (size_t)h * l.globals * ROW, global_norms[h], l.globals, other);
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

// A query of the backward pass: the scaled query, the gradient of its output, and the numbers that give its weights.
struct Query {
    float q[DQ], grad[DV], shift, inverse, delta;
};

// Gradient of sixteen queries (lanes) from all keys.
inline void query_gradient(const Query *queries, int count, const float *keys, int key_count, float scale,
                           float (*dq)[DQ]) {
    alignas(64) float lanes[DQ + DV + 3][LANES] = {};
    for (int i = 0; i < count; ++i) {
        for (int d = 0; d < DQ; ++d) lanes[d][i] = queries[i].q[d];
        for (int d = 0; d < DV; ++d) lanes[DQ + d][i] = queries[i].grad[d];
        lanes[DQ + DV][i] = queries[i].shift;
        lanes[DQ + DV + 1][i] = queries[i].inverse;
        lanes[DQ + DV + 2][i] = queries[i].delta;
    }
    Vec q[DQ], grad[DV], shift, inverse, delta, sum[DQ] = {};
    std::memcpy(q, lanes[0], sizeof(q));
    std::memcpy(grad, lanes[DQ], sizeof(grad));
    std::memcpy(&shift, lanes[DQ + DV], sizeof(Vec));
    std::memcpy(&inverse, lanes[DQ + DV + 1], sizeof(Vec));
    std::memcpy(&delta, lanes[DQ + DV + 2], sizeof(Vec));
    for (int j = 0; j < key_count; ++j) {
        const float *key = keys + (size_t)j * ROW;
        Vec score = q[0] * key[0] - shift, product = grad[0] * key[DQ] - delta;
        for (int d = 1; d < DQ; ++d) score += q[d] * key[d];
        for (int d = 1; d < DV; ++d) product += grad[d] * key[DQ + d];
        const Vec slope = exp2_lanes(not_below(score, -120.0f)) * inverse * product;
        for (int d = 0; d < DQ; ++d) sum[d] += slope * key[d];
    }
    std::memcpy(lanes[0], sum, sizeof(sum));
    for (int i = 0; i < count; ++i)
        for (int d = 0; d < DQ; ++d) dq[i][d] += scale * lanes[d][i];
}

// Gradient of sixteen keys (lanes) and their values from all queries.
inline void key_gradient(const float *keys, int count, const Query *queries, int query_count, float (*dkv)[ROW]) {
    alignas(64) float lanes[ROW][LANES] = {};
    for (int i = 0; i < count; ++i)
        for (int d = 0; d < ROW; ++d) lanes[d][i] = keys[(size_t)i * ROW + d];
    Vec row[ROW], dk[DQ] = {}, dv[DV] = {};
    std::memcpy(row, lanes, sizeof(row));
    for (int j = 0; j < query_count; ++j) {
        const Query &query = queries[j];
        Vec score = row[0] * query.q[0] - query.shift, product = row[DQ] * query.grad[0] - query.delta;
        for (int d = 1; d < DQ; ++d) score += row[d] * query.q[d];
        for (int d = 1; d < DV; ++d) product += row[DQ + d] * query.grad[d];
        const Vec weight = exp2_lanes(not_below(score, -120.0f)) * query.inverse;
        const Vec slope = weight * product;
        for (int d = 0; d < DV; ++d) dv[d] += weight * query.grad[d];
        for (int d = 0; d < DQ; ++d) dk[d] += slope * query.q[d];
    }
    std::memcpy(lanes[0], dk, sizeof(dk));
    std::memcpy(lanes[DQ], dv, sizeof(dv));
    const float undo_log2 = 0.693147180560f;  // queries came scaled by log2(e)
    for (int i = 0; i < count; ++i) {
        for (int d = 0; d < DQ; ++d) dkv[i][d] += undo_log2 * lanes[d][i];
        for (int d = DQ; d < ROW; ++d) dkv[i][d] += lanes[d][i];
    }
}

void all_gradients(const std::vector<Query> &queries, const float *keys, int key_count, float scale, float (*dq)[DQ],
                   float (*dkv)[ROW]) {
    const int count = (int)queries.size();
    for (int i = 0; i < count; i += LANES)
        query_gradient(&queries[i], std::min(LANES, count - i), keys, key_count, scale, dq + i);
    for (int j = 0; j < key_count; j += LANES)
        key_gradient(keys + (size_t)j * ROW, std::min(LANES, key_count - j), queries.data(), count, dkv + j);
}

// All windows of one head of one image, in order.
void backward_head(const Layout &l, const float *qkv, const float *global_keys, const float *out,
                   const float *window_out, const float *stats, const float *grad_out, float *grad_qkv,
                   float *grad_global, int64_t image, int h) {
    const float log2_scale = l.scale * 1.44269504089f;
    std::vector<float> packed((size_t)l.keys * ROW), dkv((size_t)l.keys * ROW), dq((size_t)l.queries * DQ);
    std::vector<Query> queries;
    for (int64_t window = 0; window < l.windows; ++window) {
        const int32_t *index = l.index(image, window);
        const int real = l.real_queries(window);
        if (real == 0) continue;
        l.pack_keys(qkv, index, h, packed.data());
        std::fill(dkv.begin(), dkv.end(), 0.0f);
        std::fill(dq.begin(), dq.end(), 0.0f);
        queries.resize(real);
        for (int part = 0; part < (l.globals > 0 ? 2 : 1); ++part) {  // the window's keys, then the global ones
            for (int i = 0; i < real; ++i) {
                Query &query = queries[i];
                const size_t at = l.target(image, window, i) * l.heads + h;
                const float *source = qkv + l.query_at(index[i], h);
                for (int d = 0; d < DQ; ++d) query.q[d] = source[d] * log2_scale;
                query.delta = 0;
                for (int d = 0; d < DV; ++d) {
                    const float own = window_out ? window_out[at * DV + d] : out[at * DV + d];
                    query.grad[d] = grad_out[at * DV + d];
                    query.delta += query.grad[d] * (part == 0 ? own : out[at * DV + d] - own);
                }
                query.shift = stats[at * STATS + 2 * part];
                query.inverse = stats[at * STATS + 2 * part + 1];
            }
            auto dq_rows = reinterpret_cast<float (*)[DQ]>(dq.data());
            if (part == 0) {
                all_gradients(queries, packed.data(), l.keys, l.scale, dq_rows,
                              reinterpret_cast<float (*)[ROW]>(dkv.data()));
            } else {
                const size_t at = (size_t)h * l.globals * ROW;
                all_gradients(queries, global_keys + at, l.globals, l.scale, dq_rows,
                              reinterpret_cast<float (*)[ROW]>(grad_global + image * l.heads * l.globals * ROW + at));
            }
        }
        for (int i = 0; i < real; ++i)
            for (int d = 0; d < DQ; ++d) grad_qkv[l.query_at(index[i], h) + d] += dq[(size_t)i * DQ + d];
        for (int j = 0; j < l.keys; ++j) {
            for (int d = 0; d < DQ; ++d) grad_qkv[l.key_at(index[j], h) + d] += dkv[(size_t)j * ROW + d];
            for (int d = 0; d < DV; ++d) grad_qkv[l.value_at(index[j], h) + d] += dkv[(size_t)j * ROW + DQ + d];
        }
    }
}

}  // namespace

extern "C" {

// `window_out` and `stats` are what the backward pass needs; null where there will be none.
void forward(Layout l, const float *qkv, const float *global_keys, float *out, float *window_out, float *stats,
             int threads) {
    std::vector<float> global_norms(l.heads, 0.0f);
    for (int h = 0; h < l.heads && l.globals > 0; ++h)
        global_norms[h] = largest_norm(global_keys + (size_t)h * l.globals * ROW, l.globals, ROW);
    // Few large windows would leave threads idle at the end: then every head is a task of its own.
    const int tasks_a_window = l.images * l.windows < 16 * threads ? l.heads : 1, heads = l.heads / tasks_a_window;
    run_tasks(l.images * l.windows * tasks_a_window, threads, [&](int64_t task) {
        thread_local std::vector<float> packed;
        packed.resize((size_t)l.keys * ROW);
        const int64_t window = task / tasks_a_window;
        const int head = (int)(task % tasks_a_window) * heads;
        attend_window(l, qkv, global_keys, global_norms.data(), out, window_out, stats, window / l.windows,
                      window % l.windows, head, head + heads, packed.data());
    });
}

// Adds to `grad_qkv` (rows, width) and `grad_global` (images, heads, globals, ROW), which come as zeros.
void backward(Layout l, const float *qkv, const float *global_keys, const float *out, const float *window_out,
              const float *stats, const float *grad_out, float *grad_qkv, float *grad_global, int threads) {
    run_tasks(l.images * l.heads, threads, [&](int64_t task) {  // neighbouring tasks write to different images
        backward_head(l, qkv, global_keys, out, window_out, stats, grad_out, grad_qkv, grad_global, task % l.images,
                      (int)(task / l.images));
    });
}

}  // extern "C"
