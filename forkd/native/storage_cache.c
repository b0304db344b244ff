/* The verbs of the cache (storage/shm_cache.py, the twin). The shard is held. */

#include "storage_table.h"

/* As entry_find, but what has ended is not there, and is removed. */
static Result find_living(Shard *shard, const Key *key, uint32_t *place, volatile uint32_t **link)
{
    Result result = entry_find(shard, KIND_CACHE, key, place, link);
    if (result == RES_OK) {
        int64_t expires = entry_at(shard, *place)->expires;
        if (expires && expires <= boot_ns()) {
            entry_unlink(shard, *link, *place);
            return RES_NONE;
        }
    }
    return result;
}

static Result value_of(const Shard *shard, uint32_t place, PyObject **value)
{
    Entry *entry = entry_at(shard, place);
    int type = entry->type;
    if (type == TYPE_INT) {
        *value = PyLong_FromLongLong(entry->number);
        return *value ? RES_OK : RES_RAISED;
    }
    /* Bytes, of a str or a serializer, too: what else it becomes, it becomes when the shard is free. */
    return type > TYPE_PACKED ? RES_DAMAGED : entry_read(shard, place, MAX_VALUE_BYTES, value);
}

Result cache_get(Shard *shard, const Key *key, PyObject **value, int *type, int64_t *token, int64_t *expires)
{
    uint32_t place;
    volatile uint32_t *link;
    Result result = find_living(shard, key, &place, &link);
    if (result != RES_OK) {
        shard->cell[S_MISSES]++;
        return result;
    }
    Entry *entry = entry_at(shard, place);
    result = value_of(shard, place, value);
    if (result != RES_OK)
        return result;
    *type = entry->type;
    *token = (int64_t)entry->version;
    *expires = entry->expires;
    if (!entry->used)
        entry->used = 1;
    shard->cell[S_HITS]++;
    return RES_OK;
}

/* Whether the fence lets a write of its token pass; then it remembers that. */
static Result pass_fence(Shard *shard, const Key *key, int64_t token, uint32_t spare)
{
    uint32_t place;
    volatile uint32_t *link;
    Result result = entry_find(shard, KIND_FENCE, key, &place, &link);
    if (result == RES_OK) {
        Entry *fence = entry_at(shard, place);
        if (fence->number > token)
            return RES_FENCED;
        fence->number = token;
    } else if (result == RES_NONE) {
        result = entry_new(shard, KIND_FENCE, key, NULL, 0, spare, &place);
        if (result != RES_OK)
            return result;
        entry_at(shard, place)->number = token;
        entry_publish(shard, place);
    }
    return result == RES_NONE ? RES_OK : result;
}

Result cache_put(Shard *shard, const Key *key, const Value *value, const Terms *terms)
{
    uint32_t old = 0, made;
    volatile uint32_t *link = NULL;
    Result result = find_living(shard, key, &old, &link);
    if (result == RES_DAMAGED)
        return result;
    int there = result == RES_OK;
    if (!there)
        old = 0;
    if ((terms->only == ONLY_ABSENT && there) || (terms->only == ONLY_PRESENT && !there) ||
        (terms->has_token && (!there || (int64_t)entry_at(shard, old)->version != terms->token)))
        return RES_NONE;
    if (terms->has_fence && (result = pass_fence(shard, key, terms->fence, old)) != RES_OK)
        return result;
    if (terms->expires >= 0) {
        result = entry_new(shard, KIND_CACHE, key, value->data, (size_t)value->size, old, &made);
        if (result != RES_OK)
            return result;
        Entry *entry = entry_at(shard, made);
        entry->type = (uint8_t)value->type;
        entry->number = value->number;
        entry_expire_at(shard, entry, terms->expires);
    }
    /* What made room may have moved the link, but has spared the entry. */
    if (there && entry_find(shard, KIND_CACHE, key, &old, &link) != RES_OK)
        return RES_DAMAGED;
    if (terms->expires < 0) {
        if (there)
            entry_unlink(shard, link, old);
    } else if (there) {
        entry_at(shard, made)->next = entry_at(shard, old)->next;
        IN_ORDER();
        *link = made;
        IN_ORDER();
        entry_drop(shard, old);
    } else
        entry_publish(shard, made);
    return RES_OK;
}

Result cache_touch(Shard *shard, const Key *key, int64_t expires)
{
    uint32_t place;
    volatile uint32_t *link;
    Result result = find_living(shard, key, &place, &link);
    if (result == RES_OK) {
        if (expires < 0)
            entry_unlink(shard, link, place);
        else
            entry_expire_at(shard, entry_at(shard, place), expires);
    }
    return result;
}

Result cache_delete(Shard *shard, const Key *key)
{
    return cache_touch(shard, key, -1);
}

Result cache_incr(Shard *shard, const Key *key, int64_t by, int64_t expires, int64_t *value)
{
    uint32_t place;
    volatile uint32_t *link;
    Result result = find_living(shard, key, &place, &link);
    if (result == RES_OK) {
        Entry *entry = entry_at(shard, place);
        if (entry->type != TYPE_INT)
            return RES_TYPE;
        if (__builtin_add_overflow(entry->number, by, value))
            return RES_OVERFLOW;
        entry->version = (uint64_t)token_next(shard); /* first: a cas must not miss what follows */
        IN_ORDER();
        entry->number = *value;
        if (!entry->used)
            entry->used = 1;
    } else if (result == RES_NONE) {
        *value = by;
        if (expires < 0)
            return RES_OK;
        result = entry_new(shard, KIND_CACHE, key, NULL, 0, 0, &place);
        if (result != RES_OK)
            return result;
        Entry *entry = entry_at(shard, place);
        entry->type = TYPE_INT;
        entry->number = by;
        entry_expire_at(shard, entry, expires);
        entry_publish(shard, place);
    }
    return result;
}

/* The keys of a bucket, added to the list; with `clear` they go. */
Result cache_scan(Shard *shard, uint32_t bucket, int clear, PyObject *keys)
{
    char text[MAX_NAME_BYTES];
    volatile uint32_t *at = &shard->bucket[bucket & (shard->buckets - 1)];
    int64_t now = boot_ns();
    for (uint32_t steps = 0; *at; steps++) {
        uint32_t place = *at;
        Entry *entry = entry_at(shard, place);
        if (!entry || steps > shard->blocks)
            return RES_DAMAGED;
        size_t size = entry->key_size;
        int64_t expires = entry->expires;
        if (entry->kind == KIND_CACHE && clear) {
            entry_unlink(shard, at, place);
            continue;
        }
        if (entry->kind == KIND_CACHE && !(expires && expires <= now)) {
            if (size > MAX_NAME_BYTES || !heap_read(shard, place, ENTRY, size, text))
                return RES_DAMAGED;
            PyObject *key = PyBytes_FromStringAndSize(text, (Py_ssize_t)size);
            int failed = !key || PyList_Append(keys, key);
            Py_XDECREF(key);
            if (failed)
                return RES_RAISED;
        }
        at = &entry->next;
    }
    return RES_OK;
}
