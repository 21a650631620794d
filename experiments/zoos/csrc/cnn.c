/* Logits of a small CNN, or the gradient of its mean cross entropy, network by network: see fast_cnn.py for the
 * equations. A map is [channels, height, width, images]: no patches are copied, a tap is an offset. */

#include "products.h"

typedef struct {
    int64_t in, out, kind, weight, bias; /* channels, activation behind it, places of the parameters in a row of theta */
    int64_t taps[2], stride[2], dilation[2], from[2], to[2]; /* sizes of the kernel and of the maps */
} Conv;

typedef struct {
    int64_t layers, images, columns, classes, draws_apart, weight, bias; /* the last two of the dense layer */
    const Conv *conv;
    const REAL *pixels;                         /* [n, channels, height, width] */
    double mean, deviation;                     /* of the pixels */
    const int64_t *chosen, *labels;             /* [k, images], rows of pixels, and their classes */
    const REAL *draws, *drops;                  /* [k, draws_apart]: [images, channels] of every layer; [k]; or null: no dropout */
    const REAL *theta;                          /* [k, columns] */
    REAL *logits, *grad;                        /* [k, classes, images], or null: the gradient [k, columns] */
} Task;

/* per layer: its results (later their gradients), how far their channels are apart, dropout [out, images],
 * weights [in taps, out] and [taps, out, in], where its patches' numbers and the channels of its result are */
typedef struct {
    REAL *h, *mask, *onward, *back;
    int64_t apart, *patch, *channel;
} Work;

static int64_t taps_of(const Conv *c) { return c->taps[0] * c->taps[1]; }
static int64_t places_of(const Conv *c) { return c->to[0] * c->to[1]; }

/* images side by side, shifted and scaled: squares of images and pixels are turned around */
static void load(const Task *m, int64_t b, int64_t wide, int64_t apart, REAL *x) {
    int64_t pixels = m->conv->from[0] * m->conv->from[1], all = m->conv->in * pixels;
    REAL mean = (REAL)m->mean, deviation = (REAL)m->deviation;
    const int64_t *chosen = m->chosen + b * m->images;
    for (int64_t j = 0; j < m->conv->in; j++, x += apart)
        for (int64_t p = 0; p < pixels; p += MANY)
            for (int64_t first = 0; first < wide; first += MANY) {
                int64_t rows = pixels - p < MANY ? pixels - p : MANY;
                pack v[MANY];
                for (int64_t i = 0; i < MANY; i++) {
                    v[i] = (pack){0};
                    if (first + i >= m->images) continue;
                    const REAL *from = m->pixels + chosen[first + i] * all + j * pixels + p;
                    if (rows == MANY) v[i] = (*(const pack *)from - mean) / deviation;
                    for (int64_t t = 0; rows < MANY && t < rows; t++) v[i][t] = (from[t] - mean) / deviation;
                }
                turn(v);
                for (int64_t t = 0; t < rows; t++) *(pack *)(x + (p + t) * wide + first) = v[t];
            }
}

/* weights in both directions, and dropout: a channel of an image stays where its draw is not below the share */
static void prepare(const Task *m, Work *work, REAL *turned, int64_t wide, int64_t b) {
    const REAL *theta = m->theta + b * m->columns, *draw = m->draws ? m->draws + b * m->draws_apart : 0;
    REAL drop = draw ? m->drops[b] : 0, factor = 1 / (1 - drop);
    for (int64_t l = 0; l < m->layers; l++) {
        const Conv *c = m->conv + l;
        int64_t taps = taps_of(c);
        transpose(c->out, c->in * taps, theta + c->weight, work[l].onward);
        for (int64_t o = 0; o < c->out; o++)
            for (int64_t i = 0; i < c->in && l && m->grad; i++)
                for (int64_t t = 0; t < taps; t++)
                    work[l].back[(t * c->out + o) * c->in + i] = theta[c->weight + (o * c->in + i) * taps + t];
        if (!draw) continue;
        transpose(m->images, c->out, draw, turned);
        for (int64_t o = 0; o < c->out; o++)
            for (int64_t i = 0; i < m->images; i++)
                work[l].mask[o * wide + i] = turned[o * m->images + i] >= drop ? factor : 0;
        draw += m->images * c->out;
    }
}

/* h = mask sigma(z) in place, for channels at one place */
static void squash(const Conv *c, int64_t n, const REAL *mask, int64_t wide, REAL *h, int64_t apart) {
    for (int64_t o = 0; o < c->out; o++, h += apart, mask += wide) {
        if (c->kind == TANH) tanh_of(n, h);
        for (int64_t t = 0; t < n; t++) h[t] = mask[t] * (c->kind == TANH || !(h[t] < 0) ? h[t] : 0);
    }
}

/* d of z in the place of h, from that of h at one place */
static void bend(const Conv *c, int64_t n, const REAL *mask, int64_t wide, const REAL *d, int64_t d_apart, REAL *h,
                 int64_t apart) {
    for (int64_t o = 0; o < c->out; o++, h += apart, mask += wide, d += d_apart)
        for (int64_t t = 0; t < n; t++) {
            REAL kept = mask[t], v = h[t];
            /* kept tanh' = kept - v^2 / kept for v = kept tanh */
            REAL slope = c->kind == TANH ? (kept > 0 ? kept - v * v / kept : 0) : v > 0 ? kept : 0;
            h[t] = d[t] * slope;
        }
}

static void forward(const Task *m, Work *work, const REAL *x, int64_t wide, int64_t b) {
    for (int64_t l = 0; l < m->layers; l++) {
        const Conv *c = m->conv + l;
        const REAL *from = l ? work[l - 1].h : x, *bias = m->theta + b * m->columns + c->bias;
        for (int64_t place = 0; place < places_of(c); place++) {
            int64_t y = place / c->to[1] * c->stride[0], z = place % c->to[1] * c->stride[1];
            const REAL *corner = from + (y * c->from[1] + z) * wide;
            for (int64_t first = 0, n; first < wide; first += n) {
                int64_t width = column((wide - first) / MANY);
                n = width * MANY;
                Run run = {work[l].onward, corner + first};
                REAL *out = work[l].h + place * wide + first;
                mix(width, c->out, 1, &run, c->in * taps_of(c), work[l].patch, bias, 0, out, work[l].apart);
                squash(c, n, work[l].mask + first, wide, out, work[l].apart);
            }
        }
    }
}

/* at which place of the result a tap sees a place of the map, -1 at none; axis 0 is down, 1 across */
static int64_t source(const Conv *c, int axis, int64_t place, int64_t tap) {
    int32_t from = (int32_t)(place - tap * c->dilation[axis]), stride = (int32_t)c->stride[axis], to = from / stride;
    return from < 0 || to * stride != from || to >= c->to[axis] ? -1 : to;
}

/* d of the layer before in the place of its results: at every place, all taps that see it */
static void backward(const Task *m, Work *work, Run *runs, REAL *scratch, int64_t wide, int64_t l) {
    const Conv *c = m->conv + l;
    for (int64_t y = 0; y < c->from[0]; y++)
        for (int64_t z = 0; z < c->from[1]; z++)
            for (int64_t first = 0, n; first < wide; first += n) {
                int64_t width = column((wide - first) / MANY), count = 0;
                n = width * MANY;
                for (int64_t t = 0; t < c->taps[0]; t++) {
                    int64_t down = source(c, 0, y, t);
                    for (int64_t u = 0; u < c->taps[1] && down >= 0; u++) {
                        int64_t across = source(c, 1, z, u);
                        if (across < 0) continue;
                        runs[count].w = work[l].back + (t * c->taps[1] + u) * c->out * c->in;
                        runs[count++].x = work[l].h + (down * c->to[1] + across) * wide + first;
                    }
                }
                REAL *h = work[l - 1].h + (y * c->from[1] + z) * wide + first;
                mix(width, c->in, count, runs, c->out, work[l].channel, 0, 0, scratch, n);
                bend(m->conv + l - 1, n, work[l - 1].mask + first, wide, scratch, n, h, work[l - 1].apart);
            }
}

/* (softmax - one hot) / images in the place of logits, nothing behind the last image */
static void entropy(const Task *m, const int64_t *labels, REAL *logits, int64_t wide) {
    for (int64_t i = 0; i < wide; i++) {
        REAL most = logits[i], sum = 0;
        for (int64_t k = 1; k < m->classes; k++) most = logits[k * wide + i] > most ? logits[k * wide + i] : most;
        for (int64_t k = 0; k < m->classes; k++) {
            REAL *v = logits + k * wide + i;
            *v = sizeof(REAL) == 8 ? exp(*v - most) : expf(*v - most);
            sum += *v;
        }
        for (int64_t k = 0; k < m->classes; k++) {
            REAL *v = logits + k * wide + i;
            *v = i < m->images ? (*v / sum - (labels[i] == k)) / m->images : 0;
        }
    }
}

/* head: pooled [channels, wide], logits [classes, wide], their weights [channels, classes] */
static void one(const Task *m, Work *work, Run *runs, REAL *x, int64_t x_apart, const int64_t *at, REAL *head,
                int64_t wide, int64_t b) {
    const Conv *top = m->conv + m->layers - 1;
    Work *last = work + m->layers - 1;
    int64_t places = places_of(top), channels = top->out;
    const REAL *theta = m->theta + b * m->columns, *dense = theta + m->weight;
    REAL *pooled = head, *logits = pooled + channels * wide, *turned = logits + m->classes * wide;
    load(m, b, wide, x_apart, x);
    prepare(m, work, head, wide, b);
    forward(m, work, x, wide, b);
    for (int64_t c = 0; c < channels; c++) {
        REAL *mean = pooled + c * wide, *h = last->h + c * last->apart;
        for (int64_t t = 0; t < wide; t++) mean[t] = h[t];
        for (int64_t p = 1; p < places; p++)
            for (int64_t t = 0; t < wide; t++) mean[t] += h[p * wide + t];
        for (int64_t t = 0; t < wide; t++) mean[t] /= places;
    }
    transpose(m->classes, channels, dense, turned);
    for (int64_t first = 0, width; first < wide; first += width * MANY) {
        Run run = {turned, pooled + first};
        width = column((wide - first) / MANY);
        mix(width, m->classes, 1, &run, channels, at, theta + m->bias, 0, logits + first, wide);
    }
    if (!m->grad) {
        for (int64_t k = 0; k < m->classes; k++)
            memcpy(m->logits + (b * m->classes + k) * m->images, logits + k * wide, m->images * sizeof(REAL));
        return;
    }
    REAL *grad = m->grad + b * m->columns;
    entropy(m, m->labels + b * m->images, logits, wide);
    Walk flat = {1, 1, wide, 0, 0};
    dots(m->classes, logits, wide, channels, pooled, at, flat, grad + m->weight);
    sums(m->classes, logits, wide, wide, grad + m->bias);
    for (int64_t k = 0; k < m->classes * channels; k++) turned[k] = dense[k] / places;
    for (int64_t first = 0, width; first < wide; first += width * MANY) {
        Run run = {turned, logits + first};
        width = column((wide - first) / MANY);
        mix(width, channels, 1, &run, m->classes, at, 0, 0, pooled + first, wide);
    }
    for (int64_t p = 0; p < places; p++) bend(top, wide, last->mask, wide, pooled, wide, last->h + p * wide, last->apart);
    for (int64_t l = m->layers - 1; l >= 0; l--) {
        const Conv *c = m->conv + l;
        const REAL *from = l ? work[l - 1].h : x;
        Walk walk = {c->to[0], c->to[1], wide, c->stride[0] * c->from[1] * wide, c->stride[1] * wide};
        if (c->stride[1] == 1) walk.across = 1, walk.along = c->to[1] * wide;
        dots(c->out, work[l].h, work[l].apart, c->in * taps_of(c), from, work[l].patch, walk, grad + c->weight);
        sums(c->out, work[l].h, work[l].apart, places_of(c) * wide, grad + c->bias);
        if (l) backward(m, work, runs, head, wide, l);
    }
}

int cnn_run(const Task *m, int64_t networks) {
    int64_t wide = whole(m->images), layers = m->layers, x_apart = odd(m->conv->from[0] * m->conv->from[1] * wide);
    int64_t numbers = m->conv->in * x_apart, places = 0, most = m->classes, taps = 1;
    for (int64_t l = 0; l < layers; l++) {
        const Conv *c = m->conv + l;
        int64_t weights = c->in * c->out * taps_of(c);
        numbers += c->out * (odd(places_of(c) * wide) + wide) + 2 * whole(weights);
        places += c->in * taps_of(c) + c->out;
        most = c->out > most ? c->out : most;
        taps = taps_of(c) > taps ? taps_of(c) : taps;
    }
    int64_t head = 2 * most * (wide > WIDEST * MANY ? wide : WIDEST * MANY) + whole(most * most);
    REAL *area = aligned_alloc(64, (numbers + head) * sizeof(REAL)), *next = area;
    int64_t *indices = malloc((places + most) * sizeof(int64_t)), *index = indices + most;
    Work *work = malloc(layers * sizeof(Work));
    Run *runs = malloc(taps * sizeof(Run));
    int failed = !area || !indices || !work || !runs;
    if (!failed) {
        REAL *x = next;
        next += m->conv->in * x_apart;
        memset(x, 0, m->conv->in * x_apart * sizeof(REAL));
        for (int64_t k = 0; k < most; k++) indices[k] = k * wide;
        for (int64_t l = 0; l < layers; l++) {
            const Conv *c = m->conv + l;
            int64_t weights = c->in * c->out * taps_of(c), before = l ? work[l - 1].apart : x_apart;
            work[l].apart = odd(places_of(c) * wide);
            REAL **parts[] = {&work[l].h, &work[l].mask, &work[l].onward, &work[l].back};
            int64_t sizes[] = {c->out * work[l].apart, c->out * wide, whole(weights), whole(weights)};
            for (int p = 0; p < 4; next += sizes[p++]) *parts[p] = next;
            for (int64_t t = 0; t < c->out * wide; t++) work[l].mask[t] = 1;
            work[l].patch = index;
            for (int64_t i = 0; i < c->in; i++)
                for (int64_t t = 0; t < taps_of(c); t++) {
                    int64_t down = t / c->taps[1] * c->dilation[0], across = t % c->taps[1] * c->dilation[1];
                    *index++ = i * before + (down * c->from[1] + across) * wide;
                }
            work[l].channel = index;
            for (int64_t o = 0; o < c->out; o++) *index++ = o * work[l].apart;
        }
        for (int64_t b = 0; b < networks; b++) one(m, work, runs, x, x_apart, indices, next, wide, b);
    }
    free(area), free(indices), free(work), free(runs);
    return failed;
}
