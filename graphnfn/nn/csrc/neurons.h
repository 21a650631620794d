/* Activations, and what a neuron sees of its activation and adjoint: responses.py and seen.py for a few rows. */

#pragma once
#include "small.h"

enum { IDENTITY, RELU, TANH, SIN, COS };

/* sin and cos of z; z becomes the slope (of sin or cos), x the value */
static inline void wave(int64_t count, REAL *restrict z, REAL *restrict x, int cosine) {
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
static inline void tanh_of(int64_t count, REAL *restrict z) {
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
