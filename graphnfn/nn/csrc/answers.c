/* Networks on inputs, network by network, and the gradient with respect to the inputs; answers.py writes the structures
 * below as rows of eight-byte integers. A state is [places, neurons, lanes]: a sample is a lane of a vector, and lanes is
 * the number of samples rounded up to whole vectors. */

#include "neurons.h"

/* seen is [networks, neurons, kinds, samples]: the means over places, and with two kinds the roots of the mean squares */
typedef struct {
    int64_t n, places, act, kinds, seen_stride, bias_stride, bias_step;
    double scale;
    const REAL *bias;
    REAL *seen;
    const REAL *seen_grad;
} Group;

/* target place q reads tap[e] at source place from[e] for the entries start[q] <= e < start[q + 1] */
typedef struct {
    const int64_t *start, *from, *tap;
} Entries;

/* weights are [dst, src, taps] per network; back are the entries of source places */
typedef struct {
    int64_t src, dst, taps;
    double factor;
    const REAL *weight;
    Entries ahead, back;
} Way;

/* followed in memory by the groups, then the ways; inputs are [places, neurons, lanes], the same for all networks where
 * input_stride is 0; states has room for one network where hold is 0 */
typedef struct {
    int64_t groups, ways, samples, lanes, input_stride, hold;
    const REAL *inputs;
    REAL *states, *input_grad;
} Head;

#define SUMS(R, H)                                                                                              \
    do {                                                                                                        \
        vec s[R][H];                                                                                            \
        for (int r = 0; r < R; r++)                                                                             \
            for (int h = 0; h < H; h++) s[r][h] = *(const vec *)(out + (i + r) * d + k + h * LANES);            \
        for (int64_t e = l->start[q]; e < l->start[q + 1]; e++) {                                               \
            const REAL *w = pack + l->tap[e] * m * n + i, *p = in + l->from[e] * m * d + k;                     \
            for (int64_t j = 0; j < m; j++, w += n, p += d)                                                     \
                for (int h = 0; h < H; h++) {                                                                   \
                    vec x = *(const vec *)(p + h * LANES);                                                      \
                    for (int r = 0; r < R; r++) s[r][h] += w[r] * x;                                            \
                }                                                                                               \
        }                                                                                                       \
        for (int r = 0; r < R; r++)                                                                             \
            for (int h = 0; h < H; h++) *(vec *)(out + (i + r) * d + k + h * LANES) = s[r][h];                  \
    } while (0)

/* out[q, i] += sum over the entries e of q and over j of pack[tap[e], j, i] in[from[e], j] */
static void convolve(const Entries *l, int64_t places, int64_t n, int64_t m, const REAL *pack, const REAL *in, REAL *out,
                     int64_t d) {
    for (int64_t q = 0; q < places; q++, out += n * d) {
        int64_t k = 0;
        for (; k + 2 * LANES <= d; k += 2 * LANES) {
            int64_t i = 0;
            for (; i + 4 <= n; i += 4) SUMS(4, 2);
            for (; i < n; i++) SUMS(1, 2);
        }
        for (; k < d; k += LANES) {
            int64_t i = 0;
            for (; i + 8 <= n; i += 8) SUMS(8, 1);
            for (; i < n; i++) SUMS(1, 1);
        }
    }
}

/* weights [dst, src, taps] as [taps, src, dst], or as [taps, dst, src] */
static void packed(const Way *way, int64_t n, int64_t m, int64_t b, REAL factor, int back, REAL *out) {
    const REAL *w = way->weight + b * n * m * way->taps;
    int64_t row = back ? m : 1, col = back ? 1 : n;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < m; j++)
            for (int64_t t = 0; t < way->taps; t++) out[t * n * m + i * row + j * col] = factor * *w++;
}

/* x = act(z) in place; slope is of sin and cos */
static void activated(int64_t act, int64_t count, REAL *x, REAL *slope) {
    if (act == RELU) for (int64_t k = 0; k < count; k++) x[k] = x[k] < 0 ? 0 : x[k];
    if (act == TANH) tanh_of(count, x);
    if (act == SIN || act == COS) {
        memcpy(slope, x, count * sizeof(REAL));
        wave(count, slope, x, act == COS);
    }
}

/* dx becomes dz */
static void sloped(int64_t act, int64_t count, const REAL *restrict x, const REAL *restrict slope, REAL *restrict dx) {
    if (act == RELU) for (int64_t k = 0; k < count; k++) dx[k] = x[k] > 0 ? dx[k] : 0;
    if (act == TANH) for (int64_t k = 0; k < count; k++) dx[k] *= 1 - x[k] * x[k];
    if (act == SIN || act == COS) for (int64_t k = 0; k < count; k++) dx[k] *= slope[k];
}

static void look(const Group *g, int64_t b, int64_t samples, int64_t d, const REAL *x, REAL *restrict sum) {
    REAL *seen = g->seen + b * g->seen_stride, *square = sum + d;
    for (int64_t i = 0; i < g->n; i++) {
        memset(sum, 0, 2 * d * sizeof(REAL));
        for (int64_t s = 0; s < g->places; s++) {
            const REAL *restrict row = x + (s * g->n + i) * d;
            for (int64_t k = 0; k < d; k++) sum[k] += row[k], square[k] += row[k] * row[k];
        }
        for (int64_t k = 0; k < samples; k++) *seen++ = sum[k] / g->places;
        if (g->kinds == 2)
            for (int64_t k = 0; k < samples; k++) *seen++ = sqrt(square[k] / g->places);
    }
}

/* the adjoint of look, where the root's gradient at 0 is 0: dx = (mean_grad + root_grad x / root) / places */
static void look_adjoint(const Group *g, int64_t b, int64_t samples, int64_t d, const REAL *x, REAL *restrict dx,
                         REAL *restrict mean) {
    int64_t at = b * g->seen_stride;
    REAL *root = mean + d;
    memset(mean, 0, 2 * d * sizeof(REAL));
    for (int64_t i = 0; i < g->n; i++, at += g->kinds * samples) {
        for (int64_t k = 0; k < samples; k++) mean[k] = g->seen_grad[at + k] / g->places;
        for (int64_t k = 0; k < samples && g->kinds == 2; k++) {
            REAL value = g->seen[at + samples + k];
            root[k] = value > 0 ? g->seen_grad[at + samples + k] / (g->places * value) : 0;
        }
        for (int64_t s = 0; s < g->places; s++) {
            const REAL *restrict row = x + (s * g->n + i) * d;
            REAL *restrict to = dx + (s * g->n + i) * d;
            for (int64_t k = 0; k < d; k++) to[k] = mean[k] + root[k] * row[k];
        }
    }
}

static int waves(const Group *g) { return g->act == SIN || g->act == COS; }
static int64_t count_of(const Group *g, int64_t d) { return g->n * g->places * d; }

/* where a network's states lie behind one another (at), those of waves followed by their slopes; room for scratch */
static REAL *prepare(const Head *h, int64_t *at) {
    const Group *group = (const Group *)(h + 1);
    const Way *way = (const Way *)(group + h->groups);
    int64_t most = 0, total = 0;
    for (int64_t i = 1; i < h->groups; i++) {
        at[i] = total;
        total += (1 + waves(group + i)) * count_of(group + i, h->lanes);
    }
    for (int64_t l = 0; l < h->ways; l++) {
        int64_t size = group[way[l].dst].n * group[way[l].src].n * way[l].taps;
        if (size > most) most = size;
    }
    at[h->groups] = most;
    return malloc((total + most + 2 * h->lanes) * sizeof(REAL));
}

int answers_forward(void *memory, int64_t start, int64_t stop) {
    const Head *h = memory;
    const Group *group = (const Group *)(h + 1);
    const Way *way = (const Way *)(group + h->groups);
    int64_t d = h->lanes, at[h->groups + 1];
    REAL *scratch = prepare(h, at);
    if (!scratch) return 1;
    REAL *pack = scratch + 2 * d, *own = pack + at[h->groups];
    for (int64_t b = start; b < stop; b++) {
        REAL *states = h->hold ? h->states + b * h->hold : own;
        for (int64_t i = 1; i < h->groups; i++) {
            const Group *g = group + i;
            int64_t count = count_of(g, d);
            REAL scale = waves(g) ? (REAL)g->scale : 1, *x = states + at[i];
            for (int64_t s = 0, c = 0; s < g->places; s++)
                for (int64_t r = 0; r < g->n; r++)
                    for (int64_t k = 0; k < d; k++) x[c++] = scale * g->bias[b * g->bias_stride + r * g->bias_step];
            for (int64_t l = 0; l < h->ways; l++) {
                const Group *from = group + way[l].src;
                if (way[l].dst != i) continue;
                packed(way + l, g->n, from->n, b, scale * (REAL)way[l].factor, 0, pack);
                const REAL *in = way[l].src ? states + at[way[l].src] : h->inputs + b * h->input_stride;
                convolve(&way[l].ahead, g->places, g->n, from->n, pack, in, x, d);
            }
            activated(g->act, count, x, x + count);
            if (g->seen) look(g, b, h->samples, d, x, scratch);
        }
    }
    free(scratch);
    return 0;
}

int answers_adjoint(void *memory, int64_t start, int64_t stop) {
    const Head *h = memory;
    const Group *group = (const Group *)(h + 1);
    const Way *way = (const Way *)(group + h->groups);
    int64_t d = h->lanes, at[h->groups + 1];
    REAL *scratch = prepare(h, at);
    if (!scratch) return 1;
    REAL *pack = scratch + 2 * d, *grads = pack + at[h->groups];
    for (int64_t b = start; b < stop; b++) {
        const REAL *states = h->states + b * h->hold;
        for (int64_t i = 1; i < h->groups; i++) {
            if (group[i].seen_grad) look_adjoint(group + i, b, h->samples, d, states + at[i], grads + at[i], scratch);
            else memset(grads + at[i], 0, count_of(group + i, d) * sizeof(REAL));
        }
        for (int64_t i = h->groups - 1; i > 0; i--) {
            const Group *g = group + i;
            int64_t count = count_of(g, d);
            sloped(g->act, count, states + at[i], states + at[i] + count, grads + at[i]);
            for (int64_t l = 0; l < h->ways; l++) {
                const Group *from = group + way[l].src;
                if (way[l].dst != i) continue;
                packed(way + l, g->n, from->n, b, (waves(g) ? (REAL)g->scale : 1) * (REAL)way[l].factor, 1, pack);
                REAL *to = way[l].src ? grads + at[way[l].src] : h->input_grad;
                convolve(&way[l].back, from->places, from->n, g->n, pack, grads + at[i], to, d);
            }
        }
    }
    free(scratch);
    return 0;
}
