/* Messages along one block, for layers that are not compiled as a whole: out = M (gain * x) summed over ranks, from
 * sources to targets or turned around, with weights or their absolute values. */

#include "small.h"

typedef struct {
    int64_t width, dst, src, taps, ranks, turned, bars, stride;
    const REAL *weight, *mix, *gain, *x;
    REAL *out;
    const REAL *grad;
    REAL *x_grad, *gain_grad, *mix_grad;
} Message;

/* the mixed weights of a network; work leaves the raw ones as [taps, dst, src] */
static const REAL *matrix(const Message *m, int64_t b, REAL *work, REAL *out) {
    int64_t count = m->dst * m->src, all = count * m->taps;
    const REAL *w = m->weight + b * all;
    if (m->bars) {
        for (int64_t k = 0; k < all; k++) work[all + k] = w[k] < 0 ? -w[k] : w[k];
        w = work + all;
    }
    return mixed(count, m->taps, m->ranks, w, m->mix, work, out);
}

static REAL *scratch(const Message *m) {
    int64_t most = m->dst > m->src ? m->dst : m->src, count = m->dst * m->src;
    return malloc((2 * count * m->taps + 2 * count * m->ranks + 2 * most * m->width) * sizeof(REAL));
}

int message_forward(const Message *m, int64_t networks) {
    int64_t d = m->width, count = m->dst * m->src, into = m->turned ? m->dst : m->src, onto = m->turned ? m->src : m->dst;
    REAL *work = scratch(m);
    if (!work) return 1;
    REAL *area = work + 2 * count * m->taps, *u = area + 2 * count * m->ranks;
    for (int64_t b = 0; b < networks; b++) {
        const REAL *w = matrix(m, b, work, area);
        for (int64_t r = 0; r < m->ranks; r++) {
            scale_rows(into, d, m->x + b * m->stride, m->gain + r * d, 1, u);
            gemm(r == 0, onto, into, w + r * count, m->turned ? 1 : m->src, m->turned ? m->src : 1, u,
                 m->out + b * onto * d, d);
        }
    }
    free(work);
    return 0;
}

int message_adjoint(const Message *m, int64_t networks) {
    int64_t d = m->width, count = m->dst * m->src, into = m->turned ? m->dst : m->src, onto = m->turned ? m->src : m->dst;
    REAL *work = scratch(m);
    if (!work) return 1;
    REAL *area = work + 2 * count * m->taps, *part = area + count * m->ranks, *u = part + count * m->ranks;
    REAL *t = u + (into > onto ? into : onto) * d;
    for (int64_t b = 0; b < networks; b++) {
        const REAL *w = matrix(m, b, work, area), *grad = m->grad + b * onto * d, *x = m->x + b * m->stride;
        for (int64_t r = 0; r < m->ranks; r++) {
            gemm(1, into, onto, w + r * count, m->turned ? m->src : 1, m->turned ? 1 : m->src, grad, u, d);
            gather(into, d, u, m->gain + r * d, 1, m->x_grad + b * m->stride, x, m->gain_grad + r * d);
            if (!m->mix_grad) continue;
            scale_rows(into, d, x, m->gain + r * d, 1, u);
            if (m->turned) outer(1, m->dst, m->src, d, u, grad, t, part + r * count);
            else outer(1, m->dst, m->src, d, grad, u, t, part + r * count);
        }
        for (int64_t k = 0; m->mix_grad && k < m->taps; k++)
            for (int64_t r = 0; r < m->ranks; r++)
                m->mix_grad[k * m->ranks + r] += dot(count, work + k * count, part + r * count);
    }
    free(work);
    return 0;
}
