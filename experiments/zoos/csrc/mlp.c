/* The gradient of the mean square of a small MLP, network by network: see fast_mlp.py for the equations. */

#include "products.h"

typedef struct {
    int64_t in, out, kind, weight, bias; /* sizes, activation behind it, places of the parameters in a row of theta */
    double omega;
} Layer;

typedef struct {
    int64_t layers, samples, columns;
    const Layer *layer;
    const REAL *inputs, *targets, *theta; /* [in, samples], [k, out, samples], [k, columns] */
    REAL *grad, *losses;                  /* [k, columns], [k] */
} Task;

/* per layer: activations and their gradients [out, apart], slopes of a column, weights in both directions */
typedef struct {
    REAL *h, *d, *slope, *onward, *shift, *back;
} Work;

/* samples of a column: forward, the error, and back to the first layer, all in the first cache */
static void through(const Task *m, Work *work, const REAL *x, int64_t apart, const int64_t *at, int64_t first,
                    int64_t width, const REAL *targets) {
    int64_t last = m->layers - 1, n = width * MANY;
    for (int64_t l = 0; l <= last; l++) {
        const Layer *layer = m->layer + l;
        Run run = {work[l].onward, (l ? work[l - 1].h : x) + first};
        if (l == last) {
            mix(width, layer->out, 1, &run, layer->in, at, work[l].shift, 0, work[l].d + first, apart);
            break;
        }
        mix(width, layer->out, 1, &run, layer->in, at, work[l].shift, 0, work[l].slope, n);
        activate(layer->kind, layer->out, n, work[l].slope, work[l].h + first, apart);
    }
    REAL factor = (REAL)(2.0 / (double)(m->samples * m->layer[last].out));
    for (int64_t i = 0; i < m->layer[last].out; i++) {
        REAL *d = work[last].d + i * apart + first;
        const REAL *goal = targets + i * m->samples + first;
        int64_t there = m->samples - first < n ? m->samples - first : n;
        for (int64_t t = 0; t < there; t++) d[t] = factor * (d[t] - goal[t]);
        for (int64_t t = there; t < n; t++) d[t] = 0;
    }
    for (int64_t l = last; l > 0; l--) {
        Run run = {work[l].back, work[l].d + first};
        mix(width, m->layer[l].in, 1, &run, m->layer[l].out, at, 0, work[l - 1].slope, work[l - 1].d + first, apart);
    }
}

static void one(const Task *m, Work *work, const REAL *x, int64_t apart, const int64_t *at, int64_t b) {
    const REAL *theta = m->theta + b * m->columns, *targets = m->targets + b * m->layer[m->layers - 1].out * m->samples;
    REAL *grad = m->grad + b * m->columns, numbers = (REAL)(m->samples * m->layer[m->layers - 1].out);
    for (int64_t l = 0; l < m->layers; l++) {
        const Layer *layer = m->layer + l;
        const REAL *w = theta + layer->weight;
        REAL omega = (REAL)layer->omega, before = l ? (REAL)m->layer[l - 1].omega : 0;
        transpose(layer->out, layer->in, w, work[l].onward);
        for (int64_t k = 0; k < layer->in * layer->out; k++) {
            work[l].onward[k] *= omega;
            work[l].back[k] = before * w[k];
        }
        for (int64_t i = 0; i < layer->out; i++) work[l].shift[i] = omega * theta[layer->bias + i];
    }
    int64_t left = whole(m->samples) / MANY, first = 0;
    for (int64_t width; left; left -= width, first += width * MANY)
        through(m, work, x, apart, at, first, width = column(left), targets);
    Walk walk = {1, 1, whole(m->samples), 0, 0};
    for (int64_t l = 0; l < m->layers; l++) {
        const Layer *layer = m->layer + l;
        dots(layer->out, work[l].d, apart, layer->in, l ? work[l - 1].h : x, at, walk, grad + layer->weight);
        sums(layer->out, work[l].d, apart, walk.along, grad + layer->bias);
    }
    const Layer *last = m->layer + m->layers - 1;
    REAL squares = 0, one_square;
    for (int64_t i = 0; i < last->out; i++) {
        const REAL *d = work[m->layers - 1].d + i * apart;
        dots(1, d, apart, 1, d, at, walk, &one_square);
        squares += one_square;
    }
    m->losses[b] = squares * numbers / 4; /* d is 2 / numbers times the error */
}

int mlp_squares(const Task *m, int64_t networks) {
    int64_t apart = odd(m->samples), inputs = m->layer[0].in, most = inputs, numbers = inputs * apart;
    for (int64_t l = 0; l < m->layers; l++) {
        int64_t in = m->layer[l].in, out = m->layer[l].out;
        numbers += 2 * out * apart + whole(out * WIDEST * MANY) + 2 * whole(in * out) + whole(out);
        most = out > most ? out : most;
    }
    REAL *area = aligned_alloc(64, numbers * sizeof(REAL)), *free_area = area;
    int64_t *at = malloc(most * sizeof(int64_t));
    Work *work = malloc(m->layers * sizeof(Work));
    int failed = !area || !at || !work;
    if (!failed) {
        REAL *x = area;
        area += inputs * apart;
        memset(x, 0, inputs * apart * sizeof(REAL));
        for (int64_t j = 0; j < inputs; j++) memcpy(x + j * apart, m->inputs + j * m->samples, m->samples * sizeof(REAL));
        for (int64_t k = 0; k < most; k++) at[k] = k * apart;
        for (int64_t l = 0; l < m->layers; l++) {
            int64_t in = m->layer[l].in, out = m->layer[l].out;
            REAL **parts[] = {&work[l].h, &work[l].d, &work[l].slope, &work[l].onward, &work[l].back, &work[l].shift};
            int64_t sizes[] = {out * apart, out * apart, out * WIDEST * MANY, in * out, in * out, out};
            for (int p = 0; p < 6; p++) {
                *parts[p] = area;
                area += whole(sizes[p]);
            }
        }
        for (int64_t b = 0; b < networks; b++) one(m, work, x, apart, at, b);
    }
    free(free_area), free(at), free(work);
    return failed;
}
