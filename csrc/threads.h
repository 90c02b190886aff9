/* Who runs the items of a call. Shape and layout fix what an item is, and with it every bit; the
 * number of threads decides nothing but who runs which, and in what order.
 *
 * The threads are this process's own: made when the first call wants them, asleep between calls but
 * for a moment, joined before a fork. They know nothing of Python and take no signals. One call at
 * a time has them: others, and calls from within items, run alone. */
#ifndef NORMC_THREADS_H
#define NORMC_THREADS_H
#include <stddef.h>

enum { MAX_THREADS = 256 };

/* What one of a call's threads is at, `thread` of 0 .. n - 1. */
typedef struct {
    ptrdiff_t next, last;
    int thread, alone;
} Share;
/* Handles items until next_item() has no more, mostly neighbours. */
typedef void Worker(void *context, Share *);
int next_item(Share *, ptrdiff_t *item);

/* On at most n threads, the caller among them: each of the items once. */
void parallel(int n, ptrdiff_t items, Worker *, void *context);
/* How many threads repay being woken, for work that takes as long as so many bytes do to be read or
 * written; each: what repays one. */
int threads_for(ptrdiff_t bytes, ptrdiff_t each);
/* Of `most` that may take part, how many repay it. */
int threads_of(int most, ptrdiff_t bytes, ptrdiff_t each);
/* One for so many bytes, where a test asks for it (0: no longer). */
void threads_from(ptrdiff_t bytes);

/* How many there may be, 1 .. MAX_THREADS: of calls from everywhere, or from this thread alone (0:
 * as everywhere). */
int threads_limit(void);
void threads_set_limit(int n);
int threads_own_limit(void);
void threads_set_own_limit(int n);
#endif
