/* The native sweep and its adjoint, network by network, so that everything stays in the first cache.
 *
 * The same formulas as tape.py, links.py, responses.py and seen.py. Compiled once for float and once for double (REAL);
 * compiled.py fills the structures below, whose fields are all eight bytes wide. Matrices are row-major. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES ((int64_t)(64 / sizeof(REAL)))
#define ROWS 4

typedef REAL vec __attribute__((vector_size(64), aligned(sizeof(REAL)), may_alias));

enum { INPUT, HIDDEN, OUTPUT };
enum { IDENTITY, RELU, TANH, SIN, COS };

typedef struct {
    int64_t n, role, act, bars, bias_stride, bias_step, ends_stride;
    double scale;
    const REAL *bias, *beta, *mix, *ends, *even;
    REAL *x, *kept, *back, *root, *out;
    const REAL *grad_out, *grad_x;
    REAL *mix_grad, *beta_grad, *bias_grad, *state_grad;
} Level;

typedef struct {
    int64_t src, dst, ranks;
    const REAL *weight, *gain;
    REAL *gain_grad, *weight_grad;
} Link;

typedef struct {
    int64_t width, levels, links;
    Level *level;
    Link *link;
    const REAL *answer, *answer_t, *offset;
    REAL *answer_grad, *offset_grad;
} Net;

/* out[i] += sum_j a[i * row + j * col] x[j] for n rows and m terms of d numbers */
static void gemm(int64_t n, int64_t m, const REAL *a, int64_t row, int64_t col, const REAL *x, REAL *out, int64_t d) {
    int64_t k = 0;
    for (; k + 2 * LANES <= d; k += 2 * LANES) {
        int64_t i = 0;
        for (; i + ROWS <= n; i += ROWS) {
            vec s[ROWS][2];
            for (int r = 0; r < ROWS; r++)
                for (int h = 0; h < 2; h++) s[r][h] = *(const vec *)(out + (i + r) * d + k + h * LANES);
            const REAL *w = a + i * row;
            for (int64_t j = 0; j < m; j++) {
                vec p = *(const vec *)(x + j * d + k), q = *(const vec *)(x + j * d + k + LANES);
                for (int r = 0; r < ROWS; r++) {
                    REAL f = w[r * row + j * col];
                    s[r][0] += f * p;
                    s[r][1] += f * q;
                }
            }
            for (int r = 0; r < ROWS; r++)
                for (int h = 0; h < 2; h++) *(vec *)(out + (i + r) * d + k + h * LANES) = s[r][h];
        }
        for (; i < n; i++) {
            vec s = *(const vec *)(out + i * d + k), t = *(const vec *)(out + i * d + k + LANES);
            for (int64_t j = 0; j < m; j++) {
                REAL f = a[i * row + j * col];
                s += f * *(const vec *)(x + j * d + k);
                t += f * *(const vec *)(x + j * d + k + LANES);
            }
            *(vec *)(out + i * d + k) = s;
            *(vec *)(out + i * d + k + LANES) = t;
        }
    }
    for (; k + LANES <= d; k += LANES)
        for (int64_t i = 0; i < n; i++) {
            vec s = *(const vec *)(out + i * d + k);
            for (int64_t j = 0; j < m; j++) s += a[i * row + j * col] * *(const vec *)(x + j * d + k);
            *(vec *)(out + i * d + k) = s;
        }
    if (k < d)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < m; j++) {
                REAL f = a[i * row + j * col];
                for (int64_t c = k; c < d; c++) out[i * d + c] += f * x[j * d + c];
            }
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
    for (int64_t i = b * v->n * d; i < (b + 1) * v->n * d; i += d) {
        const REAL *x = v->x + i, *y = v->back + i, *even = v->even + i;
        if (v->bars) see_one(1, d, v->mix, x, y, even, v->root + i, v->out + i);
        else see_one(0, d, v->mix, x, y, even, v->root + i, v->out + i);
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
    const REAL *restrict r = v->back + b * count, *restrict x = v->x + b * count;
    const REAL *restrict kept = v->kept ? v->kept + b * count : 0;
    if (v->act == IDENTITY) memcpy(y, r, count * sizeof(REAL));
    else if (v->act == RELU) for (int64_t k = 0; k < count; k++) y[k] = x[k] > 0 ? r[k] : 0;
    else if (v->act == TANH) for (int64_t k = 0; k < count; k++) y[k] = r[k] * (1 - x[k] * x[k]);
    else for (int64_t k = 0; k < count; k++) y[k] = r[k] * kept[k];
}

static void scale_rows(int64_t n, int64_t d, const REAL *restrict x, const REAL *restrict gain, REAL scale, REAL *restrict out) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < d; k++) out[i * d + k] = x[i * d + k] * (gain[k] * scale);
}

/* total += scale gain u, and sum += scale u * x where sum is wanted */
static void gather(int64_t n, int64_t d, const REAL *restrict u, const REAL *restrict gain, REAL scale, REAL *restrict total,
                   const REAL *restrict x, REAL *restrict sum) {
    for (int64_t i = 0; i < n; i++) {
        for (int64_t k = 0; k < d; k++) total[i * d + k] += scale * gain[k] * u[i * d + k];
        if (sum)
            for (int64_t k = 0; k < d; k++) sum[k] += scale * u[i * d + k] * x[i * d + k];
    }
}

static void down(const Net *net, int64_t i, int64_t b, REAL *u) {
    int64_t d = net->width;
    const Level *v = net->level + i;
    REAL scale = (REAL)v->scale, *x = v->x + b * v->n * d, *z = v->kept ? v->kept + b * v->n * d : x;
    for (int64_t r = 0; r < v->n; r++) {
        REAL bias = scale * v->bias[b * v->bias_stride + r * v->bias_step];
        for (int64_t k = 0; k < d; k++) z[r * d + k] = v->beta ? bias * v->beta[k] : bias;
    }
    for (int64_t l = 0; l < net->links; l++) {
        const Link *link = net->link + l;
        if (link->dst != i) continue;
        const Level *from = net->level + link->src;
        int64_t step = link->ranks, row = from->n * step;
        const REAL *w = link->weight + b * v->n * row;
        for (int64_t r = 0; r < step; r++) {
            memset(u, 0, v->n * d * sizeof(REAL));
            gemm(v->n, from->n, w + r, row, step, from->x + b * from->n * d, u, d);
            gather(v->n, d, u, link->gain + r * d, scale, z, 0, 0);
        }
    }
    if (v->act == RELU) for (int64_t k = 0; k < v->n * d; k++) x[k] = z[k] < 0 ? 0 : z[k];
    if (v->act == TANH) tanh_of(v->n * d, x);
    if (v->act == SIN || v->act == COS) wave(v->n * d, z, x, v->act == COS);
}

static void up(const Net *net, int64_t i, int64_t b, REAL *y, REAL *u) {
    int64_t d = net->width;
    const Level *v = net->level + i;
    REAL *back = v->back + b * v->n * d;
    if (v->role == OUTPUT) {
        for (int64_t r = 0; r < v->n; r++)
            for (int64_t k = 0; k < d; k++) back[r * d + k] = v->ends[b * v->ends_stride + r * d + k] + net->offset[k];
        gemm(v->n, d, v->x + b * v->n * d, d, 1, net->answer_t, back, d);
    }
    slope_times(v, b, d, y);
    for (int64_t l = 0; l < net->links; l++) {
        const Link *link = net->link + l;
        if (link->dst != i) continue;
        const Level *from = net->level + link->src;
        int64_t step = link->ranks, row = from->n * step;
        const REAL *w = link->weight + b * v->n * row;
        for (int64_t r = 0; r < step; r++) {
            scale_rows(v->n, d, y, link->gain + r * d, 1, u);
            gemm(from->n, v->n, w + r, step, row, u, from->back + b * from->n * d, d);
        }
    }
}

static int64_t widest(const Net *net) {
    int64_t most = net->width;
    for (int64_t i = 0; i < net->levels; i++)
        if (net->level[i].n > most) most = net->level[i].n;
    return most;
}

int sweep_forward(const Net *net, int64_t start, int64_t stop) {
    int64_t d = net->width, size = widest(net) * d;
    REAL *work = malloc(2 * size * sizeof(REAL));
    if (!work) return 1;
    for (int64_t b = start; b < stop; b++) {
        for (int64_t i = 0; i < net->levels; i++) {
            const Level *v = net->level + i;
            memset(v->back + b * v->n * d, 0, v->n * d * sizeof(REAL));
            if (v->role != INPUT) down(net, i, b, work);
        }
        for (int64_t i = net->levels - 1; i >= 0; i--) {
            up(net, i, b, work, work + size);
            see(net->level + i, b, d);
        }
    }
    free(work);
    return 0;
}

static void transpose(int64_t n, int64_t d, const REAL *restrict x, REAL *restrict out) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < d; k++) out[k * n + i] = x[i * d + k];
}

/* grad[i, j] of one rank += sum_k p[i, k] q[j, k]; set instead of added to where fresh */
static void weight_adjoint(const Net *net, const Link *link, int64_t b, int64_t r, const REAL *p, const REAL *qt, int fresh,
                           REAL *u) {
    int64_t n = net->level[link->dst].n, m = net->level[link->src].n, d = net->width, step = link->ranks;
    REAL *grad = link->weight_grad + b * n * m * step + r;
    memset(u, 0, n * m * sizeof(REAL));
    gemm(n, d, p, d, 1, qt, u, m);
    for (int64_t k = 0; k < n * m; k++) grad[k * step] = fresh ? u[k] : grad[k * step] + u[k];
}

/* scratch of one network: cotangents of x and of back (dx, dr), curvature terms (bent), and four work areas */
typedef struct {
    REAL *dx, *dr, *bent, *y, *dy, *u, *t;
    int64_t *at;
} Scratch;

static void up_adjoint(const Net *net, int64_t i, int64_t b, const Scratch *s) {
    int64_t d = net->width;
    const Level *v = net->level + i;
    int64_t count = v->n * d;
    REAL *dx = s->dx + s->at[i], *dr = s->dr + s->at[i], *restrict dy = s->dy;
    slope_times(v, b, d, s->y);
    memset(dy, 0, count * sizeof(REAL));
    for (int64_t l = 0; l < net->links; l++) {
        const Link *link = net->link + l;
        if (link->dst != i) continue;
        const Level *from = net->level + link->src;
        int64_t step = link->ranks, row = from->n * step;
        const REAL *w = link->weight + b * v->n * row, *dr_from = s->dr + s->at[link->src];
        if (link->weight_grad) transpose(from->n, d, dr_from, s->t);
        for (int64_t r = 0; r < step; r++) {
            memset(s->u, 0, count * sizeof(REAL));
            gemm(v->n, from->n, w + r, row, step, dr_from, s->u, d);
            gather(v->n, d, s->u, link->gain + r * d, 1, dy, s->y, link->gain_grad + r * d);
            if (link->weight_grad) {
                scale_rows(v->n, d, s->y, link->gain + r * d, 1, s->u);
                weight_adjoint(net, link, b, r, s->u, s->t, 1, s->u + count);
            }
        }
    }
    const REAL *restrict x = v->x + b * count, *restrict back = v->back + b * count;
    REAL *restrict bent = s->bent + s->at[i], *restrict to = dr;
    if (v->act == IDENTITY) for (int64_t k = 0; k < count; k++) to[k] += dy[k];
    else if (v->act == RELU) for (int64_t k = 0; k < count; k++) to[k] += x[k] > 0 ? dy[k] : 0;
    else if (v->act == TANH)
        for (int64_t k = 0; k < count; k++) {
            to[k] += (1 - x[k] * x[k]) * dy[k];
            dx[k] -= 2 * x[k] * back[k] * dy[k]; /* the factor 1 - x^2 comes on the way down */
        }
    else {
        const REAL *restrict kept = v->kept + b * count;
        for (int64_t k = 0; k < count; k++) {
            to[k] += kept[k] * dy[k];
            bent[k] = dy[k] * back[k];
        }
    }
    if (v->role != OUTPUT) return;
    gemm(d, v->n, dr, 1, d, x, net->answer_grad, d);
    for (int64_t r = 0; r < v->n; r++)
        for (int64_t k = 0; k < d; k++) {
            net->offset_grad[k] += dr[r * d + k];
            v->state_grad[b * v->ends_stride + r * d + k] += dr[r * d + k];
        }
    gemm(v->n, d, dr, d, 1, net->answer, dx, d);
}

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
        v->bias_grad[b * v->n + r] = scale * sum;
    }
    for (int64_t l = 0; l < net->links; l++) {
        const Link *link = net->link + l;
        if (link->dst != i) continue;
        const Level *from = net->level + link->src;
        int64_t step = link->ranks, row = from->n * step;
        const REAL *w = link->weight + b * v->n * row, *x_from = from->x + b * from->n * d;
        for (int64_t r = 0; r < step; r++) {
            memset(s->u, 0, from->n * d * sizeof(REAL));
            gemm(from->n, v->n, w + r, step, row, dz, s->u, d);
            gather(from->n, d, s->u, link->gain + r * d, scale, s->dx + s->at[link->src], x_from, link->gain_grad + r * d);
            if (link->weight_grad) {
                scale_rows(from->n, d, x_from, link->gain + r * d, scale, s->u);
                transpose(from->n, d, s->u, s->t);
                weight_adjoint(net, link, b, r, dz, s->t, 0, s->u);
            }
        }
    }
}

int sweep_adjoint(const Net *net, int64_t start, int64_t stop) {
    int64_t d = net->width, total = 0, most = widest(net);
    int64_t *at = malloc(net->levels * sizeof(int64_t));
    if (!at) return 1;
    for (int64_t i = 0; i < net->levels; i++) {
        at[i] = total;
        total += net->level[i].n * d;
    }
    int64_t size = most * (most > d ? most : d);
    REAL *work = malloc((3 * total + 5 * size) * sizeof(REAL));
    if (!work) {
        free(at);
        return 1;
    }
    REAL *rest = work + 3 * total;
    Scratch s = {work, work + total, work + 2 * total, rest, rest + size, rest + 2 * size, rest + 4 * size, at};
    for (int64_t b = start; b < stop; b++) {
        for (int64_t i = 0; i < net->levels; i++) {
            const Level *v = net->level + i;
            REAL *dx = s.dx + at[i];
            if (v->grad_out) see_adjoint(v, b, d, dx, s.dr + at[i]);
            else {
                memset(dx, 0, v->n * d * sizeof(REAL));
                memset(s.dr + at[i], 0, v->n * d * sizeof(REAL));
            }
            if (v->grad_x)
                for (int64_t k = 0; k < v->n * d; k++) dx[k] += v->grad_x[b * v->n * d + k];
        }
        for (int64_t i = 0; i < net->levels; i++)
            if (net->level[i].role != INPUT) up_adjoint(net, i, b, &s);
        for (int64_t i = net->levels - 1; i >= 0; i--) {
            const Level *v = net->level + i;
            if (v->role == INPUT) memcpy(v->state_grad + b * v->n * d, s.dx + at[i], v->n * d * sizeof(REAL));
            else down_adjoint(net, i, b, &s);
        }
    }
    free(work);
    free(at);
    return 0;
}
