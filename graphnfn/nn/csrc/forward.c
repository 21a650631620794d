#include "sweep.h"

static void see(const Level *v, int64_t b, int64_t d) {
    const REAL *x = v->x + b * v->n * d, *y = v->back + b * v->hold, *even = v->even + b * v->n * d;
    REAL *root = v->root + b * v->hold, *out = v->out + b * v->n * d;
    for (int64_t i = 0; i < v->n * d; i += d) {
        if (v->bars) see_one(1, d, v->mix, x + i, y + i, even + i, root + i, out + i);
        else see_one(0, d, v->mix, x + i, y + i, even + i, root + i, out + i);
    }
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
        for (int64_t l = 0; l < net->links; l++) s.m[l] = weights_of(net, l, b, s.t, s.area[l]);
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
