/* The blocks of a shard and the entries that are made of them (storage/shm_heap.py, the twin). The shard is held. */

#include "storage_table.h"

#define SWEEP_NS INT64_C(100000000) /* between two sweeps at least */

static size_t blocks_for(size_t bytes)
{
    return (bytes + BLOCK - 1) / BLOCK;
}

static uint64_t available(const Shard *shard)
{
    uint64_t high = shard->cell[S_HIGH], count = shard->cell[S_FREE_COUNT];
    return high < shard->blocks && count <= high ? count + shard->blocks - 1 - high : UINT64_MAX;
}

Result heap_alloc(Shard *shard, size_t bytes, uint32_t spare, uint32_t *place)
{
    size_t wanted = blocks_for(bytes);
    if (wanted >= shard->blocks)
        return RES_LARGE;
    int64_t now = 0;
    for (uint32_t rounds = 0;; rounds++) {
        uint64_t found = available(shard);
        if (found == UINT64_MAX || rounds > shard->blocks)
            return RES_DAMAGED;
        if (found >= wanted)
            break;
        now = now ? now : boot_ns();
        Result result = heap_evict(shard, spare, now);
        if (result != RES_OK)
            return result;
    }
    uint64_t high = shard->cell[S_HIGH], count = shard->cell[S_FREE_COUNT];
    uint32_t free = (uint32_t)shard->cell[S_FREE], before = 0, first = 0;
    if (high >= shard->blocks || count > high)
        return RES_DAMAGED;
    for (size_t i = 0; i < wanted; i++) {
        uint32_t one;
        if (count) {
            one = free;
            if (!one || one > high)
                return RES_DAMAGED;
            free = shard->next[one];
            count--;
        } else {
            if (high + 1 >= shard->blocks)
                return RES_DAMAGED;
            one = (uint32_t)++high;
        }
        if (before)
            shard->next[before] = one;
        else
            first = one;
        before = one;
    }
    shard->next[before] = 0;
    shard->cell[S_FREE] = free;
    shard->cell[S_FREE_COUNT] = count;
    shard->cell[S_HIGH] = high;
    *place = first;
    return RES_OK;
}

void heap_free(Shard *shard, uint32_t first, size_t bytes)
{
    size_t count = blocks_for(bytes);
    uint32_t last = first;
    uint64_t high = shard->cell[S_HIGH];
    if (count > shard->blocks) {
        shard->cell[S_DIRTY] = 1;
        return;
    }
    for (size_t i = 1; i < count; i++) {
        uint32_t next = shard->next[last];
        if (!next || next > high || next >= shard->blocks) { /* not what was written: all is looked at */
            shard->cell[S_DIRTY] = 1;
            return;
        }
        last = next;
    }
    shard->next[last] = (uint32_t)shard->cell[S_FREE];
    shard->cell[S_FREE] = first;
    shard->cell[S_FREE_COUNT] += count;
}

/* Copies between a chain and memory. Returns 0 when the chain is broken. */
static int walk(const Shard *shard, uint32_t place, size_t at, size_t size, char *to, const char *from)
{
    while (size) {
        if (!place || place >= shard->blocks)
            return 0;
        if (at >= BLOCK)
            at -= BLOCK;
        else {
            char *block = shard->data + (size_t)place * BLOCK + at;
            size_t part = BLOCK - at < size ? BLOCK - at : size;
            if (to) {
                memcpy(to, block, part);
                to += part;
            } else {
                memcpy(block, from, part);
                from += part;
            }
            size -= part;
            at = 0;
        }
        place = size ? shard->next[place] : 0;
    }
    return 1;
}

int heap_read(const Shard *shard, uint32_t place, size_t at, size_t size, char *to)
{
    return walk(shard, place, at, size, to, NULL);
}

void heap_write(const Shard *shard, uint32_t place, size_t at, size_t size, const char *from)
{
    walk(shard, place, at, size, NULL, from);
}

/* ---- entries --------------------------------------------------------------------------------- */

int64_t token_next(Shard *shard)
{
    return (int64_t)(shard->table->born + ++shard->cell[S_VERSION]);
}

Result entry_new(Shard *shard, int kind, const Key *key, const char *data, size_t size, uint32_t spare, uint32_t *place)
{
    Result result = heap_alloc(shard, ENTRY + (size_t)key->size + size, spare, place);
    if (result != RES_OK)
        return result;
    Entry *entry = entry_at(shard, *place);
    memset((void *)entry, 0, ENTRY);
    entry->kind = (uint8_t)kind;
    entry->key_size = (uint16_t)key->size;
    entry->hash = key->hash;
    entry->size = (uint32_t)size;
    entry->version = (uint64_t)token_next(shard);
    heap_write(shard, *place, ENTRY, (size_t)key->size, key->text);
    heap_write(shard, *place, ENTRY + (size_t)key->size, size, data);
    return RES_OK;
}

Result entry_read(const Shard *shard, uint32_t place, size_t most, PyObject **data)
{
    const Entry *entry = entry_at(shard, place);
    size_t key = entry->key_size, size = entry->size;
    if (size > most || key > MAX_NAME_BYTES)
        return RES_DAMAGED;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!bytes)
        return RES_RAISED;
    if (!heap_read(shard, place, ENTRY + key, size, PyBytes_AsString(bytes))) {
        Py_DECREF(bytes);
        return RES_DAMAGED;
    }
    *data = bytes;
    return RES_OK;
}

static size_t bytes_of(const Entry *entry)
{
    return ENTRY + (size_t)entry->key_size + entry->size;
}

void entry_drop(Shard *shard, uint32_t place)
{
    heap_free(shard, place, bytes_of(entry_at(shard, place)));
}

static volatile uint32_t *bucket_of(const Shard *shard, uint64_t hash)
{
    return &shard->bucket[hash >> 16 & (shard->buckets - 1)];
}

static int has_key(const Shard *shard, uint32_t place, const Entry *entry, const Key *key)
{
    if (entry->key_size != key->size)
        return 0;
    if (ENTRY + key->size <= BLOCK)
        return !memcmp((const char *)entry + ENTRY, key->text, (size_t)key->size);
    char text[MAX_NAME_BYTES];
    return heap_read(shard, place, ENTRY, (size_t)key->size, text) && !memcmp(text, key->text, (size_t)key->size);
}

/* RES_OK with its place, and the word that links to it; or RES_NONE, RES_DAMAGED. */
Result entry_find(const Shard *shard, int kind, const Key *key, uint32_t *place, volatile uint32_t **link)
{
    volatile uint32_t *at = bucket_of(shard, key->hash);
    for (uint32_t steps = 0; steps < shard->blocks; steps++) {
        uint32_t found = *at;
        if (!found)
            return RES_NONE;
        Entry *entry = entry_at(shard, found);
        if (!entry)
            return RES_DAMAGED;
        if (entry->hash == key->hash && entry->kind == kind && has_key(shard, found, entry, key)) {
            *place = found;
            *link = at;
            return RES_OK;
        }
        at = &entry->next;
    }
    return RES_DAMAGED;
}

void entry_publish(Shard *shard, uint32_t place)
{
    Entry *entry = entry_at(shard, place);
    volatile uint32_t *bucket = bucket_of(shard, entry->hash);
    entry->next = *bucket;
    IN_ORDER();
    *bucket = place;
    if (entry->kind == KIND_CACHE)
        shard->cell[S_KEYS]++;
}

void entry_unlink(Shard *shard, volatile uint32_t *link, uint32_t place)
{
    Entry *entry = entry_at(shard, place);
    *link = entry->next;
    IN_ORDER();
    if (entry->kind == KIND_CACHE)
        shard->cell[S_KEYS]--;
    entry_drop(shard, place);
}

/* The same for one whose link is not at hand. */
Result entry_remove(Shard *shard, uint32_t place)
{
    volatile uint32_t *at = bucket_of(shard, entry_at(shard, place)->hash);
    for (uint32_t steps = 0; steps < shard->blocks && *at; steps++) {
        if (*at == place) {
            entry_unlink(shard, at, place);
            return RES_OK;
        }
        Entry *entry = entry_at(shard, *at);
        if (!entry)
            return RES_DAMAGED;
        at = &entry->next;
    }
    return RES_DAMAGED;
}

void entry_expire_at(Shard *shard, Entry *entry, int64_t expires)
{
    entry->expires = expires;
    int64_t soonest = (int64_t)shard->cell[S_SOONEST];
    if (expires && (!soonest || expires < soonest))
        shard->cell[S_SOONEST] = (uint64_t)expires;
}

int entry_is_over(const Shard *shard, const Entry *entry, int64_t now)
{
    int64_t expires = entry->expires;
    if (expires && expires <= now)
        return 1;
    uint64_t owner = entry->owner;
    return entry->kind == KIND_LOCK && (!owner || holder_is_over(shard->table, owner));
}

/* Whether it may go while it has not ended. */
static int is_evictable(const Entry *entry)
{
    return entry->kind == KIND_MESSAGE || (entry->kind == KIND_CACHE && (entry->type != TYPE_INT || entry->expires));
}

/* Remove what has ended in a bucket, and with `hand` what was not read since the hand came by. */
static Result clean(Shard *shard, uint32_t number, uint32_t spare, int64_t now, int hand, uint32_t *removed, int64_t *soonest)
{
    volatile uint32_t *at = &shard->bucket[number];
    for (uint32_t steps = 0; *at; steps++) {
        uint32_t place = *at;
        Entry *entry = entry_at(shard, place);
        if (!entry || steps > shard->blocks)
            return RES_DAMAGED;
        int64_t expires = entry->expires;
        int over = expires && expires <= now, goes = over;
        if (!over && hand && is_evictable(entry)) {
            goes = !entry->used;
            entry->used = 0;
        }
        if (goes && place != spare) {
            shard->cell[S_EVICTED] += !over;
            entry_unlink(shard, at, place);
            ++*removed;
            continue;
        }
        if (expires && (!*soonest || expires < *soonest))
            *soonest = expires;
        at = &entry->next;
    }
    return RES_OK;
}

/* Make room: RES_OK, or RES_FULL when nothing may go. */
Result heap_evict(Shard *shard, uint32_t spare, int64_t now)
{
    uint32_t removed = 0;
    int64_t soonest = (int64_t)shard->cell[S_SOONEST], swept = (int64_t)shard->cell[S_SWEPT];
    if (soonest && soonest <= now && (swept < 0 || swept > now || now - swept > SWEEP_NS)) {
        soonest = 0;
        for (uint32_t i = 0; i < shard->buckets; i++)
            if (clean(shard, i, spare, now, 0, &removed, &soonest) != RES_OK)
                return RES_DAMAGED;
        shard->cell[S_SOONEST] = (uint64_t)soonest;
        shard->cell[S_SWEPT] = (uint64_t)now;
    }
    for (uint32_t i = 0; !removed && i <= 2 * shard->buckets; i++) {
        uint32_t hand = (uint32_t)shard->cell[S_HAND] & (shard->buckets - 1);
        if (clean(shard, hand, spare, now, 1, &removed, &soonest) != RES_OK)
            return RES_DAMAGED;
        shard->cell[S_HAND] = hand + 1;
    }
    return removed ? RES_OK : RES_FULL;
}
