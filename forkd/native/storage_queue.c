/* Queues and channels (storage/shm_queue.py, the twin, which says how they are kept). The shard is held. */

#include "storage_table.h"

enum { LATER = 1, TAKEN = 2 };
#define CHANNEL_NS INT64_C(120000000000)
#define MESSAGE_NS INT64_C(60000000000)

/* ---- the lists of a queue -------------------------------------------------------------------- */

/* The first and the last of the items that are due, or of the others. */
static volatile uint32_t *list_of(Entry *queue, int later)
{
    return (volatile uint32_t *)&queue->number + (later ? 2 : 0);
}

static volatile uint32_t *count_of(Entry *queue, int later)
{
    return later ? &queue->after : &queue->prev;
}

static Entry *queue_at(const Shard *shard, uint32_t place)
{
    Entry *queue = entry_at(shard, place);
    return queue && queue->kind == KIND_QUEUE ? queue : NULL;
}

static Entry *item_at(const Shard *shard, uint32_t place)
{
    Entry *item = entry_at(shard, place);
    return item && item->kind == KIND_ITEM ? item : NULL;
}

/* What an item that is due then comes behind. `before`: the last one. */
static Result find_due(const Shard *shard, int64_t due, uint32_t *before)
{
    for (uint32_t steps = 0; *before; steps++) {
        Entry *other = item_at(shard, *before);
        if (!other || steps > shard->blocks)
            return RES_DAMAGED;
        if (other->number <= due)
            break;
        *before = other->prev;
    }
    return RES_OK;
}

/* What an item that is due comes behind: those that are older. It is the youngest, or it was taken or delayed, and is
 * among the oldest. */
static Result find_turn(const Shard *shard, uint64_t version, uint32_t first, uint32_t *before)
{
    Entry *last = *before ? item_at(shard, *before) : NULL;
    if (!*before || (last && last->version < version))
        return RES_OK;
    *before = 0;
    for (uint32_t steps = 0; first; steps++) {
        Entry *other = item_at(shard, first);
        if (!other || steps > shard->blocks)
            return RES_DAMAGED;
        if (other->version > version)
            break;
        *before = first;
        first = other->after;
    }
    return RES_OK;
}

Result queue_list(Shard *shard, uint32_t queue_place, uint32_t place, int64_t now)
{
    Entry *queue = queue_at(shard, queue_place), *item = item_at(shard, place);
    if (!queue || !item)
        return RES_DAMAGED;
    int later = item->number > now;
    volatile uint32_t *list = list_of(queue, later);
    uint32_t before = list[1];
    Result result = later ? find_due(shard, item->number, &before) : find_turn(shard, item->version, list[0], &before);
    if (result != RES_OK)
        return result;
    Entry *ahead = before ? item_at(shard, before) : NULL;
    if (before && !ahead)
        return RES_DAMAGED;
    uint32_t behind = ahead ? ahead->after : list[0];
    Entry *follower = behind ? item_at(shard, behind) : NULL;
    if (behind && !follower)
        return RES_DAMAGED;
    item->used = later ? (item->used & TAKEN) | LATER : 0;
    item->prev = before;
    item->after = behind;
    if (ahead)
        ahead->after = place;
    else
        list[0] = place;
    if (follower)
        follower->prev = place;
    else
        list[1] = place;
    ++*count_of(queue, later);
    return RES_OK;
}

static Result unlist(Shard *shard, uint32_t queue_place, uint32_t place)
{
    Entry *queue = queue_at(shard, queue_place), *item = item_at(shard, place);
    if (!queue || !item)
        return RES_DAMAGED;
    int later = item->used & LATER;
    uint32_t before = item->prev, behind = item->after;
    Entry *ahead = before ? item_at(shard, before) : NULL, *follower = behind ? item_at(shard, behind) : NULL;
    if ((before && !ahead) || (behind && !follower))
        return RES_DAMAGED;
    if (ahead)
        ahead->after = behind;
    else
        list_of(queue, later)[0] = behind;
    if (follower)
        follower->prev = before;
    else
        list_of(queue, later)[1] = before;
    --*count_of(queue, later);
    return RES_OK;
}

/* Those that have become due take their places among the items that are due. */
static Result ripen(Shard *shard, uint32_t queue_place, int64_t now)
{
    for (uint32_t steps = 0; steps <= shard->blocks; steps++) {
        Entry *queue = queue_at(shard, queue_place);
        uint32_t place = queue ? list_of(queue, 1)[0] : 0;
        if (!place)
            return queue ? RES_OK : RES_DAMAGED;
        Entry *item = item_at(shard, place);
        if (!item)
            return RES_DAMAGED;
        if (item->number > now)
            return RES_OK;
        Result result = unlist(shard, queue_place, place);
        if (result == RES_OK)
            result = queue_list(shard, queue_place, place, now);
        if (result != RES_OK)
            return result;
    }
    return RES_DAMAGED;
}

/* ---- the verbs: where a queue was found there is an entry, whatever its kind is by now ------------- */

static Result find_queue(const Shard *shard, const Key *name, uint32_t *place)
{
    volatile uint32_t *link;
    return entry_find(shard, KIND_QUEUE, name, place, &link);
}

static Result find_or_make(Shard *shard, const Key *name, uint32_t *place)
{
    Result result = find_queue(shard, name, place);
    if (result == RES_NONE && (result = entry_new(shard, KIND_QUEUE, name, NULL, 0, 0, place)) == RES_OK)
        entry_publish(shard, *place);
    return result;
}

static void end_if_empty(Shard *shard, uint32_t place)
{
    Entry *queue = queue_at(shard, place);
    if (queue && !queue->number && !queue->owner)
        entry_remove(shard, place);
}

static Key key_of_id(const int64_t *id)
{
    uint64_t hash = (uint64_t)*id * UINT64_C(0x9E3779B97F4A7C15);
    return (Key){(const char *)id, sizeof *id, hash, 0};
}

Result queue_push(Shard *shard, const Key *name, const char *data, size_t size, int64_t delay, int64_t limit, int64_t *id)
{
    uint32_t queue, place;
    Result result = find_queue(shard, name, &queue);
    if (result == RES_DAMAGED)
        return result;
    Entry *there = result == RES_OK ? entry_at(shard, queue) : NULL;
    if (limit >= 0 && (there ? (int64_t)there->prev + there->after : 0) >= limit)
        return RES_FULL;
    *id = token_next(shard);
    Key key = key_of_id(id);
    result = entry_new(shard, KIND_ITEM, &key, data, size, 0, &place);
    if (result != RES_OK)
        return result;
    result = find_or_make(shard, name, &queue);
    if (result != RES_OK) {
        entry_drop(shard, place);
        return result;
    }
    Entry *item = entry_at(shard, place);
    int64_t now = boot_ns();
    item->owner = queue;
    item->number = now + delay;
    entry_publish(shard, place);
    if (queue_list(shard, queue, place, now) != RES_OK)
        shard->cell[S_DIRTY] = 1; /* it is there; the next holder's repair lists it */
    return RES_OK;
}

Result queue_pop(Shard *shard, const Key *name, const Key *dead, int64_t visible, uint32_t tries, Popped *popped)
{
    uint32_t queue, grave;
    int64_t now = boot_ns();
    Result result = find_queue(shard, name, &queue);
    if (result == RES_OK)
        result = ripen(shard, queue, now);
    for (uint32_t steps = 0; result == RES_OK && steps <= shard->blocks; steps++) {
        uint32_t place = list_of(entry_at(shard, queue), 0)[0];
        if (!place) {
            end_if_empty(shard, queue);
            return RES_NONE;
        }
        Entry *item = item_at(shard, place);
        if (!item)
            return RES_DAMAGED;
        uint64_t owner = item->owner;
        uint32_t taken = (uint32_t)(owner >> 32);
        int over = tries && taken >= tries;
        result = over ? find_or_make(shard, dead, &grave) : entry_read(shard, place, MAX_DATA_BYTES, &popped->data);
        if (result != RES_OK)
            return result;
        result = unlist(shard, queue, place);
        item->used = over ? 0 : TAKEN;
        item->owner = over ? grave : (uint32_t)owner | (uint64_t)(taken + 1) << 32;
        IN_ORDER();
        item->number = over ? now : now + visible;
        if (result == RES_OK)
            result = queue_list(shard, over ? grave : queue, place, now);
        if (!over) {
            popped->id = (int64_t)item->version;
            heap_read(shard, place, ENTRY, sizeof popped->id, (char *)&popped->id);
            popped->tries = taken + 1;
            if (result != RES_OK)
                Py_CLEAR(popped->data);
            return result;
        }
    }
    return result == RES_OK ? RES_DAMAGED : result;
}

static Result find_taken(Shard *shard, const Key *name, int64_t id, uint32_t tries, uint32_t *queue, uint32_t *place)
{
    volatile uint32_t *link;
    Key key = key_of_id(&id);
    Result result = find_queue(shard, name, queue);
    if (result == RES_OK)
        result = entry_find(shard, KIND_ITEM, &key, place, &link);
    if (result != RES_OK)
        return result;
    Entry *item = entry_at(shard, *place);
    int is_receipt = item->owner == ((uint64_t)tries << 32 | *queue) && item->used & TAKEN && item->number > boot_ns();
    return is_receipt ? RES_OK : RES_NONE;
}

Result queue_ack(Shard *shard, const Key *name, int64_t id, uint32_t tries)
{
    uint32_t queue, place;
    Result result = find_taken(shard, name, id, tries, &queue, &place);
    if (result == RES_OK && (result = unlist(shard, queue, place)) == RES_OK && (result = entry_remove(shard, place)) == RES_OK)
        end_if_empty(shard, queue);
    return result;
}

/* It is due `delay` later, and until then held as before, or put back. */
Result queue_defer(Shard *shard, const Key *name, int64_t id, uint32_t tries, int64_t delay, int held)
{
    uint32_t queue, place;
    int64_t now = boot_ns();
    Result result = find_taken(shard, name, id, tries, &queue, &place);
    if (result == RES_OK && (result = unlist(shard, queue, place)) == RES_OK) {
        Entry *item = entry_at(shard, place);
        item->used = held ? TAKEN : 0;
        item->number = now + delay;
        result = queue_list(shard, queue, place, now);
    }
    return result;
}

Result queue_sizes(Shard *shard, const Key *name, const Key *dead, QueueSizes *sizes)
{
    uint32_t queue, grave;
    int64_t now = boot_ns();
    *sizes = (QueueSizes){0, 0, 0, 0};
    Result result = find_queue(shard, name, &queue);
    if (result == RES_OK && (result = ripen(shard, queue, now)) == RES_OK) {
        sizes->waiting = *count_of(entry_at(shard, queue), 0);
        uint32_t place = list_of(entry_at(shard, queue), 1)[0];
        for (uint32_t steps = 0; place; steps++) {
            Entry *item = item_at(shard, place);
            if (!item || steps > shard->blocks)
                return RES_DAMAGED;
            ++*(item->used & TAKEN ? &sizes->taken : &sizes->delayed);
            place = item->after;
        }
    }
    if (result != RES_OK && result != RES_NONE)
        return result;
    result = find_queue(shard, dead, &grave);
    if (result == RES_OK && (result = ripen(shard, grave, now)) == RES_OK)
        sizes->dead = *count_of(entry_at(shard, grave), 0);
    return result == RES_NONE ? RES_OK : result;
}

/* When the next item is due; RES_NONE: never. */
Result queue_due(Shard *shard, const Key *name, int64_t *due)
{
    uint32_t queue;
    Result result = find_queue(shard, name, &queue);
    if (result != RES_OK)
        return result;
    for (int later = 0; later < 2; later++) {
        uint32_t first = list_of(entry_at(shard, queue), later)[0];
        if (first) {
            Entry *item = item_at(shard, first);
            *due = item ? item->number : 0;
            return item ? RES_OK : RES_DAMAGED;
        }
    }
    return RES_NONE;
}

/* ---- channels -------------------------------------------------------------------------------- */

static Result find_channel(Shard *shard, const Key *channel, uint32_t *place)
{
    volatile uint32_t *link;
    Result result = entry_find(shard, KIND_CHANNEL, channel, place, &link);
    if (result == RES_OK && entry_is_over(shard, entry_at(shard, *place), boot_ns())) {
        entry_unlink(shard, link, *place);
        return RES_NONE;
    }
    return result;
}

/* The key of a message: that of its channel, and its number. */
static Key key_of_message(const Key *channel, int64_t number, char *text)
{
    memcpy(text, channel->text, (size_t)channel->size);
    memcpy(text + channel->size, &number, sizeof number);
    uint64_t hash = channel->hash + (uint64_t)number * UINT64_C(0x9E3779B97F4A7C15);
    return (Key){text, channel->size + (Py_ssize_t)sizeof number, hash, 0};
}

Result channel_publish(Shard *shard, const Key *channel, const char *data, size_t size, int64_t *count)
{
    uint32_t place, message;
    char text[MAX_NAME_BYTES];
    *count = 0;
    Result result = find_channel(shard, channel, &place);
    if (result != RES_OK)
        return result == RES_NONE ? RES_OK : result;
    int64_t number = (int64_t)((uint64_t)entry_at(shard, place)->number + 1);
    Key key = key_of_message(channel, number, text);
    result = entry_new(shard, KIND_MESSAGE, &key, data, size, place, &message);
    if (result != RES_OK)
        return result;
    entry_expire_at(shard, entry_at(shard, message), boot_ns() + MESSAGE_NS);
    entry_publish(shard, message);
    IN_ORDER();
    Entry *entry = entry_at(shard, place);
    entry->number = number;
    *count = entry->after;
    return RES_OK;
}

/* One subscription more or less; the number of the last message. */
Result channel_join(Shard *shard, const Key *channel, int64_t by, int64_t *number)
{
    uint32_t place;
    Result result = find_channel(shard, channel, &place);
    if (result == RES_NONE) {
        if (by < 0)
            return RES_OK;
        result = entry_new(shard, KIND_CHANNEL, channel, NULL, 0, 0, &place);
        if (result != RES_OK)
            return result;
        entry_at(shard, place)->number = (int64_t)entry_at(shard, place)->version;
        entry_expire_at(shard, entry_at(shard, place), boot_ns() + CHANNEL_NS);
        entry_publish(shard, place);
    } else if (result != RES_OK)
        return result;
    Entry *entry = entry_at(shard, place);
    entry->after = (uint32_t)((int64_t)entry->after + by);
    *number = entry->number;
    if (!entry->after)
        return entry_remove(shard, place);
    entry_expire_at(shard, entry, boot_ns() + CHANNEL_NS);
    return RES_OK;
}

/* The first message that is there after that number, and its number; RES_NONE: none, and the number of the last. */
Result channel_next(Shard *shard, const Key *channel, int64_t after, int64_t *number, PyObject **data)
{
    uint32_t place, message;
    volatile uint32_t *link;
    char text[MAX_NAME_BYTES];
    *number = after;
    Result result = find_channel(shard, channel, &place);
    if (result == RES_NONE) /* it was idle for long */
        return channel_join(shard, channel, 1, number) == RES_OK ? RES_NONE : RES_FULL;
    if (result != RES_OK)
        return result;
    Entry *entry = entry_at(shard, place);
    int64_t last = entry->number, now = boot_ns();
    if (entry->expires < now + CHANNEL_NS / 2)
        entry_expire_at(shard, entry, now + CHANNEL_NS);
    if (last < 0)
        return RES_DAMAGED;
    if (after > last || after < last - (int64_t)shard->blocks)
        after = after > last ? last : last - (int64_t)shard->blocks; /* no more than so many can be there */
    while (after < last) {
        Key key = key_of_message(channel, ++after, text);
        result = entry_find(shard, KIND_MESSAGE, &key, &message, &link);
        if (result == RES_OK && !entry_is_over(shard, entry_at(shard, message), now)) {
            *number = after;
            return entry_read(shard, message, MAX_DATA_BYTES, data);
        }
        if (result == RES_DAMAGED)
            return result;
    }
    *number = last;
    return RES_NONE;
}
