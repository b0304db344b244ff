/* Locks that are held for a lease, and rate limits (storage/shm_lease.py, the twin). The shard is held. */

#include "storage_table.h"

/* As entry_find; one that is free is not there, and is removed: the tokens of a shard never repeat without it, too. */
static Result find_held(Shard *shard, const Key *name, uint32_t *place, volatile uint32_t **link)
{
    Result result = entry_find(shard, KIND_LOCK, name, place, link);
    if (result == RES_OK && entry_is_over(shard, entry_at(shard, *place), boot_ns())) {
        entry_unlink(shard, *link, *place);
        return RES_NONE;
    }
    return result;
}

Result lease_acquire(Shard *shard, const Key *name, int64_t lease, int64_t *token)
{
    uint32_t place;
    volatile uint32_t *link;
    Result result = find_held(shard, name, &place, &link);
    if (result != RES_NONE)
        return result == RES_OK ? RES_NONE : result;
    result = entry_new(shard, KIND_LOCK, name, NULL, 0, 0, &place);
    if (result != RES_OK)
        return result;
    Entry *entry = entry_at(shard, place);
    entry->owner = holder_word(shard->table);
    entry_expire_at(shard, entry, boot_ns() + lease);
    *token = (int64_t)entry->version;
    entry_publish(shard, place);
    return RES_OK;
}

static Result find_own(Shard *shard, const Key *name, int64_t token, uint32_t *place, volatile uint32_t **link)
{
    Result result = find_held(shard, name, place, link);
    return result == RES_OK && (int64_t)entry_at(shard, *place)->version != token ? RES_NONE : result;
}

Result lease_renew(Shard *shard, const Key *name, int64_t token, int64_t lease)
{
    uint32_t place;
    volatile uint32_t *link;
    Result result = find_own(shard, name, token, &place, &link);
    if (result == RES_OK)
        entry_expire_at(shard, entry_at(shard, place), boot_ns() + lease);
    return result;
}

Result lease_release(Shard *shard, const Key *name, int64_t token)
{
    uint32_t place;
    volatile uint32_t *link;
    Result result = find_own(shard, name, token, &place, &link);
    if (result == RES_OK)
        entry_unlink(shard, link, place);
    return result;
}

/* When it ends, if its holder lives; RES_NONE: it is free. */
Result lease_due(Shard *shard, const Key *name, int64_t *due)
{
    uint32_t place;
    volatile uint32_t *link;
    Result result = find_held(shard, name, &place, &link);
    if (result == RES_OK)
        *due = entry_at(shard, place)->expires;
    return result;
}

/* GCRA; `interval` between two in ns, and so many in a burst. */
Result limit_allow(Shard *shard, const Key *key, double interval, double burst, double cost, Passage *passage)
{
    uint32_t place;
    volatile uint32_t *link;
    int64_t now = boot_ns(), free = now;
    Result result = entry_find(shard, KIND_LIMIT, key, &place, &link);
    if (result == RES_DAMAGED)
        return result;
    if (result == RES_OK && (free = entry_at(shard, place)->number) < now) /* the theoretical arrival time */
        free = now;
    double ahead = (double)(free - now) + interval * cost, room = interval * burst;
    passage->allowed = ahead <= room;
    passage->remaining = (room - (passage->allowed ? ahead : (double)(free - now))) / interval;
    passage->retry = passage->allowed ? 0 : (ahead - room) / 1e9;
    if (!passage->allowed || cost <= 0)
        return RES_OK;
    free = now + (int64_t)ahead;
    if (result == RES_NONE) {
        result = entry_new(shard, KIND_LIMIT, key, NULL, 0, 0, &place);
        if (result != RES_OK)
            return result;
        entry_at(shard, place)->number = free;
        entry_expire_at(shard, entry_at(shard, place), free);
        entry_publish(shard, place);
        return RES_OK;
    }
    entry_expire_at(shard, entry_at(shard, place), free); /* first: it must not end before it is free */
    IN_ORDER();
    entry_at(shard, place)->number = free;
    return RES_OK;
}
