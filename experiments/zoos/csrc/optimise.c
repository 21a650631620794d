/* A step of the stacked optimisers, network by network: see optimisers.py for the rules. */

#include "products.h"

typedef struct {
    int64_t columns, decays;
    double most; /* the longest gradient; longer ones are shortened */
    REAL *theta, *grad, *m, *v; /* [k, columns] */
    const REAL *decay, *keep, *gain, *second, *add, *least, *rate, *adaptive; /* [k] */
} Task;

static inline REAL root(REAL t) { return sizeof(REAL) == 8 ? sqrt(t) : sqrtf(t); }

int optimise(const Task *t, int64_t networks) {
    for (int64_t b = 0; b < networks; b++) {
        REAL *restrict theta = t->theta + b * t->columns, *restrict m = t->m + b * t->columns;
        REAL *restrict v = t->v + b * t->columns;
        const REAL *restrict grad = t->grad + b * t->columns;
        REAL norm = root(dot(t->columns, grad, grad)), most = (REAL)t->most;
        REAL factor = norm <= most ? 1 : most / norm, decay = t->decays ? t->decay[b] : 0; /* NaN stays */
        REAL keep = t->keep[b], gain = t->gain[b], second = t->second[b], add = t->add[b];
        REAL least = t->least[b], rate = t->rate[b], adaptive = t->adaptive[b];
        for (int64_t k = 0; k < t->columns; k++) {
            REAL g = factor * grad[k] + decay * theta[k];
            m[k] = keep * m[k] + gain * g;
            v[k] = second * v[k] + add * g * g;
            theta[k] += rate * (m[k] / (root(v[k]) * adaptive + least));
        }
    }
    return 0;
}
