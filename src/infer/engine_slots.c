/* Who gets a slot, and which pages: turns of clients, and prompts that begin alike. */
#include "infer/engine_internal.h"

#include "base/clock.h"

#include <string.h>

void ml_engine_leave_slot(ml_engine *e, int64_t slot, ml_finish finish)
{
    ml_job *j = e->slot[slot];
    e->slot[slot] = NULL;
    ml_pages_truncate(ml_runner_pages(e->runner), slot, 0);
    int64_t n = 0;
    for (int64_t i = 0; i < e->n_order; i++) {
        if (e->order[i] != slot) e->order[n++] = e->order[i];
    }
    e->n_order = n;
    ml_job_end(j, finish);
}

/* Take a job out of the queue; `before` is the one in front of it, NULL for the first. */
static void leave_queue(ml_engine *e, ml_job *before, ml_job *j)
{
    if (before) {
        before->next = j->next;
    } else {
        e->first = j->next;
    }
    if (e->last == j) e->last = before;
    j->next = NULL;
    e->stats.n_waiting--;
}

void ml_engine_end_cancelled(ml_engine *e)
{
    for (int64_t s = 0; s < e->config.n_slot; s++) {
        if (e->slot[s] && e->slot[s]->cancelled) ml_engine_leave_slot(e, s, ML_FINISH_CANCEL);
    }
    ml_job *gone = NULL;
    for (ml_job *j = e->first, *before = NULL, *next; j; j = next) {
        next = j->next;
        if (!j->cancelled) {
            before = j;
            continue;
        }
        leave_queue(e, before, j);
        j->next = gone;
        gone = j;
    }
    for (ml_job *next; gone; gone = next) { /* only now: callbacks may submit */
        next = gone->next;
        ml_job_end(gone, ML_FINISH_CANCEL);
    }
}

static int64_t slots_of(const ml_engine *e, uint64_t client)
{
    int64_t n = 0;
    for (int64_t i = 0; i < e->n_order; i++) n += e->slot[e->order[i]]->request.client == client;
    return n;
}

/* The first job of the client who has the fewest slots; *before is the one in front of it. */
static ml_job *next_job(const ml_engine *e, ml_job **before)
{
    ml_job *best = NULL, *previous = NULL;
    int64_t fewest = 0;
    for (ml_job *j = e->first; j; previous = j, j = j->next) {
        int64_t n = slots_of(e, j->request.client);
        if (best && n >= fewest) continue;
        best = j;
        *before = previous;
        fewest = n;
        if (n == 0) break;
    }
    return best;
}

/* ---- pages of prompts ---- */

/* Whole pages of the prompt that may come from others: its last token is run in any case, for its logits. */
static int64_t n_sharable(const ml_engine *e, const ml_job *j)
{
    return (j->request.n_prompt - 1) / ml_runner_pages(e->runner)->page_size;
}

/* Put a shared page in the place of the slot's own. */
static void swap_page(ml_pages *p, int64_t slot, int64_t place, int32_t page)
{
    int32_t *entry = &p->table[slot * p->pages_per_seq + place];
    ml_pages_hold(p, page);
    ml_pages_release(p, *entry);
    *entry = page;
}

static bool adopt_next(ml_engine *e, ml_job *j, int64_t slot)
{
    ml_pages *p = ml_runner_pages(e->runner);
    if (j->n_shared >= n_sharable(e, j)) return false;
    int32_t page = ml_prefix_find(&e->prefix, j->node, j->computed_by, j->token + j->n_shared * p->page_size);
    if (page == ML_PREFIX_NONE) return false;
    if (p->n_used[slot] > j->n_shared) {
        swap_page(p, slot, j->n_shared, page);
    } else {
        ml_pages_hold(p, page);
        p->table[slot * p->pages_per_seq + p->n_used[slot]++] = page;
    }
    j->node = page;
    j->n_shared++;
    return true;
}

/* Pages for all that a job may need: those there are of its prompt, then free ones. */
static bool reserve(ml_engine *e, ml_job *j, int64_t slot)
{
    ml_pages *p = ml_runner_pages(e->runner);
    while (j->shares && adopt_next(e, j, slot)) continue;
    if (e->config.reuse) ml_prefix_evict(&e->prefix, ml_pages_for(p, j->limit) - p->n_used[slot]);
    if (ml_pages_reserve(p, slot, j->limit)) {
        j->n_cached = j->n_reused = j->n_shared * p->page_size;
        e->stats.n_reused_token += j->n_reused;
        return true;
    }
    ml_pages_truncate(p, slot, 0);
    j->n_shared = 0;
    j->node = ML_PREFIX_ROOT;
    return false;
}

ml_status ml_engine_fill_slots(ml_engine *e, ml_error *err)
{
    for (int64_t s = 0; s < e->config.n_slot && e->first; s++) {
        if (e->slot[s]) continue;
        ml_job *before = NULL, *j = next_job(e, &before);
        if (!reserve(e, j, s)) return ML_OK;
        leave_queue(e, before, j);
        e->slot[s] = j;
        ml_runner_set_adapter(e->runner, s, j->request.adapter);
        e->order[e->n_order++] = s;
        j->started = ml_clock_seconds();
        j->turn = e->turn; /* behind those who wait for their next piece */
        ML_TRY(ml_sampler_make(&j->request.sampling, e->model->config.vocab_size, e->config.n_valid, &j->sampler, err));
    }
    return ML_OK;
}

void ml_engine_take_shared(ml_engine *e, int64_t slot)
{
    ml_job *j = e->slot[slot];
    int64_t size = ml_runner_pages(e->runner)->page_size;
    while (j->shares && j->n_cached == j->n_shared * size && adopt_next(e, j, slot)) {
        j->n_cached += size;
        j->n_reused += size;
        e->stats.n_reused_token += size;
    }
}

bool ml_engine_must_wait(const ml_engine *e, int64_t place)
{
    const ml_job *j = e->slot[e->order[place]];
    int64_t size = ml_runner_pages(e->runner)->page_size, n = j->n_cached + size;
    if (!j->shares || j->n_cached % size || n > n_sharable(e, j) * size) return false;
    for (int64_t i = 0; i < place; i++) {
        const ml_job *o = e->slot[e->order[i]];
        if (!o->shares || o->computed_by != j->computed_by || o->n_cached >= n || o->request.n_prompt < n) continue;
        if (memcmp(o->token, j->token, (size_t)n * sizeof *j->token) == 0) return true;
    }
    return false;
}

void ml_engine_give_shared(ml_engine *e, int64_t slot)
{
    ml_job *j = e->slot[slot];
    ml_pages *p = ml_runner_pages(e->runner);
    if (!j->shares) return;
    int64_t n = j->n_cached < j->request.n_prompt ? j->n_cached : j->request.n_prompt;
    for (; (j->n_shared + 1) * p->page_size <= n; j->n_shared++) {
        const int32_t *id = j->token + j->n_shared * p->page_size;
        int32_t own = p->table[slot * p->pages_per_seq + j->n_shared];
        int32_t page = ml_prefix_find(&e->prefix, j->node, j->computed_by, id);
        if (page == ML_PREFIX_NONE) {
            ml_prefix_add(&e->prefix, j->node, j->computed_by, id, page = own);
        } else if (page != own) {
            swap_page(p, slot, j->n_shared, page); /* the same bits; and its node stays while this job does */
        }
        j->node = page;
    }
}
