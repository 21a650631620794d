/* Products of small matrices with maps whose samples lie side by side, a tile of the result in registers at a time. */

#pragma once
#include "neurons.h"

#ifdef __AVX512F__
#define ROWS 8
#else
#define ROWS 2 /* 16 registers of half the width */
#endif
#define WIDEST 3 /* vectors of a column of samples, and factors on the right of a tile of inner products */

/* weights [count, rows] at w, and where the first of the count rows of a map is at x */
typedef struct {
    const REAL *w, *x;
} Run;

#define MIX_TILE(R, H)                                                                                  \
    do {                                                                                                \
        vec s[R][H];                                                                                    \
        for (int r = 0; r < R; r++)                                                                     \
            for (int h = 0; h < H; h++) s[r][h] = (vec){0} + (bias ? bias[i + r] : 0);                  \
        for (int64_t n = 0; n < runs; n++) {                                                            \
            const REAL *w = run[n].w + i;                                                               \
            for (int64_t k = 0; k < count; k++, w += rows) {                                            \
                const REAL *x = run[n].x + at[k];                                                       \
                for (int h = 0; h < H; h++) {                                                           \
                    vec q = *(const vec *)(x + h * LANES);                                              \
                    for (int r = 0; r < R; r++) s[r][h] += w[r] * q;                                    \
                }                                                                                       \
            }                                                                                           \
        }                                                                                               \
        for (int r = 0; r < R; r++)                                                                     \
            for (int h = 0; h < H; h++) {                                                               \
                if (gain) s[r][h] *= *(const vec *)(gain + ((i + r) * H + h) * LANES);                  \
                *(vec *)(out + (i + r) * apart + h * LANES) = s[r][h];                                  \
            }                                                                                           \
    } while (0)

#define MIX_ROWS(H)                                        \
    do {                                                   \
        int64_t i = 0;                                     \
        for (; i + ROWS <= rows; i += ROWS) MIX_TILE(ROWS, H); \
        for (; i < rows; i++) MIX_TILE(1, H);              \
    } while (0)

/* out[i] = gain[i] (bias[i] + sum over runs and k of w[k, i] x[at[k]]) for a column of width vectors, rows of out are
 * apart; gain [rows, width] and bias may be null */
static inline void mix(int64_t width, int64_t rows, int64_t runs, const Run *run, int64_t count, const int64_t *at,
                       const REAL *bias, const REAL *gain, REAL *out, int64_t apart) {
    if (width == 1) MIX_ROWS(1);
    if (width == 2) MIX_ROWS(2);
    if (width == 3) MIX_ROWS(3);
}

/* places of a map that a factor walks over: down, across, and along neighbours in memory */
typedef struct {
    int64_t down, across, along, down_step, across_step;
} Walk;

#ifdef WIDE
#define HALF(v, a) __builtin_shufflevector(v, v, a, a + 1, a + 2, a + 3)
#define QUARTER(v, a) __builtin_shufflevector(v, v, a, a + 1)
#else
#define HALF(v, a) __builtin_shufflevector(v, v, a, a + 1, a + 2, a + 3, a + 4, a + 5, a + 6, a + 7)
#define QUARTER(v, a) __builtin_shufflevector(v, v, a, a + 1, a + 2, a + 3)
#endif
#define LOW(j, n) ((j) & (n) ? LANES + (j) - (n) : (j))
#define HIGH(j, n) ((j) & (n) ? LANES + (j) : (j) + (n))
#define EIGHT(F, j, n) F(j, n), F(j + 1, n), F(j + 2, n), F(j + 3, n), F(j + 4, n), F(j + 5, n), F(j + 6, n), F(j + 7, n)
#ifdef WIDE
#define EACH(F, n) EIGHT(F, 0, n)
#else
#define EACH(F, n) EIGHT(F, 0, n), EIGHT(F, 8, n)
#endif
/* every other block of n numbers is exchanged between two vectors */
#define LOWER(a, b, n) __builtin_shufflevector(a, b, EACH(LOW, n))
#define UPPER(a, b, n) __builtin_shufflevector(a, b, EACH(HIGH, n))

typedef REAL half __attribute__((vector_size(32)));
typedef REAL quarter __attribute__((vector_size(16)));

static inline REAL total(vec v) {
    half h = HALF(v, 0) + HALF(v, LANES / 2);
    quarter q = QUARTER(h, 0) + QUARTER(h, LANES / 4);
#ifdef WIDE
    return q[0] + q[1];
#else
    return (q[0] + q[2]) + (q[1] + q[3]);
#endif
}

/* sums of count vectors; those of eight together: halves are exchanged and added */
static inline void totals(int count, const vec *v, REAL *out, int64_t apart) {
    if (count != 8) {
        for (int i = 0; i < count; i++) out[i * apart] = total(v[i]);
        return;
    }
    vec w[4];
    for (int i = 0; i < 4; i++) w[i] = LOWER(v[2 * i], v[2 * i + 1], 1) + UPPER(v[2 * i], v[2 * i + 1], 1);
    for (int i = 0; i < 2; i++) w[i] = LOWER(w[2 * i], w[2 * i + 1], 2) + UPPER(w[2 * i], w[2 * i + 1], 2);
    w[0] = LOWER(w[0], w[1], 4) + UPPER(w[0], w[1], 4);
#ifdef WIDE
    vec all = w[0];
#else
    half all = HALF(w[0], 0) + HALF(w[0], 8);
#endif
    for (int i = 0; i < 8; i++) out[i * apart] = all[i];
}

#define DOT_TILE(R, C)                                                                          \
    do {                                                                                        \
        vec s[C][R];                                                                            \
        for (int r = 0; r < R; r++)                                                             \
            for (int c = 0; c < C; c++) s[c][r] = (vec){0};                                     \
        const REAL *q = d + i * apart;                                                          \
        for (int64_t y = 0; y < walk.down; y++)                                                 \
            for (int64_t z = 0; z < walk.across; z++) {                                         \
                const REAL *p = x + y * walk.down_step + z * walk.across_step;                  \
                for (int64_t t = 0; t < walk.along; t += LANES, q += LANES) {                   \
                    vec v[C];                                                                   \
                    for (int c = 0; c < C; c++) v[c] = *(const vec *)(p + at[k + c] + t);       \
                    for (int r = 0; r < R; r++) {                                               \
                        vec u = *(const vec *)(q + r * apart);                                  \
                        for (int c = 0; c < C; c++) s[c][r] += u * v[c];                        \
                    }                                                                           \
                }                                                                               \
            }                                                                                   \
        for (int c = 0; c < C; c++) totals(R, s[c], out + i * count + k + c, count);            \
    } while (0)

#define DOT_ROWS(R)                                          \
    do {                                                     \
        int64_t k = 0;                                       \
        for (; k + WIDEST <= count; k += WIDEST) DOT_TILE(R, WIDEST); \
        for (; k < count; k++) DOT_TILE(R, 1);               \
    } while (0)

/* out[i, k] = sum over places of d[i] x[at[k]]; rows of d are apart, and hold their places one after the other */
static inline void dots(int64_t rows, const REAL *d, int64_t apart, int64_t count, const REAL *x, const int64_t *at,
                        Walk walk, REAL *out) {
    int64_t i = 0;
    for (; i + ROWS <= rows; i += ROWS) DOT_ROWS(ROWS);
    for (; i < rows; i++) DOT_ROWS(1);
}

/* out[i] = sum of d[i]; four sums at once, as one would wait for itself */
static inline void sums(int64_t rows, const REAL *d, int64_t apart, int64_t along, REAL *out) {
    for (int64_t i = 0; i < rows; i++) {
        vec s[4] = {{0}, {0}, {0}, {0}};
        const REAL *q = d + i * apart, *end = q + along;
        for (; q + 4 * LANES <= end; q += 4 * LANES)
            for (int h = 0; h < 4; h++) s[h] += *(const vec *)(q + h * LANES);
        for (; q < end; q += LANES) s[0] += *(const vec *)q;
        out[i] = total((s[0] + s[1]) + (s[2] + s[3]));
    }
}

#define EXCHANGE(n)                             \
    for (int i = 0; i < LANES; i++)             \
        if (!(i & (n))) {                       \
            vec a = v[i], b = v[i + (n)];       \
            v[i] = LOWER(a, b, n);              \
            v[i + (n)] = UPPER(a, b, n);        \
        }

/* a square of as many vectors as they have numbers */
static inline void turn(vec *v) {
    EXCHANGE(1);
    EXCHANGE(2);
    EXCHANGE(4);
#ifndef WIDE
    EXCHANGE(8);
#endif
}

/* numbers rounded up to whole vectors */
static inline int64_t whole(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

/* an odd number of vectors: rows so far apart do not fight for the same places of the cache */
static inline int64_t odd(int64_t count) { return ((count + LANES - 1) / LANES | 1) * LANES; }

/* the width in vectors of the next column where so many are left: 3 as long as possible, no single one behind them */
static inline int64_t column(int64_t left) { return left > WIDEST + 1 || left == WIDEST ? WIDEST : left > 1 ? 2 : 1; }

enum { RELU, TANH, SINE };

#ifndef WIDE
typedef int32_t ivec __attribute__((vector_size(64), aligned(4), may_alias));

/* sin and cos of |t| < 1000 to 1e-7: r = t - n pi, |r| <= pi / 2, both have the sign of (-1)^n */
static inline void near_wave(vec t, vec *sine, vec *cosine) {
    const float high = 3.14159274f, low = -8.74227766e-8f, shift = 12582912.0f; /* 1.5 * 2^23: n is in the last bits */
    vec n = t * 0.318309886f + shift;
    ivec sign = (ivec)n << 31;
    n -= shift;
    vec r = t - n * high;
    r -= n * low;
    vec u = r * r;
    vec s = r + r * u * (-1.66666595e-1f + u * (8.33306543e-3f + u * (-1.98095390e-4f + u * 2.60563110e-6f)));
    vec c = -0.5f + u * (4.16666557e-2f + u * (-1.38885682e-3f + u * (2.47692407e-5f - u * 2.61924841e-7f)));
    c = 1.0f + u * c;
    *sine = (vec)((ivec)s ^ sign), *cosine = (vec)((ivec)c ^ sign);
}
#endif

static inline void waves(int64_t rows, int64_t count, REAL *z, REAL *x, int64_t apart) {
#ifndef WIDE
    int32_t most = 0; /* bits without the sign: they are sorted as the numbers are, NaN behind all */
    for (int64_t t = 0; t < rows * count; t++) {
        union { float f; int32_t i; } bits = {z[t]};
        int32_t size = bits.i & 0x7fffffff;
        most = size > most ? size : most;
    }
    int far = most >= 0x447a0000; /* 1000 */
    for (int64_t i = 0; i < rows && !far; i++, x += apart)
        for (int64_t t = 0; t < count; t += LANES, z += LANES) near_wave(*(vec *)z, (vec *)(x + t), (vec *)z);
    if (!far) return;
#endif
    for (int64_t i = 0; i < rows; i++) wave(count, z + i * count, x + i * apart, 0);
}

/* count numbers of every row, whole vectors: z becomes the slope, x the value, whose rows are apart */
static inline void activate(int64_t kind, int64_t rows, int64_t count, REAL *restrict z, REAL *restrict x,
                            int64_t apart) {
    if (kind == SINE) {
        waves(rows, count, z, x, apart);
        return;
    }
    if (kind == TANH) tanh_of(rows * count, z);
    for (int64_t i = 0; i < rows; i++, z += count, x += apart)
        for (int64_t t = 0; t < count; t++) {
            REAL v = z[t];
            x[t] = kind == TANH || !(v < 0) ? v : 0; /* NaN stays */
            z[t] = kind == TANH ? 1 - v * v : v > 0 ? 1 : 0;
        }
}
