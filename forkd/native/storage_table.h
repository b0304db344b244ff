/* The table that the processes of a service share: its form, and what the files storage_*.c have in common.
 * storage/shm_layout.py says what is where, and why.
 *
 * Whatever is in the table may be written by another process at any time, in any way. So each field is read once and
 * checked before it is used, no loop runs longer than there are blocks, and nothing here is a size or a place that the
 * table names: those follow from the size of the memory alone. */

#ifndef FORKD_STORAGE_TABLE_H
#define FORKD_STORAGE_TABLE_H

#include "native.h"

enum {
    TABLE_HEADER = 4096,
    TWINS_AT = 72,
    BELLS_AT = 128,
    BELLS = 256,
    SHARD_HEADER = 256,
    BLOCK = 128,
    ENTRY = 64,
    MAX_KEY_BYTES = 250,
    MAX_NAME_BYTES = MAX_KEY_BYTES + 8, /* of a message: its channel and its number */
    MAX_VALUE_BYTES = 1 << 20,
    MAX_DATA_BYTES = MAX_VALUE_BYTES + 8, /* of an item or a message, which has its type with it */
};
#define LONGEST_SECONDS 1e9 /* of a ttl and the like */

/* Cells at the beginning of a shard. */
enum {
    S_LOCK, S_VERSION, S_FREE, S_FREE_COUNT, S_HIGH, S_HAND, S_SOONEST, S_SWEPT, S_DIRTY, S_KEYS, S_HITS, S_MISSES,
    S_EVICTED, S_STALLS, S_REPAIRS, S_CELLS
};

enum { KIND_CACHE = 1, KIND_LOCK, KIND_FENCE, KIND_QUEUE, KIND_ITEM, KIND_LIMIT, KIND_CHANNEL, KIND_MESSAGE, KINDS };
enum { ONLY_ANY, ONLY_ABSENT, ONLY_PRESENT };
enum { TYPE_BYTES, TYPE_INT, TYPE_STR, TYPE_PACKED };

/* What the first block of an entry begins with; its key follows, and its data. */
typedef volatile struct {
    uint8_t kind, type;
    uint16_t key_size;
    uint32_t next; /* in its bucket */
    uint64_t hash, version;
    int64_t expires, number;
    uint64_t owner;
    uint32_t size, used, prev, after;
} Entry;

typedef enum {
    RES_OK, RES_NONE, RES_DAMAGED, RES_FULL, RES_LARGE, RES_TYPE, RES_OVERFLOW, RES_FENCED, RES_STALLED, RES_BUSY,
    RES_RAISED, /* with a Python exception */
} Result;

typedef struct {
    PyObject_HEAD
    Py_buffer memory, page; /* page.buf is NULL: none */
    int fd, slot, instant;
    long pid; /* of the process that has the slot */
    uint64_t seed[2], born;
    uint32_t shards, blocks, buckets;
    size_t shard_bytes, buckets_at, blocks_at; /* in a shard */
    uint64_t stalled_by; /* the lock word that the last RES_STALLED has met */
    PyObject *errors, *packed;
} Table;

/* One shard, held. */
typedef struct {
    Table *table;
    volatile uint64_t *cell;
    volatile uint32_t *next, *bucket;
    char *data;
    uint32_t blocks, buckets;
} Shard;

typedef struct {
    const char *text;
    Py_ssize_t size;
    uint64_t hash;
    uint32_t shard;
} Key;

typedef struct {
    int type;
    int64_t number;
    const char *data;
    Py_ssize_t size;
} Value;

static inline Entry *entry_at(const Shard *shard, uint32_t place)
{
    return place && place < shard->blocks ? (Entry *)(shard->data + (size_t)place * BLOCK) : NULL;
}

/* CLOCK_BOOTTIME, ns: what ends goes on to end while the machine sleeps. */
static inline int64_t boot_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* storage_lock.c: twin of storage/shm_lock.py. */
uint64_t holder_word(const Table *table);
int holder_is_over(const Table *table, uint64_t word);
Result shard_hold(Table *table, uint32_t number, Shard *shard);
void shard_let_go(Shard *shard);
void bell_ring(Table *table, uint64_t hash);
uint32_t bell_seen(const Table *table, uint64_t hash);
int bell_wait(Table *table, uint64_t hash, uint32_t seen, double seconds);
PyObject *native_wake(PyObject *module, PyObject *memory);
int storage_lock_init(void);

/* storage_heap.c: twin of storage/shm_heap.py. */
Result heap_alloc(Shard *shard, size_t bytes, uint32_t spare, uint32_t *place);
void heap_free(Shard *shard, uint32_t first, size_t bytes);
int heap_read(const Shard *shard, uint32_t place, size_t at, size_t size, char *to);
void heap_write(const Shard *shard, uint32_t place, size_t at, size_t size, const char *from);
Result entry_new(Shard *shard, int kind, const Key *key, const char *data, size_t size, uint32_t spare, uint32_t *place);
Result entry_read(const Shard *shard, uint32_t place, size_t most, PyObject **data);
void entry_drop(Shard *shard, uint32_t place);
Result entry_find(const Shard *shard, int kind, const Key *key, uint32_t *place, volatile uint32_t **link);
void entry_publish(Shard *shard, uint32_t place);
Result entry_remove(Shard *shard, uint32_t place);
void entry_unlink(Shard *shard, volatile uint32_t *link, uint32_t place);
void entry_expire_at(Shard *shard, Entry *entry, int64_t expires);
int entry_is_over(const Shard *shard, const Entry *entry, int64_t now);
int64_t token_next(Shard *shard);
Result heap_evict(Shard *shard, uint32_t spare, int64_t now);

/* storage_repair.c: twin of storage/shm_repair.py. */
Result shard_repair(Shard *shard);

/* storage_cache.c: twin of storage/shm_cache.py. */
typedef struct {
    int only, has_token, has_fence;
    int64_t token, fence, expires; /* expires < 0: at once */
} Terms;
Result cache_get(Shard *shard, const Key *key, PyObject **value, int *type, int64_t *token, int64_t *expires);
Result cache_put(Shard *shard, const Key *key, const Value *value, const Terms *terms);
Result cache_touch(Shard *shard, const Key *key, int64_t expires);
Result cache_delete(Shard *shard, const Key *key);
Result cache_incr(Shard *shard, const Key *key, int64_t by, int64_t expires, int64_t *value);
Result cache_scan(Shard *shard, uint32_t bucket, int clear, PyObject *keys);

/* storage_lease.c: twin of storage/shm_lease.py. */
Result lease_acquire(Shard *shard, const Key *name, int64_t lease, int64_t *token);
Result lease_renew(Shard *shard, const Key *name, int64_t token, int64_t lease);
Result lease_release(Shard *shard, const Key *name, int64_t token);
Result lease_due(Shard *shard, const Key *name, int64_t *due);
typedef struct {
    int allowed;
    double remaining, retry; /* seconds */
} Passage;
Result limit_allow(Shard *shard, const Key *key, double interval, double burst, double cost, Passage *passage);

/* storage_queue.c: twin of storage/shm_queue.py. */
typedef struct {
    int64_t id;
    uint32_t tries;
    PyObject *data;
} Popped;
typedef struct {
    uint64_t waiting, delayed, taken, dead;
} QueueSizes;
Result queue_push(Shard *shard, const Key *name, const char *data, size_t size, int64_t delay, int64_t limit,
                  int64_t *id);
Result queue_pop(Shard *shard, const Key *name, const Key *dead, int64_t visible, uint32_t tries, Popped *popped);
Result queue_ack(Shard *shard, const Key *name, int64_t id, uint32_t tries);
Result queue_defer(Shard *shard, const Key *name, int64_t id, uint32_t tries, int64_t delay, int held);
Result queue_sizes(Shard *shard, const Key *name, const Key *dead, QueueSizes *sizes);
Result queue_due(Shard *shard, const Key *name, int64_t *due);
Result queue_list(Shard *shard, uint32_t queue, uint32_t item, int64_t now); /* into one of its lists */
Result channel_publish(Shard *shard, const Key *channel, const char *data, size_t size, int64_t *count);
Result channel_join(Shard *shard, const Key *channel, int64_t by, int64_t *number);
Result channel_next(Shard *shard, const Key *channel, int64_t after, int64_t *number, PyObject **data);

/* storage_table.c: what methods take and raise. Those that return int return 0 with an exception. */
PyObject *table_raised(Table *self, Result result); /* NULL */
int argument_key(Table *self, PyObject *object, Key *key);
int argument_queue(Table *self, PyObject *object, Key *key);
Key argument_dead(Table *self, const Key *name, char *text);
int64_t argument_ns(double seconds);
int argument_expires(PyObject *ttl, int64_t *expires);
int argument_value(Table *self, PyObject *object, Value *value);
extern PyMethodDef table_methods[];

/* storage_verbs.c. */
PyObject *table_acquire(Table *self, PyObject *args);
PyObject *table_renew(Table *self, PyObject *args);
PyObject *table_release(Table *self, PyObject *args);
PyObject *table_allow(Table *self, PyObject *const *args, Py_ssize_t count);
PyObject *table_push(Table *self, PyObject *args);
PyObject *table_pop(Table *self, PyObject *args);
PyObject *table_ack(Table *self, PyObject *args);
PyObject *table_defer(Table *self, PyObject *args);
PyObject *table_size(Table *self, PyObject *name);
PyObject *table_publish(Table *self, PyObject *args);
PyObject *table_join(Table *self, PyObject *args);
PyObject *table_message(Table *self, PyObject *args);
PyObject *table_bell(Table *self, PyObject *name);
PyObject *table_sleep(Table *self, PyObject *args);
PyObject *table_held_for(Table *self, PyObject *name);
PyObject *table_due_in(Table *self, PyObject *name);

/* Hold a shard, do `call` there with it as `shard`, and let go of it. What is damaged is repaired, and tried once more. */
#define HELD(self, number, result, call)                                                                                \
    do {                                                                                                                \
        Shard held_, *shard = &held_;                                                                                   \
        result = shard_hold(self, number, shard);                                                                       \
        if (result == RES_OK) {                                                                                           \
            result = (call);                                                                                            \
            if (result == RES_DAMAGED && (result = shard_repair(shard)) == RES_OK)                                          \
                result = (call);                                                                                        \
            shard_let_go(shard);                                                                                        \
        }                                                                                                               \
    } while (0)

static inline PyObject *truth(Table *self, Result result)
{
    if (result != RES_OK && result != RES_NONE)
        return table_raised(self, result);
    return PyBool_FromLong(result == RES_OK);
}

int storage_init(PyObject *module);

#endif
