/* Small matrices and vectors, row-major, of float or double (REAL). */

#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES ((int64_t)(64 / sizeof(REAL)))

typedef REAL vec __attribute__((vector_size(64), aligned(sizeof(REAL)), may_alias));

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

static inline void gemm(int fresh, int64_t n, int64_t m, const REAL *a, int64_t row, int64_t col, const REAL *x, REAL *out,
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

static inline REAL dot(int64_t d, const REAL *a, const REAL *b) {
    vec s = {0};
    REAL sum = 0;
    int64_t k = 0;
    for (; k + LANES <= d; k += LANES) s += *(const vec *)(a + k) * *(const vec *)(b + k);
    for (int64_t h = 0; h < LANES; h++) sum += s[h];
    for (; k < d; k++) sum += a[k] * b[k];
    return sum;
}

static inline void transpose(int64_t n, int64_t d, const REAL *restrict x, REAL *restrict out) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < d; k++) out[k * n + i] = x[i * d + k];
}

/* out = scale gain x */
static inline void scale_rows(int64_t n, int64_t d, const REAL *restrict x, const REAL *restrict gain, REAL scale,
                       REAL *restrict out) {
    for (int64_t i = 0; i < n * d; i += d)
        for (int64_t k = 0; k < d; k++) out[i + k] = x[i + k] * (gain[k] * scale);
}

/* total += scale gain u, and sum += scale u * x over rows */
static inline void gather(int64_t n, int64_t d, const REAL *restrict u, const REAL *restrict gain, REAL scale,
                   REAL *restrict total, const REAL *restrict x, REAL *restrict sum) {
    for (int64_t i = 0; i < n * d; i += d)
        for (int64_t k = 0; k < d; k++) {
            REAL one = scale * u[i + k];
            total[i + k] += gain[k] * one;
            sum[k] += one * x[i + k];
        }
}

/* out[i, j] = sum_k p[i, k] q[j, k], on top of what is there unless fresh */
static inline void outer(int fresh, int64_t n, int64_t m, int64_t d, const REAL *p, const REAL *q, REAL *t, REAL *out) {
    if (m >= LANES) {
        transpose(m, d, q, t);
        gemm(fresh, n, d, p, d, 1, t, out, m);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < m; j++)
            out[i * m + j] = dot(d, p + i * d, q + j * d) + (fresh ? 0 : out[i * m + j]);
}

/* mixed weights [ranks, dst, src] of count = dst * src edges with weights [dst, src, taps]; mix is [taps, ranks], or null
 * where there is one tap; work holds taps * count numbers, and may be where the weights are left (as [taps, dst, src]) */
static inline const REAL *mixed(int64_t count, int64_t taps, int64_t ranks, const REAL *w, const REAL *mix, REAL *work,
                                REAL *out) {
    if (!mix) return w;
    transpose(count, taps, w, work);
    gemm(1, ranks, taps, mix, 1, ranks, work, out, count);
    return out;
}
