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

/* followed in memory by the groups, then the ways; inputs are [places, neurons, lanes], the same for all networks */
typedef struct {
    int64_t groups, ways, samples, lanes;
    const REAL *inputs;
    REAL *input_grad;
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

typedef struct {
    const Head *head;
    const Group *group;
    const Way *way;
    int64_t *at; /* where the states of groups lie behind one another, those of waves followed by their slopes */
    REAL *states, *grads, *pack, *sums;
    void *memory;
} Run;

static int prepare(const void *memory, int adjoint, Run *r) {
    const Head *h = r->head = memory;
    r->group = (const Group *)(h + 1);
    r->way = (const Way *)(r->group + h->groups);
    int64_t most = 0, total = 0;
    for (int64_t i = 1; i < h->groups; i++) total += (1 + waves(r->group + i)) * count_of(r->group + i, h->lanes);
    for (int64_t l = 0; l < h->ways; l++) {
        int64_t size = r->group[r->way[l].dst].n * r->group[r->way[l].src].n * r->way[l].taps;
        if (size > most) most = size;
    }
    r->memory = malloc(h->groups * sizeof(int64_t) + ((1 + adjoint) * total + most + 2 * h->lanes) * sizeof(REAL));
    if (!r->memory) return 1;
    r->at = r->memory;
    for (int64_t i = 1, at = 0; i < h->groups; i++) {
        r->at[i] = at;
        at += (1 + waves(r->group + i)) * count_of(r->group + i, h->lanes);
    }
    r->states = (REAL *)(r->at + h->groups), r->grads = r->states + total;
    r->pack = r->grads + adjoint * total, r->sums = r->pack + most;
    return 0;
}

/* the states of a network */
static void ahead(const Run *r, int64_t b) {
    const Head *h = r->head;
    int64_t d = h->lanes;
    for (int64_t i = 1; i < h->groups; i++) {
        const Group *g = r->group + i;
        REAL scale = waves(g) ? (REAL)g->scale : 1, *x = r->states + r->at[i], *z = x;
        for (int64_t s = 0; s < g->places; s++)
            for (int64_t j = 0; j < g->n; j++, z += d)
                for (int64_t k = 0; k < d; k++) z[k] = scale * g->bias[b * g->bias_stride + j * g->bias_step];
        for (int64_t l = 0; l < h->ways; l++) {
            const Way *way = r->way + l;
            if (way->dst != i) continue;
            int64_t m = r->group[way->src].n;
            packed(way, g->n, m, b, scale * (REAL)way->factor, 0, r->pack);
            const REAL *in = way->src ? r->states + r->at[way->src] : h->inputs;
            convolve(&way->ahead, g->places, g->n, m, r->pack, in, x, d);
        }
        activated(g->act, count_of(g, d), x, z);
    }
}

/* the gradient of the inputs, from the states of a network */
static void back(const Run *r, int64_t b) {
    const Head *h = r->head;
    int64_t d = h->lanes;
    for (int64_t i = 1; i < h->groups; i++) {
        REAL *dx = r->grads + r->at[i];
        if (r->group[i].seen_grad) look_adjoint(r->group + i, b, h->samples, d, r->states + r->at[i], dx, r->sums);
        else memset(dx, 0, count_of(r->group + i, d) * sizeof(REAL));
    }
    for (int64_t i = h->groups - 1; i > 0; i--) {
        const Group *g = r->group + i;
        const REAL *x = r->states + r->at[i];
        REAL scale = waves(g) ? (REAL)g->scale : 1, *dz = r->grads + r->at[i];
        sloped(g->act, count_of(g, d), x, x + count_of(g, d), dz);
        for (int64_t l = 0; l < h->ways; l++) {
            const Way *way = r->way + l;
            if (way->dst != i) continue;
            const Group *from = r->group + way->src;
            packed(way, g->n, from->n, b, scale * (REAL)way->factor, 1, r->pack);
            REAL *dx = way->src ? r->grads + r->at[way->src] : h->input_grad;
            convolve(&way->back, from->places, from->n, g->n, r->pack, dz, dx, d);
        }
    }
}

int answers_forward(const void *memory, int64_t start, int64_t stop) {
    Run r;
    if (prepare(memory, 0, &r)) return 1;
    for (int64_t b = start; b < stop; b++) {
        ahead(&r, b);
        for (int64_t i = 1; i < r.head->groups; i++) {
            const Group *g = r.group + i;
            if (g->seen) look(g, b, r.head->samples, r.head->lanes, r.states + r.at[i], r.sums);
        }
    }
    free(r.memory);
    return 0;
}

/* Running a network once more takes less time than fetching its states from memory. */
int answers_adjoint(const void *memory, int64_t start, int64_t stop) {
    Run r;
    if (prepare(memory, 1, &r)) return 1;
    for (int64_t b = start; b < stop; b++) {
        ahead(&r, b);
        back(&r, b);
    }
    free(r.memory);
    return 0;
}
