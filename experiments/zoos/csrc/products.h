/* Products of small matrices with maps whose samples lie side by side, a tile of the result in registers at a time. */

#pragma once
#include "neurons.h"

/* what a register holds: compilers do badly with vectors that take several */
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#ifdef WIDE
#define MANY (BYTES / 8)
#else
#define MANY (BYTES / 4)
#endif
typedef REAL pack __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));

#if defined(__AVX512F__) || defined(__aarch64__)
#define ROWS 8
#else
#define ROWS 4 /* there are 16 registers */
#endif
#define WIDEST 3 /* vectors of a column of samples, and factors on the right of a tile of inner products */

/* weights [count, rows] at w, and where the first of the count rows of a map is at x */
typedef struct {
    const REAL *w, *x;
} Run;

#define MIX_TILE(R, H)                                                                                  \
    do {                                                                                                \
        pack s[R][H];                                                                                    \
        for (int r = 0; r < R; r++)                                                                     \
            for (int h = 0; h < H; h++) s[r][h] = (pack){0} + (bias ? bias[i + r] : 0);                  \
        for (int64_t n = 0; n < runs; n++) {                                                            \
            const REAL *w = run[n].w + i;                                                               \
            for (int64_t k = 0; k < count; k++, w += rows) {                                            \
                const REAL *x = run[n].x + at[k];                                                       \
                for (int h = 0; h < H; h++) {                                                           \
                    pack q = *(const pack *)(x + h * MANY);                                              \
                    for (int r = 0; r < R; r++) s[r][h] += w[r] * q;                                    \
                }                                                                                       \
            }                                                                                           \
        }                                                                                               \
        for (int r = 0; r < R; r++)                                                                     \
            for (int h = 0; h < H; h++) {                                                               \
                if (gain) s[r][h] *= *(const pack *)(gain + ((i + r) * H + h) * MANY);                  \
                *(pack *)(out + (i + r) * apart + h * MANY) = s[r][h];                                  \
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

#define LOW(j, n) ((j) & (n) ? MANY + (j) - (n) : (j))
#define HIGH(j, n) ((j) & (n) ? MANY + (j) : (j) + (n))
#define EIGHT(F, j, n) F(j, n), F(j + 1, n), F(j + 2, n), F(j + 3, n), F(j + 4, n), F(j + 5, n), F(j + 6, n), F(j + 7, n)
#if MANY == 2
#define EACH(F, n) F(0, n), F(1, n)
#elif MANY == 4
#define EACH(F, n) F(0, n), F(1, n), F(2, n), F(3, n)
#elif MANY == 8
#define EACH(F, n) EIGHT(F, 0, n)
#else
#define EACH(F, n) EIGHT(F, 0, n), EIGHT(F, 8, n)
#endif
/* every other block of n numbers is exchanged between two vectors */
#define LOWER(a, b, n) __builtin_shufflevector(a, b, EACH(LOW, n))
#define UPPER(a, b, n) __builtin_shufflevector(a, b, EACH(HIGH, n))

static inline REAL total(pack v) {
#if MANY > 8
    v += UPPER(v, v, 8);
#endif
#if MANY > 4
    v += UPPER(v, v, 4);
#endif
#if MANY > 2
    v += UPPER(v, v, 2);
#endif
    return v[0] + v[1];
}

/* sums of count vectors; those of eight together: halves are exchanged and added */
static inline void totals(int count, const pack *v, REAL *out, int64_t apart) {
#if MANY >= 8
    if (count == 8) {
        pack w[4];
        for (int i = 0; i < 4; i++) w[i] = LOWER(v[2 * i], v[2 * i + 1], 1) + UPPER(v[2 * i], v[2 * i + 1], 1);
        for (int i = 0; i < 2; i++) w[i] = LOWER(w[2 * i], w[2 * i + 1], 2) + UPPER(w[2 * i], w[2 * i + 1], 2);
        w[0] = LOWER(w[0], w[1], 4) + UPPER(w[0], w[1], 4);
#if MANY == 16
        w[0] += UPPER(w[0], w[0], 8);
#endif
        REAL all[MANY];
        *(pack *)all = w[0];
        for (int i = 0; i < 8; i++) out[i * apart] = all[i];
        return;
    }
#endif
    for (int i = 0; i < count; i++) out[i * apart] = total(v[i]);
}

#define DOT_TILE(R, C)                                                                          \
    do {                                                                                        \
        pack s[C][R];                                                                            \
        for (int r = 0; r < R; r++)                                                             \
            for (int c = 0; c < C; c++) s[c][r] = (pack){0};                                     \
        const REAL *q = d + i * apart;                                                          \
        for (int64_t y = 0; y < walk.down; y++)                                                 \
            for (int64_t z = 0; z < walk.across; z++) {                                         \
                const REAL *p = x + y * walk.down_step + z * walk.across_step;                  \
                for (int64_t t = 0; t < walk.along; t += MANY, q += MANY) {                   \
                    pack v[C];                                                                   \
                    for (int c = 0; c < C; c++) v[c] = *(const pack *)(p + at[k + c] + t);       \
                    for (int r = 0; r < R; r++) {                                               \
                        pack u = *(const pack *)(q + r * apart);                                  \
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
        pack s[4] = {{0}, {0}, {0}, {0}};
        const REAL *q = d + i * apart, *end = q + along;
        for (; q + 4 * MANY <= end; q += 4 * MANY)
            for (int h = 0; h < 4; h++) s[h] += *(const pack *)(q + h * MANY);
        for (; q < end; q += MANY) s[0] += *(const pack *)q;
        out[i] = total((s[0] + s[1]) + (s[2] + s[3]));
    }
}

#define EXCHANGE(n)                             \
    for (int i = 0; i < MANY; i++)             \
        if (!(i & (n))) {                       \
            pack a = v[i], b = v[i + (n)];       \
            v[i] = LOWER(a, b, n);              \
            v[i + (n)] = UPPER(a, b, n);        \
        }

/* a square of as many vectors as they have numbers */
static inline void turn(pack *v) {
    EXCHANGE(1);
#if MANY > 2
    EXCHANGE(2);
#endif
#if MANY > 4
    EXCHANGE(4);
#endif
#if MANY > 8
    EXCHANGE(8);
#endif
}

/* numbers rounded up to whole lines of the cache */
static inline int64_t whole(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

/* an odd number of lines: rows so far apart do not fight for the same places of the cache */
static inline int64_t odd(int64_t count) { return ((count + LANES - 1) / LANES | 1) * LANES; }

/* the width in vectors of the next column where so many are left: 3 as long as possible, no single one behind them */
static inline int64_t column(int64_t left) { return left > WIDEST + 1 || left == WIDEST ? WIDEST : left > 1 ? 2 : 1; }

#ifndef WIDE
typedef int32_t ipack __attribute__((vector_size(BYTES), aligned(4), may_alias));

/* sin and cos of |t| < 1000 to 1e-7: r = t - n pi, |r| <= pi / 2, both have the sign of (-1)^n */
static inline void near_wave(pack t, pack *sine, pack *cosine) {
    const float high = 3.14159274f, low = -8.74227766e-8f, shift = 12582912.0f; /* 1.5 * 2^23: n is in the last bits */
    pack n = t * 0.318309886f + shift;
    ipack sign = (ipack)n << 31;
    n -= shift;
    pack r = t - n * high;
    r -= n * low;
    pack u = r * r;
    pack s = r + r * u * (-1.66666595e-1f + u * (8.33306543e-3f + u * (-1.98095390e-4f + u * 2.60563110e-6f)));
    pack c = -0.5f + u * (4.16666557e-2f + u * (-1.38885682e-3f + u * (2.47692407e-5f - u * 2.61924841e-7f)));
    c = 1.0f + u * c;
    *sine = (pack)((ipack)s ^ sign), *cosine = (pack)((ipack)c ^ sign);
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
        for (int64_t t = 0; t < count; t += MANY, z += MANY) near_wave(*(pack *)z, (pack *)(x + t), (pack *)z);
    if (!far) return;
#endif
    for (int64_t i = 0; i < rows; i++) wave(count, z + i * count, x + i * apart, 0);
}

/* count numbers of every row, whole vectors: z becomes the slope, x the value, whose rows are apart */
static inline void activate(int64_t kind, int64_t rows, int64_t count, REAL *restrict z, REAL *restrict x,
                            int64_t apart) {
    if (kind == SIN) {
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
