/* The pool. All that its threads agree by is one word, `state`: how many may still join the job,
 * and how many are at work on it. Nobody waits for one that is late: the caller lets no more join
 * when no items are left, and waits for those that have. */
#define _GNU_SOURCE
#include "threads.h"
#include "cpu.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

/* Of state: one at work, one place. A job's other fields are written while it is 0, and read by
 * those that have joined. */
enum { AT_WORK = 1, PLACE = 1 << 16 };

typedef struct {
    pthread_mutex_t use;  /* of the pool: by one caller, or a fork */
    pthread_mutex_t lock; /* for what follows, to sleep by */
    pthread_cond_t wake, done;
    atomic_uint state;
    atomic_int asleep, waiting, ending;
    int made, placed; /* placed: so many of them by keep_clear() */
    pthread_t threads[MAX_THREADS];
    atomic_long ids[MAX_THREADS]; /* the system's */
    Worker *worker;
    void *context;
    ptrdiff_t items, grain;
    int n;
    struct {
        _Alignas(64) _Atomic uint64_t left; /* from the first to the last, by grains of items */
    } stock[MAX_THREADS];
} Pool;
#define FRESH                           \
    {.use = PTHREAD_MUTEX_INITIALIZER,  \
     .lock = PTHREAD_MUTEX_INITIALIZER, \
     .wake = PTHREAD_COND_INITIALIZER,  \
     .done = PTHREAD_COND_INITIALIZER}
static Pool pool = FRESH;

static atomic_int limit = 1;
static _Thread_local int own_limit;
static _Thread_local int forking;

/* When a call ended that threads might have shared; this thread's is one. */
static atomic_long last_end;
static _Thread_local int timed;

/* Both sides look for so long before they sleep: to be woken takes as long. */
enum { SPIN_NS = 50000 };

static inline void pause_briefly(void)
{
#if defined(__SSE2__)
    _mm_pause();
#endif
}

static long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

/* ---- a job --------------------------------------------------------------------------- */

/* Each thread has a stock of neighbouring items, of the same place in every call, which may be in
 * its caches still. It takes them one by one; who has none left takes half of what another has. */
static uint64_t stretch(ptrdiff_t first, ptrdiff_t last)
{
    return (uint64_t)first << 32 | (uint64_t)last;
}

static void fill_stocks(ptrdiff_t grains)
{
    for (ptrdiff_t i = 0, first = 0; i < pool.n; i++) {
        const ptrdiff_t last = first + (grains + i) / pool.n;
        atomic_store_explicit(&pool.stock[i].left, stretch(first, last), memory_order_relaxed);
        first = last;
    }
}

/* The first, or, of another's, the last half. */
static int take_from(int stock, int half, ptrdiff_t *first, ptrdiff_t *last)
{
    _Atomic uint64_t *of = &pool.stock[stock].left;
    uint64_t left = atomic_load_explicit(of, memory_order_relaxed), rest;
    do {
        const ptrdiff_t low = (ptrdiff_t)(left >> 32), high = (ptrdiff_t)(left & UINT32_MAX);
        if (low == high)
            return 0;
        *first = half ? low + (high - low) / 2 : low;
        *last = half ? high : low + 1;
        rest = half ? stretch(low, *first) : stretch(*last, high);
    } while (!atomic_compare_exchange_weak_explicit(of, &left, rest, memory_order_relaxed,
                                                    memory_order_relaxed));
    return 1;
}

static int take_grain(int thread, ptrdiff_t *grain)
{
    ptrdiff_t last;
    if (take_from(thread, 0, grain, &last))
        return 1;
    for (int i = 1; i < pool.n; i++)
        if (take_from((thread + i) % pool.n, 1, grain, &last)) {
            atomic_store_explicit(&pool.stock[thread].left, stretch(*grain + 1, last),
                                  memory_order_relaxed);
            return 1;
        }
    return 0;
}

int next_item(Share *s, ptrdiff_t *item)
{
    ptrdiff_t grain;
    if (s->next == s->last) {
        if (s->alone || !take_grain(s->thread, &grain))
            return 0;
        s->next = grain * pool.grain;
        s->last = pool.items - s->next < pool.grain ? pool.items : s->next + pool.grain;
    }
    *item = s->next++;
    return 1;
}

static void work(int thread)
{
    pool.worker(pool.context, &(Share){.thread = thread});
    cpu_stream_end();
}

/* Works along, if there is a place. */
static int join_job(void)
{
    unsigned s = atomic_load(&pool.state);
    do
        if (s < PLACE)
            return 0;
    while (!atomic_compare_exchange_weak(&pool.state, &s, s - PLACE + AT_WORK));
    work(pool.n - (int)(s / PLACE));
    if (atomic_fetch_sub(&pool.state, AT_WORK) == AT_WORK && atomic_load(&pool.waiting)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_signal(&pool.done);
        pthread_mutex_unlock(&pool.lock);
    }
    return 1;
}

/* Until there is a job, or the end. */
static void sleep_on(void)
{
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.asleep, 1);
    while (atomic_load(&pool.state) < PLACE && !atomic_load(&pool.ending))
        pthread_cond_wait(&pool.wake, &pool.lock);
    atomic_fetch_sub(&pool.asleep, 1);
    pthread_mutex_unlock(&pool.lock);
}

static void *live(void *own)
{
#ifdef __linux__
    atomic_store((atomic_long *)own, syscall(SYS_gettid));
#endif
    (void)own;
    fp_enter();
    while (!atomic_load(&pool.ending)) {
        const long until = now() + SPIN_NS;
        int joined = 0;
        while (!(joined = join_job()) && !atomic_load(&pool.ending) && now() < until)
            pause_briefly();
        if (!joined)
            sleep_on();
    }
    return NULL;
}

/* ---- life ---------------------------------------------------------------------------- */

/* join() returns a little before the system forgets a thread, and a fork would count it. */
static void await_end(long id)
{
#ifdef __linux__
    for (int tries = 0; id && tries < 10000; tries++) {
        if (syscall(SYS_tgkill, (long)getpid(), id, 0L) < 0 && errno == ESRCH)
            return;
        sched_yield();
    }
#endif
    (void)id;
}

/* By who has the pool. */
static void end_all(void)
{
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.ending, 1);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < pool.made; i++)
        pthread_join(pool.threads[i], NULL);
    for (int i = 0; i < pool.made; i++)
        await_end(atomic_load(&pool.ids[i]));
    pool.made = pool.placed = 0;
    atomic_store(&pool.ending, 0);
}

/* A fork copies one thread alone. So there is no other while it lasts, but where a call is under
 * way: its threads stay with the parent, and the child starts afresh. */
static void before_fork(void)
{
    const int error = errno;
    forking = pthread_mutex_trylock(&pool.use) == 0;
    if (forking)
        end_all();
    errno = error;
}

static void after_fork(void)
{
    if (forking)
        pthread_mutex_unlock(&pool.use);
}

static void after_fork_in_child(void)
{
    static const Pool fresh = FRESH;
    pool.use = fresh.use;
    pool.lock = fresh.lock;
    pool.wake = fresh.wake;
    pool.done = fresh.done;
    atomic_store(&pool.state, 0);
    atomic_store(&pool.asleep, 0);
    atomic_store(&pool.waiting, 0);
    atomic_store(&pool.ending, 0); /* another thread may have been about to fork, too */
    pool.made = pool.placed = 0;
}

static int forks_watched;

/* When the library is loaded: a fork beside the first call has to be seen, too. */
__attribute__((constructor)) static void watch_forks(void)
{
    forks_watched = pthread_atfork(before_fork, after_fork, after_fork_in_child) == 0;
}

/* So many, or as many as the system grants, but none where a fork would go unseen. How many there
 * are. */
static int make(int n)
{
    enum { STACK = 4 << 20 }; /* several times what kernels take, sanitized ones included */
    pthread_attr_t attributes;
    sigset_t all, before;
    if (pool.made >= n || !forks_watched || pthread_attr_init(&attributes) != 0)
        return pool.made;
    pthread_attr_setstacksize(&attributes, STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; pool.made < n; pool.made++) {
        atomic_store(&pool.ids[pool.made], 0);
        if (pthread_create(&pool.threads[pool.made], &attributes, live, &pool.ids[pool.made]) != 0)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return pool.made;
}

/* ---- the caller's side --------------------------------------------------------------- */

/* All may run where the caller may, but, if that is enough for so many, not where it does. A
 * processor that sleeps may look taken (virtual ones do), and who is woken would wait on the
 * caller's for that to be free. */
static void keep_clear(unsigned places)
{
#ifdef __linux__
    static cpu_set_t others;
    const int cpu = sched_getcpu();
    cpu_set_t mine, clear;
    if (sched_getaffinity(0, sizeof mine, &mine) != 0 || cpu < 0 || cpu >= CPU_SETSIZE)
        return;
    clear = mine;
    CPU_CLR((size_t)cpu, &clear);
    if (CPU_COUNT(&clear) < (int)places)
        clear = mine;
    if (!CPU_EQUAL(&clear, &others))
        pool.placed = 0;
    others = clear;
    for (; pool.placed < pool.made; pool.placed++)
        pthread_setaffinity_np(pool.threads[pool.placed], sizeof others, &others);
#endif
}

static void invite(unsigned places)
{
    if (atomic_load(&pool.asleep) || pool.placed < pool.made)
        keep_clear(places);
    atomic_store(&pool.state, places * PLACE);
    if (atomic_load(&pool.asleep) == 0)
        return;
    pthread_mutex_lock(&pool.lock);
    for (unsigned i = 0; i < places; i++)
        pthread_cond_signal(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
}

/* No more may join; those at work are waited for. */
static void finish_job(void)
{
    const long until = now() + SPIN_NS;
    atomic_fetch_and(&pool.state, PLACE - 1u);
    while (atomic_load(&pool.state)) {
        if (now() < until) {
            pause_briefly();
            continue;
        }
        pthread_mutex_lock(&pool.lock);
        atomic_store(&pool.waiting, 1);
        while (atomic_load(&pool.state))
            pthread_cond_wait(&pool.done, &pool.lock);
        atomic_store(&pool.waiting, 0);
        pthread_mutex_unlock(&pool.lock);
    }
}

static void share_out(int most, ptrdiff_t items, Worker *worker, void *context)
{
    const int others = make(most - 1) < most - 1 ? pool.made : most - 1;
    pool.worker = worker;
    pool.context = context;
    pool.items = items;
    pool.n = others + 1;
    pool.grain = items / UINT32_MAX + 1;
    fill_stocks((items - 1) / pool.grain + 1);
    invite((unsigned)others);
    work(0);
    finish_job();
}

void parallel(int n, ptrdiff_t items, Worker *worker, void *context)
{
    const int most = items < n ? (int)items : n;
    if (most > 1 && pthread_mutex_trylock(&pool.use) == 0) {
        share_out(most, items, worker, context);
        pthread_mutex_unlock(&pool.use);
    } else {
        worker(context, &(Share){.last = items, .alone = 1});
    }
    if (timed)
        atomic_store_explicit(&last_end, now(), memory_order_relaxed);
}

/* ---- how many ------------------------------------------------------------------------ */

int threads_limit(void)
{
    return atomic_load_explicit(&limit, memory_order_relaxed);
}

void threads_set_limit(int n)
{
    atomic_store(&limit, n);
}

int threads_own_limit(void)
{
    return own_limit;
}

void threads_set_own_limit(int n)
{
    own_limit = n;
}

/* To wake one costs about 8 us, and 30 until it is there: not for less than LONG, but where calls
 * follow each other so closely that it will be awake for the next. */
static int worth_waking(ptrdiff_t bytes)
{
    enum { LONG = 1 << 22 };
    return bytes >= LONG || now() - atomic_load_explicit(&last_end, memory_order_relaxed) < SPIN_NS;
}

static _Atomic ptrdiff_t asked; /* 0: who calls knows */

void threads_from(ptrdiff_t bytes)
{
    atomic_store(&asked, bytes > 0 ? bytes : 0);
}

int threads_of(int most, ptrdiff_t bytes, ptrdiff_t each)
{
    const ptrdiff_t least = atomic_load_explicit(&asked, memory_order_relaxed);
    const ptrdiff_t n = bytes / (least ? least : each);
    return n < 1 ? 1 : n < most ? (int)n : most;
}

int threads_for(ptrdiff_t bytes, ptrdiff_t each)
{
    const ptrdiff_t least = atomic_load_explicit(&asked, memory_order_relaxed);
    const int most = own_limit ? own_limit : threads_limit(), n = threads_of(most, bytes, each);
    timed = n > 1;
    return n > 1 && (least || worth_waking(bytes)) ? n : 1;
}
