/* A call's weight and bias, as kernels take them: one for a run, or both along its elements. */
#include "work.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

/* Is any magnitude at least `most`, or NaN? In the type itself, so that the loop is a vector's. */
static int any_above(const Work *w, const void *values, ptrdiff_t n, double most)
{
    int above = 0;
    if (w->t->dtype == F64)
        for (ptrdiff_t i = 0; i < n; i++)
            above |= !(fabs(((const double *)values)[i]) < most);
    else
        for (ptrdiff_t i = 0; i < n; i++)
            above |= !(fabsf(((const float *)values)[i]) < (float)most);
    return above;
}

/* Is each 0, or between 1 / MILD and MILD? */
static int mild(const Work *w, const void *values, ptrdiff_t n)
{
    int all = 1;
    if (w->t->dtype == F64)
        for (ptrdiff_t i = 0; values && i < n; i++) {
            const double size = fabs(((const double *)values)[i]);
            all &= (size >= 1 / MILD && size <= MILD) || size == 0;
        }
    else
        for (ptrdiff_t i = 0; values && i < n; i++) {
            const float size = fabsf(((const float *)values)[i]);
            all &= (size >= (float)(1 / MILD) && size <= (float)MILD) || size == 0;
        }
    return all;
}

/* Of short runs without a bias, from any place in a line on. Nobody writes them; const, they would
 * fill a file. */
enum { SHORT = 1 << 14 };
static _Alignas(LINE) char zeros[SHORT + LINE];

static ptrdiff_t place_in_line(const void *p)
{
    return (ptrdiff_t)((uintptr_t)p % LINE);
}

/* Vectors of y are of one line each (ALIGNED). Is it worth it that those of the parameters are,
 * too: that these have y's place in a line? Other threads would fetch what was moved from this
 * one's cache, and this one, in the next call, its lines from theirs. */
static int lines_up(const Work *w, ptrdiff_t bytes)
{
    enum { FEW = 8, MANY = 1 << 13 };
    const Plan *p = w->plan;
    const Loop *row = across(p);
    const int rows = p->form == ROWS && !p->pack && p->runs == 1 && w->t->dtype >= F32;
    const int alike = row->step[Y] % LINE == 0 && row->step[PARAM] == 0;
    const int alone = w->threads == 1 && w->inside == 1;
    return rows && alike && alone && w->t->y && bytes <= SHORT && p->n >= LINED &&
           p->groups >= FEW && p->groups * p->n >= MANY;
}

/* n values at `to`; NULL: ones. */
static const void *laid(const Work *w, void *to, const void *values, ptrdiff_t n)
{
    if (values)
        memcpy(to, values, (size_t)(n * arithsize(w->t->dtype)));
    for (ptrdiff_t i = 0; !values && i < n; i++)
        put(w, to, i, 1);
    return to;
}

/* Along the elements of a run there are both, or neither: what is missing is made, and what is not
 * at its place moved. */
static int pair(Work *w)
{
    const Job *job = w->job;
    const ptrdiff_t n = w->params, bytes = n * arithsize(w->t->dtype);
    const ptrdiff_t slot = (bytes + LINE) / LINE * LINE;
    const int lined = lines_up(w, bytes), no_bias = !job->bias && !w->t->g;
    const ptrdiff_t at = lined ? place_in_line(w->t->y) : 0;
    const int own_weight = !job->weight || (lined && place_in_line(job->weight) != at);
    const int moves = lined && job->bias && place_in_line(job->bias) != at;
    const int own_bias = no_bias ? bytes > SHORT : moves;
    if (no_bias)
        w->bias = zeros + at;
    if (!own_weight && !own_bias)
        return 0;
    const size_t size = (size_t)((own_weight + own_bias) * slot + LINE);
    /* no bias is 0, and of many elements nobody has to write it */
    char *room = w->owned = no_bias && own_bias ? calloc(size, 1) : malloc(size);
    if (!room)
        return -1;
    room += (at - place_in_line(room) + LINE) % LINE;
    if (own_weight)
        w->weight = laid(w, room, job->weight, n);
    room += own_weight * slot;
    if (own_bias)
        w->bias = no_bias ? room : laid(w, room, job->bias, n);
    return 0;
}

int weights_open(Work *w)
{
    const Job *job = w->job;
    const ptrdiff_t n = w->params;
    w->weight = job->weight;
    w->bias = job->bias;
    w->owned = NULL;
    if (w->vector && pair(w) < 0)
        return -1;
    w->mild = !w->vector && !w->t->g && mild(w, job->weight, n) && mild(w, job->bias, n);
    if (w->vector && !w->t->g) {
        /* halves have no flat term in their bound for what float loses near zero */
        const int half = w->t->dtype < F32;
        w->far = (job->bias && any_above(w, job->bias, n, limits(w).far)) ||
                 (half && job->weight && any_above(w, job->weight, n, 0x1p30));
    }
    return 0;
}
