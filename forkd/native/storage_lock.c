/* The lock of a shard, who holds it, and the words that waiting processes sleep on (storage/shm_lock.py, the twin, which
 * says how a lock is taken, and why so). */

#define _GNU_SOURCE
#include "storage_table.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    PID_BITS = 22, EPOCH_BITS = 6, SLOT_BITS = 14, COUNT_BITS = 22,
    SLOT_AT = PID_BITS + EPOCH_BITS, COUNT_AT = SLOT_AT + SLOT_BITS,
    YIELDS = 20,
    INSTANT_TRIES = 3,
};
#define LOW(bits) ((UINT64_C(1) << (bits)) - 1)
#define SECOND INT64_C(1000000000)
#define STALL_NS SECOND
#define JUDGE_NS (SECOND / 100) /* how long one waits until /proc is looked at */
#define LONGEST_PAUSE_NS (SECOND / 1000)
#define SLICE_NS (SECOND / 10)
#define SLICE_WITH_TWINS_NS (SECOND / 200)

static pid_t own_pid;

static void in_child(void)
{
    own_pid = 0;
}

int storage_lock_init(void)
{
    return pthread_atfork(NULL, NULL, in_child);
}

static uint64_t page_cell(const Table *table, uint64_t slot)
{
    if (!table->page.buf || (Py_ssize_t)(slot + 1) * 8 > table->page.len)
        return 0;
    return __atomic_load_n((uint64_t *)table->page.buf + slot, __ATOMIC_ACQUIRE);
}

uint64_t holder_word(const Table *table)
{
    if (!own_pid)
        own_pid = getpid();
    uint64_t slot = own_pid == table->pid ? (uint64_t)table->slot : 0;
    uint64_t count = slot ? page_cell(table, slot) & LOW(COUNT_BITS) : 0;
    uint64_t epoch = page_cell(table, 0) & LOW(EPOCH_BITS);
    return ((uint64_t)own_pid & LOW(PID_BITS)) | epoch << PID_BITS | slot << SLOT_AT | count << COUNT_AT;
}

static pid_t pid_of(uint64_t word)
{
    return (pid_t)(word & LOW(PID_BITS));
}

/* Whether the master has said that this holder is dead; -1: it is not a child of this master. */
static int page_says(const Table *table, uint64_t word)
{
    uint64_t slot = word >> SLOT_AT & LOW(SLOT_BITS);
    if (!slot || !table->page.buf || (word >> PID_BITS & LOW(EPOCH_BITS)) != (page_cell(table, 0) & LOW(EPOCH_BITS)))
        return -1;
    return (page_cell(table, slot) & LOW(COUNT_BITS)) != word >> COUNT_AT;
}

int holder_is_over(const Table *table, uint64_t word)
{
    int said = page_says(table, word);
    if (said >= 0)
        return said;
    return !pid_of(word) || (kill(pid_of(word), 0) && errno == ESRCH);
}

/* Whether it has ended, by the kernel's word: one that its parent has not collected yet, too. */
static int has_ended(uint64_t word)
{
    char path[32], text[64];
    pid_t pid = pid_of(word);
    if (!pid || (kill(pid, 0) && errno == ESRCH))
        return 1;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    text[size > 0 ? size : 0] = 0;
    const char *end = strrchr(text, ')');
    return end && end[1] && (end[2] == 'Z' || end[2] == 'X');
}

/* ---- the lock of a shard --------------------------------------------------------------------- */

static int with_twins(const Table *table)
{
    return __atomic_load_n((uint32_t *)((char *)table->memory.buf + TWINS_AT), __ATOMIC_SEQ_CST) != 0;
}

static int in_file(const Table *table, const Shard *shard, int type)
{
    struct flock lock = {.l_type = (short)type, .l_whence = SEEK_SET, .l_len = 1};
    lock.l_start = (char *)shard->cell - (char *)table->memory.buf;
    return !fcntl(table->fd, F_SETLK, &lock);
}

static int take_word(const Shard *shard, uint64_t from, uint64_t own)
{
    return __atomic_compare_exchange_n((uint64_t *)&shard->cell[S_LOCK], &from, own, 0, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
}

/* Try once. `judge`: how the kernel is to be asked, too. On RES_BUSY `*met` is the holder. */
static Result try_hold(Table *table, Shard *shard, uint64_t own, int judge, uint64_t *met)
{
    int files = with_twins(table);
    *met = __atomic_load_n((uint64_t *)&shard->cell[S_LOCK], __ATOMIC_ACQUIRE);
    if (files && !in_file(table, shard, F_WRLCK))
        return RES_BUSY;
    uint64_t word = *met = __atomic_load_n((uint64_t *)&shard->cell[S_LOCK], __ATOMIC_ACQUIRE);
    /* One's own word is what is left of a scribble: the holder of the GIL is in no other call. */
    int over = !word || word == own || page_says(table, word) == 1 || (judge && has_ended(word));
    if (over && take_word(shard, word, own)) {
        if (files || !with_twins(table)) {
            if (word)
                shard->cell[S_DIRTY] = 1;
            return RES_OK;
        }
        take_word(shard, own, word); /* a twin came in between: again, with its lock */
    }
    if (files)
        in_file(table, shard, F_UNLCK);
    return RES_BUSY;
}

static Result wait_for(Table *table, Shard *shard, uint64_t own)
{
    int64_t began = now_ns(), judged = began, pause = 20000;
    uint64_t met = 0;
    for (unsigned tries = 0;; tries++) {
        int64_t now = now_ns();
        int judge = now - judged > JUDGE_NS;
        if (judge)
            judged = now;
        Result result = try_hold(table, shard, own, judge, &met);
        if (result != RES_BUSY)
            return result;
        if (table->instant) {
            if (tries >= INSTANT_TRIES)
                return RES_BUSY;
            continue;
        }
        if (now - began > STALL_NS) {
            table->stalled_by = met;
            __atomic_add_fetch((uint64_t *)&shard->cell[S_STALLS], 1, __ATOMIC_RELAXED);
            return RES_STALLED;
        }
        Py_BEGIN_ALLOW_THREADS
        if (tries < YIELDS)
            sched_yield();
        else {
            struct timespec time = {0, pause};
            nanosleep(&time, NULL);
            pause = pause * 2 < LONGEST_PAUSE_NS ? pause * 2 : LONGEST_PAUSE_NS;
        }
        Py_END_ALLOW_THREADS
    }
}

Result shard_hold(Table *table, uint32_t number, Shard *shard)
{
    char *at = (char *)table->memory.buf + TABLE_HEADER + number * table->shard_bytes;
    shard->table = table;
    shard->cell = (volatile uint64_t *)at;
    shard->next = (volatile uint32_t *)(at + SHARD_HEADER);
    shard->bucket = (volatile uint32_t *)(at + table->buckets_at);
    shard->data = at + table->blocks_at;
    shard->blocks = table->blocks;
    shard->buckets = table->buckets;
    uint64_t own = holder_word(table), met;
    Result result = try_hold(table, shard, own, 0, &met);
    if (result == RES_BUSY)
        result = wait_for(table, shard, own);
    if (result == RES_OK && shard->cell[S_DIRTY]) {
        result = shard_repair(shard);
        if (result != RES_OK)
            shard_let_go(shard);
    }
    return result;
}

void shard_let_go(Shard *shard)
{
    take_word(shard, holder_word(shard->table), 0);
    if (with_twins(shard->table))
        in_file(shard->table, shard, F_UNLCK);
}

/* ---- bells ----------------------------------------------------------------------------------- */

static uint32_t *bell_of(const Table *table, uint64_t hash)
{
    return (uint32_t *)((char *)table->memory.buf + BELLS_AT) + hash % BELLS;
}

uint32_t bell_seen(const Table *table, uint64_t hash)
{
    return __atomic_load_n(bell_of(table, hash), __ATOMIC_SEQ_CST);
}

void bell_ring(Table *table, uint64_t hash)
{
    uint32_t *bell = bell_of(table, hash);
    __atomic_add_fetch(bell, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

int bell_wait(Table *table, uint64_t hash, uint32_t seen, double seconds)
{
    int64_t most = with_twins(table) ? SLICE_WITH_TWINS_NS : SLICE_NS; /* the twin cannot wake */
    int64_t ns = seconds * 1e9 < (double)most ? (int64_t)(seconds * 1e9) : most;
    if (ns > 0) {
        struct timespec time = {0, ns};
        Py_BEGIN_ALLOW_THREADS
        syscall(SYS_futex, bell_of(table, hash), FUTEX_WAIT, seen, &time, NULL, 0);
        Py_END_ALLOW_THREADS
    }
    return PyErr_CheckSignals();
}

/* wake(memory): all who sleep on a bell of that table wake, and look. Nothing of it is read. */
PyObject *native_wake(PyObject *module, PyObject *memory)
{
    Py_buffer view;
    (void)module;
    if (PyObject_GetBuffer(memory, &view, PyBUF_SIMPLE))
        return NULL;
    if (view.len >= BELLS_AT + BELLS * 4)
        for (int i = 0; i < BELLS; i++)
            syscall(SYS_futex, (uint32_t *)((char *)view.buf + BELLS_AT) + i, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}
