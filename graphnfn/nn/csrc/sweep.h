/* The native sweep and its adjoint, network by network, so that everything stays in the first cache: tape.py and links.py
 * once more. Compiled once for float and once for double; compiled.py writes the structures below as rows of eight-byte
 * integers. */

#pragma once
#include "neurons.h"

enum { INPUT, HIDDEN, OUTPUT };

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

static inline Net net_of(void *memory) {
    Head *h = memory;
    Level *level = (Level *)(h + 1);
    Net net = {h->width, h->levels, h->links, level, (Link *)(level + h->levels), h->answer, h->answer_t, h->offset,
               h->answer_grad, h->offset_grad};
    return net;
}

static inline int64_t edges(const Net *net, const Link *link) { return net->level[link->dst].n * net->level[link->src].n; }

static inline const REAL *weights_of(const Net *net, int64_t l, int64_t b, REAL *work, REAL *out) {
    const Link *link = net->link + l;
    int64_t count = edges(net, link);
    return mixed(count, link->taps, link->ranks, link->weight + b * count * link->taps, link->mix, work, out);
}

/* y = slope * back */
static inline void slope_times(const Level *v, int64_t b, int64_t d, REAL *restrict y) {
    int64_t count = v->n * d;
    const REAL *restrict r = v->back + b * v->hold, *restrict x = v->x + b * count;
    const REAL *restrict kept = v->kept ? v->kept + b * v->hold : 0;
    if (v->act == IDENTITY) memcpy(y, r, count * sizeof(REAL));
    else if (v->act == RELU) for (int64_t k = 0; k < count; k++) y[k] = x[k] > 0 ? r[k] : 0;
    else if (v->act == TANH) for (int64_t k = 0; k < count; k++) y[k] = r[k] * (1 - x[k] * x[k]);
    else for (int64_t k = 0; k < count; k++) y[k] = r[k] * kept[k];
}

/* what one network needs besides the buffers of its levels */
typedef struct {
    const REAL **m;
    REAL **area, **grad, *dx, *dr, *bent, *y, *dy, *u, *t;
    int64_t *at;
    void *memory;
} Scratch;

static inline int prepare(const Net *net, int adjoint, Scratch *s) {
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
