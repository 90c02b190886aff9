/* The pool itself: each item once, whoever calls, and after forks from several threads at once. */
#define _DEFAULT_SOURCE
#include "check.h"
#include "threads.h"
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    ptrdiff_t items;
    int *times;     /* each was handled; plain, for a race to be seen */
    atomic_int met; /* bits of the threads that had a share */
    int inner;      /* calls from within each item */
} Task;

static void count_items(void *context, Share *share)
{
    Task *t = context;
    atomic_fetch_or(&t->met, 1 << (share->thread & 15));
    for (ptrdiff_t i; next_item(share, &i);) {
        t->times[i]++;
        if (t->inner) {
            int times[9] = {0};
            Task own = {9, times, 0, 0};
            parallel(3, 9, count_items, &own);
            for (int k = 0; k < 9; k++)
                t->times[i] += times[k] - 1;
        }
    }
}

/* -> whether each was handled once. */
static int once_each(int threads, ptrdiff_t items, int inner)
{
    Task t = {items, calloc((size_t)items + 1, sizeof(int)), 0, inner};
    int right = t.times != NULL;
    if (right)
        parallel(threads, items, count_items, &t);
    for (ptrdiff_t i = 0; i < items && right; i++)
        right = t.times[i] == 1;
    free(t.times);
    return right;
}

static atomic_int wrong;

static void *call_often(void *seed)
{
    for (int i = 0; i < 300; i++)
        if (!once_each(1 + (i + *(int *)seed) % 9, 1 + i * i % 211, i % 5 == 0))
            atomic_fetch_add(&wrong, 1);
    return NULL;
}

/* All places of a job are taken some time: else its threads have ended, or were never made. */
static int threads_come(int threads)
{
    static int times[4000];
    for (int tries = 0; tries < 2000; tries++) {
        Task t = {4000, times, 0, 1};
        parallel(threads, 4000, count_items, &t);
        if (atomic_load(&t.met) == (1 << threads) - 1)
            return 1;
    }
    return 0;
}

/* Sanitizers' own locks and threads do not live through such forks. */
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define FORKS
static void *fork_often(void *seed)
{
    (void)seed;
    for (int i = 0; i < 40; i++) {
        int status = 0;
        once_each(3, 100, 0);
        const pid_t child = fork();
        if (child == 0) {
            alarm(60);
            _exit(!once_each(3, 1000, 1) || !threads_come(3));
        }
        if (child < 0 || waitpid(child, &status, 0) < 0 || status)
            atomic_fetch_add(&wrong, 1);
    }
    return NULL;
}
#endif

/* -> how often something was wrong. */
static int at_once(void *work(void *))
{
    enum { CALLERS = 4 };
    pthread_t callers[CALLERS];
    static int seeds[CALLERS] = {0, 1, 2, 3};
    atomic_store(&wrong, 0);
    for (int i = 0; i < CALLERS; i++)
        if (pthread_create(&callers[i], NULL, work, &seeds[i]) != 0)
            abort();
    for (int i = 0; i < CALLERS; i++)
        pthread_join(callers[i], NULL);
    return atomic_load(&wrong);
}

void check_pool(void)
{
    static const ptrdiff_t items[] = {0, 1, 2, 5, 64, 1000, 100003};
    static const int counts[] = {1, 2, 3, 7, MAX_THREADS};
    const Tensors t = {.dtype = F32};
    const Call c = {.name = "pool", .data = "", .way = "", .t = (Tensors *)&t};
    for (size_t n = 0; n < sizeof counts / sizeof *counts; n++)
        for (size_t i = 0; i < sizeof items / sizeof *items; i++)
            check(once_each(counts[n], items[i], i == 4), &c, "each item once", items[i], counts[n],
                  NAN);
    check(threads_come(7), &c, "seven threads", 0, 0, 7);
    check(at_once(call_often) == 0, &c, "several callers", 0, NAN, 0);
#ifdef FORKS
    check(at_once(fork_often) == 0, &c, "several forks at once", 0, NAN, 0);
#endif
}
