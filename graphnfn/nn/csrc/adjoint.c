#include "sweep.h"

static void see_adjoint(const Level *v, int64_t b, int64_t d, REAL *dx, REAL *dy) {
    for (int64_t i = 0; i < v->n; i++) {
        int64_t at = (b * v->n + i) * d;
        const REAL *x = v->x + at, *y = v->back + at, *r = v->root + at, *grad = v->grad_out + at;
        if (v->bars) see_adjoint_one(1, d, v->mix, x, y, r, grad, dx + i * d, dy + i * d, v->mix_grad);
        else see_adjoint_one(0, d, v->mix, x, y, r, grad, dx + i * d, dy + i * d, v->mix_grad);
    }
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
        for (int64_t l = 0; l < net->links; l++) s.m[l] = weights_of(net, l, b, s.t, s.area[l]);
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
