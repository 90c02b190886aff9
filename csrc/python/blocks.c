/* Memory of large results. The page faults of a fresh array cost more than a norm does; huge pages
 * cost less, and memory that is there already costs nothing.
 *
 * Arrays outlive the module: they free their data by the handler that NumPy keeps with them, which
 * is static, as all here. It serves every size, since arrays may be resized. */
#include "blocks.h"

#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

/* From LARGE on, glibc's malloc maps whatever it is asked for anew. */
enum { LARGE = 32 << 20, HUGE_PAGE = 2 << 20 };

/* In a page of its own before the data, which begin with a huge page. */
typedef struct Block {
    size_t capacity; /* bytes of data: whole pages, but not whole huge ones */
    struct Block *older;
} Block;

static size_t page;
static PyObject *handler_capsule;

/* Arrays may be freed in any thread. The lock is held for a few steps along the list: no memory is
 * mapped meanwhile, and no Python called. */
static struct {
    pthread_mutex_t lock;
    Block *newest;
    Kept size;
} kept = {PTHREAD_MUTEX_INITIALIZER, NULL, {0, (size_t)256 << 20}};

/* Sizes are npy_intp in NumPy: no sum of theirs overflows here. */
static size_t whole_pages(size_t size)
{
    return (size + page - 1) / page * page;
}

static void *data_of(Block *block)
{
    return (char *)block + page;
}

static Block *block_of(void *data)
{
    return (Block *)((char *)data - page);
}

/* Only huge pages that will be filled are asked for: the rest of the last one would be memory that
 * nobody uses. */
static Block *map_block(size_t capacity)
{
    const size_t span = page + capacity + HUGE_PAGE;
    char *start = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    const size_t lead = -(uintptr_t)(start + page) % HUGE_PAGE;
    Block *block = (Block *)(start + lead);
    if (lead > 0)
        munmap(start, lead);
    munmap((char *)data_of(block) + capacity, HUGE_PAGE - lead);
#ifdef MADV_HUGEPAGE
    madvise(data_of(block), capacity / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
    block->capacity = capacity;
    return block;
}

static void unmap_blocks(Block *block)
{
    for (Block *older; block; block = older) {
        older = block->older;
        munmap(block, page + block->capacity);
    }
}

/* The smallest that is large enough, but by no more than a quarter; of equals the one freed last,
 * which may be in cache. */
static Block *take_kept(size_t capacity)
{
    Block **best = NULL, *block = NULL;
    pthread_mutex_lock(&kept.lock);
    for (Block **b = &kept.newest; *b; b = &(*b)->older)
        if ((*b)->capacity >= capacity && (*b)->capacity - capacity <= capacity / 4 &&
            (best == NULL || (*b)->capacity < (*best)->capacity))
            best = b;
    if (best) {
        block = *best;
        *best = block->older;
        kept.size.bytes -= block->capacity;
    }
    pthread_mutex_unlock(&kept.lock);
    return block;
}

/* Those that exceed the limit, the oldest of all; the lock is held. */
static Block *take_excess(void)
{
    Kept *k = &kept.size;
    Block **b = &kept.newest;
    for (k->bytes = 0; *b && (*b)->capacity <= k->limit - k->bytes; b = &(*b)->older)
        k->bytes += (*b)->capacity;
    Block *excess = *b;
    *b = NULL;
    return excess;
}

/* Small ones would never be asked for. The system may have the pages if it is short of memory:
 * until it takes them they are as good as before. */
static void keep(Block *block)
{
#ifdef MADV_FREE
    madvise(data_of(block), block->capacity, MADV_FREE);
#endif
    Block *excess = block;
    block->older = NULL;
    pthread_mutex_lock(&kept.lock);
    if (block->capacity >= LARGE && block->capacity <= kept.size.limit) {
        block->older = kept.newest;
        kept.newest = block;
        excess = take_excess();
    }
    pthread_mutex_unlock(&kept.lock);
    unmap_blocks(excess);
}

size_t blocks_limit(size_t bytes)
{
    pthread_mutex_lock(&kept.lock);
    const size_t before = kept.size.limit;
    kept.size.limit = bytes;
    Block *excess = take_excess();
    pthread_mutex_unlock(&kept.lock);
    unmap_blocks(excess);
    return before;
}

Kept blocks_kept(void)
{
    pthread_mutex_lock(&kept.lock);
    const Kept size = kept.size;
    pthread_mutex_unlock(&kept.lock);
    return size;
}

/* A child of fork() has what its parent kept, and a lock that no other thread holds. */
static void lock_kept(void)
{
    pthread_mutex_lock(&kept.lock);
}

static void unlock_kept(void)
{
    pthread_mutex_unlock(&kept.lock);
}

/* From here on, what the handler is made of (NEP 49). Before it fails, all that is kept is given
 * back. */
static void *new_data(size_t size)
{
    Block *block = map_block(whole_pages(size));
    if (block == NULL) {
        blocks_limit(blocks_limit(0));
        block = map_block(whole_pages(size));
    }
    return block ? data_of(block) : NULL;
}

static void *handler_malloc(void *Py_UNUSED(context), size_t size)
{
    Block *block = take_kept(whole_pages(size));
    return block ? data_of(block) : new_data(size);
}

/* What is kept holds other arrays' elements; the system's pages are zero. */
static void *handler_calloc(void *Py_UNUSED(context), size_t count, size_t size)
{
    return size && count > PTRDIFF_MAX / size ? NULL : new_data(count * size);
}

/* The size is what NumPy believes; a block knows better. */
static void handler_free(void *Py_UNUSED(context), void *data, size_t Py_UNUSED(size))
{
    if (data)
        keep(block_of(data));
}

static void *handler_realloc(void *context, void *data, size_t size)
{
    Block *block = block_of(data);
    const size_t capacity = whole_pages(size);
    if (capacity > block->capacity) {
        void *larger = handler_malloc(context, size);
        if (larger) {
            memcpy(larger, data, block->capacity);
            keep(block);
        }
        return larger;
    }
    if (capacity < block->capacity &&
        munmap((char *)data + capacity, block->capacity - capacity) == 0)
        block->capacity = capacity;
    return data;
}

static PyDataMem_Handler handler = {
    "normc", 1, {NULL, handler_malloc, handler_calloc, handler_realloc, handler_free}};

int blocks_init(void)
{
    if (handler_capsule)
        return 0;
    page = (size_t)sysconf(_SC_PAGESIZE);
    handler_capsule = PyCapsule_New(&handler, "mem_handler", NULL);
    if (handler_capsule && pthread_atfork(lock_kept, unlock_kept, unlock_kept) != 0) {
        Py_CLEAR(handler_capsule);
        PyErr_NoMemory();
    }
    return handler_capsule ? 0 : -1;
}

/* Whoever has set a handler wants it used. */
int blocks_enter(npy_intp nbytes, PyObject **before)
{
    *before = NULL;
    if (nbytes < LARGE)
        return 0;
    PyObject *current = PyDataMem_GetHandler();
    if (current == NULL)
        return -1;
    Py_DECREF(current); /* NumPy holds its own */
    if (current != PyDataMem_DefaultHandler)
        return 0;
    *before = PyDataMem_SetHandler(handler_capsule);
    return *before ? 0 : -1;
}

int blocks_leave(PyObject *before)
{
    if (before == NULL)
        return 0;
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *ours = PyDataMem_SetHandler(before);
    Py_DECREF(before);
    if (type)
        PyErr_Restore(type, value, trace);
    Py_XDECREF(ours);
    return ours ? 0 : -1;
}
