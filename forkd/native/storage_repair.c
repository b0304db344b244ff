/* All that follows from the index of a shard, made anew (storage/shm_repair.py, the twin). The shard is held. */

#include "storage_table.h"
#include <stdlib.h>

enum { IS_QUEUE = 2 }; /* of a block: a queue begins there */

typedef struct {
    uint32_t queue, place;
    int64_t due; /* 0: now */
    uint64_t id;
} Found;

/* Mark the blocks of an entry. Whether it is whole, and none of them is marked already. */
static int mark(const Shard *shard, uint32_t number, uint32_t place, unsigned char *seen)
{
    Entry *entry = entry_at(shard, place);
    if (!entry || seen[place])
        return 0;
    size_t key = entry->key_size, size = entry->size;
    if (!entry->kind || entry->kind >= KINDS || !key || key > MAX_NAME_BYTES || size > MAX_DATA_BYTES ||
        (entry->hash >> 16 & (shard->buckets - 1)) != number)
        return 0;
    size_t blocks = (ENTRY + key + size + BLOCK - 1) / BLOCK;
    uint32_t at = place;
    for (size_t i = 0; i < blocks; i++) {
        if (!at || at >= shard->blocks || seen[at])
            return 0; /* its blocks stay marked, and unused until the next repair: their links may have changed */
        seen[at] = 1;
        at = shard->next[at];
    }
    return 1;
}

static int in_order(const void *left, const void *right)
{
    const Found *a = left, *b = right;
    if (a->due != b->due)
        return a->due < b->due ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

/* The lists of queues, from their items; one without a queue goes. */
static void relist(Shard *shard, Found *found, size_t count, const unsigned char *seen, int64_t now)
{
    qsort(found, count, sizeof *found, in_order);
    for (size_t i = 0; i < count; i++) {
        uint32_t queue = found[i].queue;
        if (queue >= shard->blocks || seen[queue] != IS_QUEUE || queue_list(shard, queue, found[i].place, now) != RES_OK)
            entry_remove(shard, found[i].place);
    }
}

Result shard_repair(Shard *shard)
{
    unsigned char *seen = calloc(shard->blocks, 1);
    Found *found = malloc(shard->blocks * sizeof *found);
    size_t items = 0;
    uint64_t keys = 0;
    int64_t soonest = 0, now = boot_ns();
    if (!seen || !found) {
        free(seen), free(found);
        PyErr_NoMemory();
        return RES_RAISED;
    }
    shard->cell[S_DIRTY] = 1;
    uint32_t high = 0;
    for (uint32_t number = 0; number < shard->buckets; number++) {
        volatile uint32_t *at = &shard->bucket[number];
        while (*at) {
            uint32_t place = *at;
            if (!mark(shard, number, place, seen)) {
                *at = 0; /* and what is behind it: there is no telling what that is */
                break;
            }
            Entry *entry = entry_at(shard, place);
            int kind = entry->kind;
            keys += kind == KIND_CACHE;
            if (entry->expires && (!soonest || entry->expires < soonest))
                soonest = entry->expires;
            if (kind == KIND_QUEUE) { /* its lists are empty */
                seen[place] = IS_QUEUE;
                entry->number = 0;
                entry->owner = 0;
                entry->prev = entry->after = 0;
            } else if (kind == KIND_ITEM && items < shard->blocks)
                found[items++] = (Found){(uint32_t)entry->owner, place, entry->number > now ? entry->number : 0, entry->version};
            at = &entry->next;
        }
    }
    for (uint32_t place = 1; place < shard->blocks; place++)
        if (seen[place])
            high = place;
    uint32_t first = 0;
    uint64_t count = 0;
    for (uint32_t place = high; place > 0; place--)
        if (!seen[place]) {
            shard->next[place] = first;
            first = place;
            count++;
        }
    shard->cell[S_HIGH] = high;
    shard->cell[S_FREE] = first;
    shard->cell[S_FREE_COUNT] = count;
    shard->cell[S_KEYS] = keys;
    shard->cell[S_SOONEST] = (uint64_t)soonest;
    shard->cell[S_REPAIRS]++;
    relist(shard, found, items, seen, now);
    shard->cell[S_DIRTY] = 0;
    free(seen), free(found);
    return RES_OK;
}
