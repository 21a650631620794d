/* The native sweep and its adjoint, network by network, so that everything stays in the first cache.
 *
 * The same formulas as tape.py, links.py, responses.py and seen.py. Compiled once for float and once for double (REAL);
 * compiled.py writes the structures below as rows of eight-byte integers. Matrices are row-major. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES ((int64_t)(64 / sizeof(REAL)))

typedef REAL vec __attribute__((vector_size(64), aligned(sizeof(REAL)), may_alias));

enum { INPUT, HIDDEN, OUTPUT };
enum { IDENTITY, RELU, TANH, SIN, COS };

/* bias_stride and bias_step also hold for bias_grad; where no buffers are given for kept, back and root, they are made
 * for one network, and hold, by which they advance from network to network, becomes 0 */
typedef struct {
    int64_t n, role, act, keeps, bars, bias_stride, bias_step, ends_stride, hold;
    double scale;
    const REAL *bias, *beta, *mix, *ends, *even;
    REAL *x, *kept, *back, *root, *out;
    const REAL *grad_out, *grad_x;
    REAL *mix_grad, *beta_grad, *bias_grad, *state_grad;
} Level;

/* weights are [dst, src, taps] per network; mix is [taps, ranks], or null where there is one tap */
typedef struct {
    int64_t src, dst, taps, ranks;
    const REAL *weight, *mix, *gain;
    REAL *gain_grad, *mix_grad, *weight_grad;
} Link;

/* followed in memory by the levels, then the links */
typedef struct {
    int64_t width, levels, links;
    const REAL *answer, *answer_t, *offset;
    REAL *answer_grad, *offset_grad;
} Head;

typedef struct {
    int64_t width, levels, links;
    Level *level;
    Link *link;
    const REAL *answer, *answer_t, *offset;
    REAL *answer_grad, *offset_grad;
} Net;

static Net net_of(void *memory) {
    Head *h = memory;
    Level *level = (Level *)(h + 1);
    Net net = {h->width, h->levels, h->links, level, (Link *)(level + h->levels), h->answer, h->answer_t, h->offset,
               h->answer_grad, h->offset_grad};
    return net;
}

/* out[i] = sum_j a[i * row + j * col] x[j], on top of what is there unless fresh; R rows and H vectors at a time */
#define TILE(R, H)                                                                                            \
    do {                                                                                                      \
        vec s[R][H];                                                                                          \
        for (int r = 0; r < R; r++)                                                                           \
            for (int h = 0; h < H; h++)                                                                       \
                s[r][h] = fresh ? (vec){0} : *(const vec *)(out + (i + r) * d + k + h * LANES);               \
        const REAL *w = a + i * row, *p = x + k;                                                              \
        for (int64_t j = 0; j < m; j++, w += col, p += d)                                                     \
            for (int h = 0; h < H; h++) {                                                                     \
                vec q = *(const vec *)(p + h * LANES);                                                        \
                for (int r = 0; r < R; r++) s[r][h] += w[r * row] * q;                                        \
            }                                                                                                 \
        for (int r = 0; r < R; r++)                                                                           \
            for (int h = 0; h < H; h++) *(vec *)(out + (i + r) * d + k + h * LANES) = s[r][h];                \
    } while (0)

static void gemm(int fresh, int64_t n, int64_t m, const REAL *a, int64_t row, int64_t col, const REAL *x, REAL *out,
                 int64_t d) {
    int64_t k = 0;
    for (; k + 2 * LANES <= d; k += 2 * LANES) {
        int64_t i = 0;
        for (; i + 4 <= n; i += 4) TILE(4, 2);
        for (; i < n; i++) TILE(1, 2);
    }
    for (; k + LANES <= d; k += LANES) {
        int64_t i = 0;
        for (; i + 8 <= n; i += 8) TILE(8, 1);
        for (; i < n; i++) TILE(1, 1);
    }
    for (int64_t i = 0; i < n && k < d; i++)
        for (int64_t c = k; c < d; c++) {
            REAL sum = fresh ? 0 : out[i * d + c];
            for (int64_t j = 0; j < m; j++) sum += a[i * row + j * col] * x[j * d + c];
            out[i * d + c] = sum;
        }
}

static REAL dot(int64_t d, const REAL *a, const REAL *b) {
    vec s = {0};
    REAL sum = 0;
    int64_t k = 0;
    for (; k + LANES <= d; k += LANES) s += *(const vec *)(a + k) * *(const vec *)(b + k);
    for (int64_t h = 0; h < LANES; h++) sum += s[h];
    for (; k < d; k++) sum += a[k] * b[k];
    return sum;
}

static void transpose(int64_t n, int64_t d, const REAL *restrict x, REAL *restrict out) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < d; k++) out[k * n + i] = x[i * d + k];
}

/* sin and cos of z; z becomes the slope (of sin or cos), x the value */
static void wave(int64_t count, REAL *restrict z, REAL *restrict x, int cosine) {
    if (sizeof(REAL) == 8) {
        for (int64_t k = 0; k < count; k++) {
            double s = sin(z[k]), c = cos(z[k]);
            x[k] = cosine ? c : s;
            z[k] = cosine ? -s : c;
        }
        return;
    }
    int far = 0;
    for (int64_t k = 0; k < count; k++) far |= !(fabsf((float)z[k]) < 1000.0f);
    if (far) { /* reduction in three parts is exact enough for small arguments only */
        for (int64_t k = 0; k < count; k++) {
            float s = (float)sin((double)z[k]), c = (float)cos((double)z[k]);
            x[k] = cosine ? c : s;
            z[k] = cosine ? -s : c;
        }
        return;
    }
    for (int64_t k = 0; k < count; k++) {
        float t = (float)z[k], turns = rintf(t * 0.636619772f);
        int32_t quarter = (int32_t)turns;
        float r = fmaf(turns, -1.5707963705f, t); /* pi / 2 = 1.5707963705 - 4.3711388e-8 */
        r = fmaf(turns, 4.3711388287e-8f, r);
        float u = r * r;
        float s = r + r * u * (-1.66666667e-1f + u * (8.33333333e-3f + u * (-1.98412698e-4f + u * 2.75573192e-6f)));
        float c = 1.0f + u * (-0.5f + u * (4.16666667e-2f + u * (-1.38888889e-3f + u * (2.48015873e-5f - u * 2.75573192e-7f))));
        float odd = quarter & 1 ? c : s, even = quarter & 1 ? s : c;
        float sine = quarter & 2 ? -odd : odd, cosn = (quarter + 1) & 2 ? -even : even;
        x[k] = cosine ? cosn : sine;
        z[k] = cosine ? -sine : cosn;
    }
}

/* in place; near 0 by its series, elsewhere by exp(-2 |z|) */
static void tanh_of(int64_t count, REAL *restrict z) {
    if (sizeof(REAL) == 8) {
        for (int64_t k = 0; k < count; k++) z[k] = tanh(z[k]);
        return;
    }
    for (int64_t k = 0; k < count; k++) {
        float t = (float)z[k], m = t < 0 ? -t : t, u = t * t;
        float near = t + t * u * (-3.33333333e-1f + u * (1.33333333e-1f + u * (-5.39682540e-2f + u * (2.18694885e-2f - u * 8.86323552e-3f))));
        float w = m > 20.0f ? -40.0f : -2.0f * m, n = rintf(w * 1.44269504f), r = fmaf(n, -6.93359375e-1f, w);
        r = fmaf(n, 2.12194440e-4f, r); /* log 2 = 0.693359375 - 2.12194440e-4 */
        float e = 1.0f + r * (1.0f + r * (0.5f + r * (1.66666667e-1f + r * (4.16666667e-2f + r * (8.33333333e-3f + r * 1.38888889e-3f)))));
        union { int32_t i; float f; } power = {((int32_t)n + 127) << 23};
        e *= power.f;
        float far = (1.0f - e) / (1.0f + e);
        z[k] = m < 0.3f ? near : t < 0 ? -far : m != m ? t : far;
    }
}

static inline REAL root_of(REAL t) {
#ifdef WIDE
    return 1.0 / sqrt(1.0 + fabs(t));
#else
    return 1.0f / sqrtf(1.0f + fabsf(t));
#endif
}
static inline REAL size_of(REAL t) { return t < 0 ? -t : t; }
static inline REAL sign_of(REAL t) { return t > 0 ? (REAL)1 : t < 0 ? (REAL)-1 : (REAL)0; }

/* one neuron: out = even + t r with t = a |x| + b x y + c |y| and r = 1 / sqrt(1 + |t|) */
static inline void see_one(int bars, int64_t d, const REAL *restrict mix, const REAL *restrict x, const REAL *restrict y,
                           const REAL *restrict even, REAL *restrict r, REAL *restrict out) {
    for (int64_t k = 0; k < d; k++) {
        REAL p = bars ? size_of(x[k]) : x[k], q = bars ? size_of(y[k]) : y[k];
        REAL t = mix[k] * p + mix[d + k] * (x[k] * y[k]) + mix[2 * d + k] * q;
        r[k] = root_of(t);
        out[k] = even[k] + t * r[k];
    }
}

static void see(const Level *v, int64_t b, int64_t d) {
    const REAL *x = v->x + b * v->n * d, *y = v->back + b * v->hold, *even = v->even + b * v->n * d;
    REAL *root = v->root + b * v->hold, *out = v->out + b * v->n * d;
    for (int64_t i = 0; i < v->n * d; i += d) {
        if (v->bars) see_one(1, d, v->mix, x + i, y + i, even + i, root + i, out + i);
        else see_one(0, d, v->mix, x + i, y + i, even + i, root + i, out + i);
    }
}

/* one neuron: cotangents dx, dy of x, y, and those of a, b, c on top */
static inline void see_adjoint_one(int bars, int64_t d, const REAL *restrict mix, const REAL *restrict x,
                                   const REAL *restrict y, const REAL *restrict r, const REAL *restrict grad,
                                   REAL *restrict dx, REAL *restrict dy, REAL *restrict sums) {
    for (int64_t k = 0; k < d; k++) {
        REAL g = (REAL)0.5 * grad[k] * r[k] * (1 + r[k] * r[k]), gy = g * y[k];
        REAL p = bars ? g * sign_of(x[k]) : g, q = bars ? g * sign_of(y[k]) : g;
        dx[k] = mix[k] * p + mix[d + k] * gy;
        dy[k] = mix[d + k] * g * x[k] + mix[2 * d + k] * q;
        sums[k] += p * x[k];
        sums[d + k] += gy * x[k];
        sums[2 * d + k] += q * y[k];
    }
}

static void see_adjoint(const Level *v, int64_t b, int64_t d, REAL *dx, REAL *dy) {
    for (int64_t i = 0; i < v->n; i++) {
        int64_t at = (b * v->n + i) * d;
        const REAL *x = v->x + at, *y = v->back + at, *r = v->root + at, *grad = v->grad_out + at;
        if (v->bars) see_adjoint_one(1, d, v->mix, x, y, r, grad, dx + i * d, dy + i * d, v->mix_grad);
        else see_adjoint_one(0, d, v->mix, x, y, r, grad, dx + i * d, dy + i * d, v->mix_grad);
    }
}

/* y = slope * back */
static void slope_times(const Level *v, int64_t b, int64_t d, REAL *restrict y) {
    int64_t count = v->n * d;
    const REAL *restrict r = v->back + b * v->hold, *restrict x = v->x + b * count;
    const REAL *restrict kept = v->kept ? v->kept + b * v->hold : 0;
    if (v->act == IDENTITY) memcpy(y, r, count * sizeof(REAL));
    else if (v->act == RELU) for (int64_t k = 0; k < count; k++) y[k] = x[k] > 0 ? r[k] : 0;
    else if (v->act == TANH) for (int64_t k = 0; k < count; k++) y[k] = r[k] * (1 - x[k] * x[k]);
    else for (int64_t k = 0; k < count; k++) y[k] = r[k] * kept[k];
}

/* out = scale gain x */
static void scale_rows(int64_t n, int64_t d, const REAL *restrict x, const REAL *restrict gain, REAL scale,
                       REAL *restrict out) {
    for (int64_t i = 0; i < n * d; i += d)
        for (int64_t k = 0; k < d; k++) out[i + k] = x[i + k] * (gain[k] * scale);
}

/* total += scale gain u, and sum += scale u * x over rows */
static void gather(int64_t n, int64_t d, const REAL *restrict u, const REAL *restrict gain, REAL scale,
                   REAL *restrict total, const REAL *restrict x, REAL *restrict sum) {
    for (int64_t i = 0; i < n * d; i += d)
        for (int64_t k = 0; k < d; k++) {
            REAL one = scale * u[i + k];
            total[i + k] += gain[k] * one;
            sum[k] += one * x[i + k];
        }
}

static int64_t edges(const Net *net, const Link *link) { return net->level[link->dst].n * net->level[link->src].n; }

/* weights whose taps are mixed, [ranks, dst, src]; work holds taps * dst * src numbers */
static const REAL *mixed(const Net *net, const Link *link, int64_t b, REAL *work, REAL *out) {
    int64_t count = edges(net, link);
    const REAL *w = link->weight + b * count * link->taps;
    if (!link->mix) return w;
    transpose(count, link->taps, w, work);
    gemm(1, link->ranks, link->taps, link->mix, 1, link->ranks, work, out, count);
    return out;
}

/* z of level i from the levels below, and its activation */
static void down(const Net *net, int64_t i, int64_t b, const REAL *const *m, REAL *u) {
    int64_t d = net->width;
    const Level *v = net->level + i;
    REAL scale = (REAL)v->scale, *x = v->x + b * v->n * d, *z = v->kept ? v->kept + b * v->hold : x;
    for (int64_t r = 0; r < v->n; r++) {
        REAL bias = scale * v->bias[b * v->bias_stride + r * v->bias_step];
        for (int64_t k = 0; k < d; k++) z[r * d + k] = v->beta ? bias * v->beta[k] : bias;
    }
    for (int64_t l = 0; l < net->links; l++) {
        const Link *link = net->link + l;
        if (link->dst != i) continue;
        int64_t n_src = net->level[link->src].n, count = edges(net, link);
        for (int64_t r = 0; r < link->ranks; r++) {
            scale_rows(n_src, d, net->level[link->src].x + b * n_src * d, link->gain + r * d, scale, u);
            gemm(0, v->n, n_src, m[l] + r * count, n_src, 1, u, z, d);
        }
    }
    if (v->act == RELU) for (int64_t k = 0; k < v->n * d; k++) x[k] = z[k] < 0 ? 0 : z[k];
    if (v->act == TANH) tanh_of(v->n * d, x);
    if (v->act == SIN || v->act == COS) wave(v->n * d, z, x, v->act == COS);
}

/* from level i to the returned states of the levels below */
static void up(const Net *net, int64_t i, int64_t b, const REAL *const *m, REAL *y, REAL *u) {
    int64_t d = net->width;
    const Level *v = net->level + i;
    REAL *back = v->back + b * v->hold;
    if (v->role == INPUT) return;
    if (v->role == OUTPUT) {
        for (int64_t r = 0; r < v->n; r++)
            for (int64_t k = 0; k < d; k++) back[r * d + k] = v->ends[b * v->ends_stride + r * d + k] + net->offset[k];
        gemm(0, v->n, d, v->x + b * v->n * d, d, 1, net->answer_t, back, d);
    }
    slope_times(v, b, d, y);
    for (int64_t l = 0; l < net->links; l++) {
        const Link *link = net->link + l;
        if (link->dst != i) continue;
        const Level *from = net->level + link->src;
        for (int64_t r = 0; r < link->ranks; r++) {
            scale_rows(v->n, d, y, link->gain + r * d, 1, u);
            gemm(0, from->n, v->n, m[l] + r * edges(net, link), 1, from->n, u, from->back + b * from->hold, d);
        }
    }
}

/* what one network needs besides the buffers of its levels */
typedef struct {
    const REAL **m;
    REAL **area, **grad, *dx, *dr, *bent, *y, *dy, *u, *t;
    int64_t *at;
    void *memory;
} Scratch;

static int prepare(const Net *net, int adjoint, Scratch *s) {
    int64_t d = net->width, most = d, total = 0, mixes = 0, taps = 0;
    for (int64_t i = 0; i < net->levels; i++) {
        if (net->level[i].n > most) most = net->level[i].n;
        total += net->level[i].n * d;
    }
    for (int64_t l = 0; l < net->links; l++) {
        int64_t count = edges(net, net->link + l);
        mixes += count * net->link[l].ranks;
        if (count * net->link[l].taps > taps) taps = count * net->link[l].taps;
    }
    int64_t size = most * most + taps, numbers = 3 * total + (1 + adjoint) * mixes + 4 * size;
    int64_t pointers = 3 * net->links * sizeof(void *) + net->levels * sizeof(int64_t);
    char *memory = malloc(pointers + numbers * sizeof(REAL));
    if (!memory) return 1;
    REAL *next = (REAL *)(memory + pointers);
    s->memory = memory;
    s->m = (const REAL **)memory;
    s->area = (REAL **)memory + net->links;
    s->grad = (REAL **)memory + 2 * net->links;
    s->at = (int64_t *)(memory + 3 * net->links * sizeof(void *));
    for (int64_t i = 0, at = 0; i < net->levels; at += net->level[i++].n * d) s->at[i] = at;
    for (int64_t l = 0; l < net->links; l++) {
        int64_t count = edges(net, net->link + l) * net->link[l].ranks;
        s->area[l] = next, next += count;
        s->grad[l] = next, next += adjoint * count;
    }
    s->y = next, s->dy = next + size, s->u = next + 2 * size, s->t = next + 3 * size, next += 4 * size;
    s->dx = next, s->dr = next + total, s->bent = next + 2 * total;
    return 0;
}

int sweep_forward(void *memory, int64_t start, int64_t stop) {
    Net whole = net_of(memory), *net = &whole;
    Scratch s;
    if (prepare(net, 0, &s)) return 1;
    for (int64_t i = 0; i < net->levels; i++) {
        Level *v = net->level + i;
        if (v->back) continue;
        v->hold = 0, v->back = s.dx + s.at[i], v->root = s.dr + s.at[i];
        if (v->keeps) v->kept = s.bent + s.at[i];
    }
    for (int64_t b = start; b < stop; b++) {
        for (int64_t l = 0; l < net->links; l++) s.m[l] = mixed(net, net->link + l, b, s.t, s.area[l]);
        for (int64_t i = 0; i < net->levels; i++) {
            const Level *v = net->level + i;
            memset(v->back + b * v->hold, 0, v->n * net->width * sizeof(REAL));
            if (v->role != INPUT) down(net, i, b, s.m, s.u);
        }
        for (int64_t i = net->levels - 1; i >= 0; i--) {
            up(net, i, b, s.m, s.y, s.u);
            see(net->level + i, b, net->width);
        }
    }
    free(s.memory);
    return 0;
}

/* out[i, j] = sum_k p[i, k] q[j, k], on top of what is there unless fresh */
static void outer(int fresh, int64_t n, int64_t m, int64_t d, const REAL *p, const REAL *q, REAL *t, REAL *out) {
    if (m >= LANES) {
        transpose(m, d, q, t);
        gemm(fresh, n, d, p, d, 1, t, out, m);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < m; j++)
            out[i * m + j] = dot(d, p + i * d, q + j * d) + (fresh ? 0 : out[i * m + j]);
}

/* cotangents of the returned states of level i, and of the linear map behind the outputs */
static void up_adjoint(const Net *net, int64_t i, int64_t b, const Scratch *s) {
    int64_t d = net->width;
    const Level *v = net->level + i;
    int64_t count = v->n * d;
    const REAL *restrict x = v->x + b * count, *restrict back = v->back + b * count;
    REAL *restrict dx = s->dx + s->at[i], *restrict dr = s->dr + s->at[i], *restrict dy = s->dy;
    slope_times(v, b, d, s->y);
    memset(dy, 0, count * sizeof(REAL));
    for (int64_t l = 0; l < net->links; l++) {
        const Link *link = net->link + l;
        if (link->dst != i) continue;
        int64_t n_src = net->level[link->src].n, part = v->n * n_src;
        const REAL *from = s->dr + s->at[link->src];
        for (int64_t r = 0; r < link->ranks; r++) {
            gemm(1, v->n, n_src, s->m[l] + r * part, n_src, 1, from, s->u, d);
            gather(v->n, d, s->u, link->gain + r * d, 1, dy, s->y, link->gain_grad + r * d);
            if (!link->mix_grad && !link->weight_grad) continue;
            scale_rows(v->n, d, s->y, link->gain + r * d, 1, s->u);
            outer(1, v->n, n_src, d, s->u, from, s->t, s->grad[l] + r * part);
        }
    }
    if (v->act == IDENTITY) for (int64_t k = 0; k < count; k++) dr[k] += dy[k];
    else if (v->act == RELU) for (int64_t k = 0; k < count; k++) dr[k] += x[k] > 0 ? dy[k] : 0;
    else if (v->act == TANH)
        for (int64_t k = 0; k < count; k++) {
            dr[k] += (1 - x[k] * x[k]) * dy[k];
            dx[k] -= 2 * x[k] * back[k] * dy[k]; /* the factor 1 - x^2 comes on the way down */
        }
    else {
        const REAL *restrict kept = v->kept + b * count;
        REAL *restrict bent = s->bent + s->at[i];
        for (int64_t k = 0; k < count; k++) {
            dr[k] += kept[k] * dy[k];
            bent[k] = dy[k] * back[k];
        }
    }
    if (v->role != OUTPUT) return;
    gemm(0, d, v->n, dr, 1, d, x, net->answer_grad, d);
    for (int64_t r = 0; r < v->n; r++)
        for (int64_t k = 0; k < d; k++) {
            net->offset_grad[k] += dr[r * d + k];
            v->state_grad[b * v->ends_stride + r * d + k] += dr[r * d + k];
        }
    gemm(0, v->n, d, dr, d, 1, net->answer, dx, d);
}

/* cotangents of z of level i and of everything that it was made of */
static void down_adjoint(const Net *net, int64_t i, int64_t b, const Scratch *s) {
    int64_t d = net->width;
    const Level *v = net->level + i;
    int64_t count = v->n * d;
    REAL *restrict dz = s->dx + s->at[i], scale = (REAL)v->scale;
    const REAL *restrict x = v->x + b * count;
    if (v->act == RELU) for (int64_t k = 0; k < count; k++) dz[k] = x[k] > 0 ? dz[k] : 0;
    if (v->act == TANH) for (int64_t k = 0; k < count; k++) dz[k] *= 1 - x[k] * x[k];
    if (v->act == SIN || v->act == COS) {
        const REAL *restrict kept = v->kept + b * count, *restrict bent = s->bent + s->at[i];
        for (int64_t k = 0; k < count; k++) dz[k] = dz[k] * kept[k] - bent[k] * x[k];
    }
    for (int64_t r = 0; r < v->n; r++) {
        REAL bias = scale * v->bias[b * v->bias_stride + r * v->bias_step], sum = 0;
        if (v->beta_grad)
            for (int64_t k = 0; k < d; k++) v->beta_grad[k] += bias * dz[r * d + k];
        if (!v->bias_grad) continue;
        for (int64_t k = 0; k < d; k++) sum += v->beta ? dz[r * d + k] * v->beta[k] : dz[r * d + k];
        v->bias_grad[b * v->bias_stride + r * v->bias_step] = scale * sum;
    }
    for (int64_t l = 0; l < net->links; l++) {
        const Link *link = net->link + l;
        if (link->dst != i) continue;
        int64_t n_src = net->level[link->src].n, part = v->n * n_src;
        const REAL *from = net->level[link->src].x + b * n_src * d;
        for (int64_t r = 0; r < link->ranks; r++) {
            gemm(1, n_src, v->n, s->m[l] + r * part, 1, n_src, dz, s->u, d);
            gather(n_src, d, s->u, link->gain + r * d, scale, s->dx + s->at[link->src], from, link->gain_grad + r * d);
            if (!link->mix_grad && !link->weight_grad) continue;
            scale_rows(n_src, d, from, link->gain + r * d, scale, s->u);
            outer(0, v->n, n_src, d, dz, s->u, s->t, s->grad[l] + r * part);
        }
    }
}

/* from the cotangents of mixed weights to those of the weights and of the mix */
static void mixed_adjoint(const Net *net, int64_t l, int64_t b, const Scratch *s) {
    const Link *link = net->link + l;
    int64_t count = edges(net, link), taps = link->taps, ranks = link->ranks;
    const REAL *grad = s->grad[l];
    if (link->mix_grad) {
        transpose(count, taps, link->weight + b * count * taps, s->t);
        for (int64_t t = 0; t < taps; t++)
            for (int64_t r = 0; r < ranks; r++)
                link->mix_grad[t * ranks + r] += dot(count, s->t + t * count, grad + r * count);
    }
    if (!link->weight_grad) return;
    REAL *to = link->weight_grad + b * count * taps;
    for (int64_t k = 0; k < count; k++)
        for (int64_t t = 0; t < taps; t++) {
            REAL sum = link->mix ? 0 : grad[k];
            for (int64_t r = 0; r < ranks && link->mix; r++) sum += grad[r * count + k] * link->mix[t * ranks + r];
            to[k * taps + t] = sum;
        }
}

int sweep_adjoint(void *memory, int64_t start, int64_t stop) {
    Net whole = net_of(memory), *net = &whole;
    int64_t d = net->width;
    Scratch s;
    if (prepare(net, 1, &s)) return 1;
    for (int64_t b = start; b < stop; b++) {
        for (int64_t l = 0; l < net->links; l++) s.m[l] = mixed(net, net->link + l, b, s.t, s.area[l]);
        for (int64_t i = 0; i < net->levels; i++) {
            const Level *v = net->level + i;
            REAL *dx = s.dx + s.at[i], *dr = s.dr + s.at[i];
            if (v->grad_out) see_adjoint(v, b, d, dx, dr);
            else memset(dx, 0, v->n * d * sizeof(REAL)), memset(dr, 0, v->n * d * sizeof(REAL));
            if (v->grad_x)
                for (int64_t k = 0; k < v->n * d; k++) dx[k] += v->grad_x[b * v->n * d + k];
        }
        for (int64_t i = 0; i < net->levels; i++)
            if (net->level[i].role != INPUT) up_adjoint(net, i, b, &s);
        for (int64_t i = net->levels - 1; i >= 0; i--) {
            const Level *v = net->level + i;
            if (v->role == INPUT) memcpy(v->state_grad + b * v->n * d, s.dx + s.at[i], v->n * d * sizeof(REAL));
            else down_adjoint(net, i, b, &s);
        }
        for (int64_t l = 0; l < net->links; l++) mixed_adjoint(net, l, b, &s);
    }
    free(s.memory);
    return 0;
}
