/* What surrounds the dense layers of a gated update, row by row, where PyTorch would take a pass over memory for every
 * operator; gates.py has the equations and writes the structure below as a row of eight-byte integers. */

#include "small.h"

/* v is [rows, d], or one number a row where v_wide is 0; u and v are null where nothing but e leaves */
typedef struct {
    int64_t rows, d, bars, v_wide;
    double eps;
    const REAL *e, *mass, *r, *gain, *shift, *u, *v;
    REAL *y, *stats;          /* normalised [rows, 3 d]; mean and 1 / deviation [rows, 2] */
    const REAL *c;            /* [rows, 3 d] */
    REAL *e_out, *o, *size;   /* size is 1 / sqrt(1 + mean z^2) [rows] */
    const REAL *e_out_grad, *o_grad, *y_grad;
    REAL *c_grad, *c_sum, *u_grad, *v_grad;
    REAL *e_grad, *mass_grad, *r_grad, *gain_grad, *shift_grad;
} Gate;

static REAL sum_of(int64_t d, const REAL *a) {
    vec s = {0};
    REAL sum = 0;
    int64_t k = 0;
    for (; k + LANES <= d; k += LANES) s += *(const vec *)(a + k);
    for (int64_t h = 0; h < LANES; h++) sum += s[h];
    for (; k < d; k++) sum += a[k];
    return sum;
}

/* x = (e, M, r or |r|) of a row */
static void joined(const Gate *g, int64_t i, REAL *restrict x) {
    int64_t d = g->d;
    memcpy(x, g->e + i * d, d * sizeof(REAL));
    memcpy(x + d, g->mass + i * d, d * sizeof(REAL));
    const REAL *restrict r = g->r + i * d;
    for (int64_t k = 0; k < d; k++) x[2 * d + k] = g->bars && r[k] < 0 ? -r[k] : r[k];
}

int gate_enter(const Gate *g) {
    int64_t m = 3 * g->d;
    const REAL *restrict gain = g->gain, *restrict shift = g->shift;
    REAL *restrict x = malloc(m * sizeof(REAL));
    if (!x) return 1;
    for (int64_t i = 0; i < g->rows; i++) {
        REAL *restrict y = g->y + i * m;
        joined(g, i, x);
        REAL mean = sum_of(m, x) / m;
        for (int64_t k = 0; k < m; k++) x[k] -= mean;
        REAL scale = 1 / sqrt(dot(m, x, x) / m + g->eps);
        for (int64_t k = 0; k < m; k++) y[k] = x[k] * scale * gain[k] + shift[k];
        g->stats[2 * i] = mean, g->stats[2 * i + 1] = scale;
    }
    free(x);
    return 0;
}

/* z = u (1 + g) + v h of a row */
static void gated(const Gate *g, int64_t i, REAL *restrict z) {
    int64_t d = g->d;
    const REAL *restrict c = g->c + 3 * i * d, *restrict u = g->u + i * d, *restrict v = g->v + (g->v_wide ? i * d : i);
    if (g->v_wide) for (int64_t k = 0; k < d; k++) z[k] = u[k] * (1 + c[d + k]) + v[k] * c[2 * d + k];
    else for (int64_t k = 0; k < d; k++) z[k] = u[k] * (1 + c[d + k]) + *v * c[2 * d + k];
}

int gate_leave(const Gate *g) {
    int64_t d = g->d;
    for (int64_t i = 0; i < g->rows; i++) {
        const REAL *restrict e = g->e + i * d, *restrict c = g->c + 3 * i * d;
        REAL *restrict out = g->e_out + i * d, *restrict o = g->o + i * d;
        for (int64_t k = 0; k < d; k++) out[k] = e[k] + c[k];
        if (!g->u) continue;
        gated(g, i, o);
        REAL size = g->size[i] = 1 / sqrt(1 + dot(d, o, o) / d);
        for (int64_t k = 0; k < d; k++) o[k] *= size;
    }
    return 0;
}

/* with o = s z: dz = s (do - o mean(o do)), written to dv, which becomes dz h */
static void gated_adjoint(const Gate *g, int64_t i, REAL *restrict dc, REAL *restrict dv) {
    int64_t d = g->d;
    const REAL *restrict c = g->c + 3 * i * d, *restrict o = g->o + i * d, *restrict of = g->o_grad + i * d;
    const REAL *restrict u = g->u + i * d, *restrict v = g->v + (g->v_wide ? i * d : i);
    REAL along = dot(d, o, of) / d, size = g->size[i], *restrict du = g->u_grad + i * d;
    for (int64_t k = 0; k < d; k++) dv[k] = size * (of[k] - o[k] * along);
    for (int64_t k = 0; k < d; k++) dc[d + k] = dv[k] * u[k], du[k] = dv[k] * (1 + c[d + k]);
    if (g->v_wide) for (int64_t k = 0; k < d; k++) dc[2 * d + k] = dv[k] * v[k];
    else for (int64_t k = 0; k < d; k++) dc[2 * d + k] = dv[k] * *v;
    for (int64_t k = 0; k < d; k++) dv[k] *= c[2 * d + k];
}

int gate_leave_adjoint(const Gate *g) {
    int64_t d = g->d;
    REAL *dv = malloc(d * sizeof(REAL)), *restrict total = g->c_sum;
    if (!dv) return 1;
    for (int64_t i = 0; i < g->rows; i++) {
        REAL *restrict dc = g->c_grad + 3 * i * d;
        memcpy(dc, g->e_out_grad + i * d, d * sizeof(REAL));
        if (!g->u) memset(dc + d, 0, 2 * d * sizeof(REAL));
        else if (g->v_wide) gated_adjoint(g, i, dc, g->v_grad + i * d);
        else gated_adjoint(g, i, dc, dv), g->v_grad[i] = sum_of(d, dv);
        for (int64_t k = 0; k < 3 * d; k++) total[k] += dc[k];
    }
    free(dv);
    return 0;
}

/* with n = (x - mean) / deviation and t = gain dy: dx = (t - mean(t) - n mean(n t)) / deviation */
int gate_enter_adjoint(const Gate *g) {
    int64_t d = g->d, m = 3 * d;
    const REAL *restrict gain = g->gain;
    REAL *restrict gain_grad = g->gain_grad, *restrict shift_grad = g->shift_grad;
    REAL *restrict n = malloc(2 * m * sizeof(REAL)), *restrict t = n + m;
    if (!n) return 1;
    for (int64_t i = 0; i < g->rows; i++) {
        const REAL *restrict dy = g->y_grad + i * m, *restrict r = g->r + i * d, *restrict on = g->e_out_grad + i * d;
        REAL *restrict de = g->e_grad + i * d, *restrict dr = g->r_grad + i * d;
        REAL mean = g->stats[2 * i], scale = g->stats[2 * i + 1];
        joined(g, i, n);
        for (int64_t k = 0; k < m; k++) {
            n[k] = (n[k] - mean) * scale;
            t[k] = gain[k] * dy[k];
            gain_grad[k] += dy[k] * n[k];
            shift_grad[k] += dy[k];
        }
        REAL level = sum_of(m, t) / m, along = dot(m, n, t) / m;
        for (int64_t k = 0; k < m; k++) t[k] = scale * (t[k] - level - n[k] * along);
        for (int64_t k = 0; k < d; k++) de[k] = on[k] + t[k];
        memcpy(g->mass_grad + i * d, t + d, d * sizeof(REAL));
        if (g->bars) for (int64_t k = 0; k < d; k++) dr[k] = r[k] > 0 ? t[2 * d + k] : r[k] < 0 ? -t[2 * d + k] : 0;
        else memcpy(dr, t + 2 * d, d * sizeof(REAL));
    }
    free(n);
    return 0;
}
