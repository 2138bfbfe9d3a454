#include "infer/pages.h"

#include "base/alloc.h"

#include <assert.h>
#include <string.h>

ml_status ml_pages_make(ml_pages *p, int64_t n_page, int32_t page_size, int64_t n_seq, int64_t capacity, ml_error *err)
{
    *p = (ml_pages){ .page_size = page_size, .n_page = n_page, .n_seq = n_seq };
    p->pages_per_seq = ml_pages_for(p, capacity);
    p->table = ml_calloc((size_t)(n_seq * p->pages_per_seq), sizeof *p->table);
    p->n_used = ml_calloc((size_t)n_seq, sizeof *p->n_used);
    p->n_owner = ml_calloc((size_t)n_page, sizeof *p->n_owner);
    p->free = ml_calloc((size_t)n_page, sizeof *p->free);
    if (!p->table || !p->n_used || !p->n_owner || !p->free) {
        ml_pages_free(p);
        return ml_fail_memory(err, (size_t)(n_page + n_seq * p->pages_per_seq) * sizeof(int32_t), "page tables");
    }
    /* The lowest page on top: a lone sequence lies in one piece. */
    for (int64_t i = n_page; i-- > 0;) p->free[p->n_free++] = (int32_t)i;
    return ML_OK;
}

void ml_pages_free(ml_pages *p)
{
    ml_free(p->table);
    ml_free(p->n_used);
    ml_free(p->n_owner);
    ml_free(p->free);
    *p = (ml_pages){ 0 };
}

int64_t ml_pages_for(const ml_pages *p, int64_t n_token)
{
    return (n_token + p->page_size - 1) / p->page_size;
}

bool ml_pages_reserve(ml_pages *p, int64_t seq, int64_t n_token)
{
    int64_t n = ml_pages_for(p, n_token);
    assert(n <= p->pages_per_seq);
    if (n - p->n_used[seq] > p->n_free) return false;
    while (p->n_used[seq] < n) {
        int32_t page = p->free[--p->n_free];
        p->n_owner[page] = 1;
        p->table[seq * p->pages_per_seq + p->n_used[seq]++] = page;
    }
    return true;
}

void ml_pages_truncate(ml_pages *p, int64_t seq, int64_t n_token)
{
    int64_t n = ml_pages_for(p, n_token);
    while (p->n_used[seq] > n) ml_pages_release(p, p->table[seq * p->pages_per_seq + --p->n_used[seq]]);
}

void ml_pages_hold(ml_pages *p, int32_t page)
{
    assert(p->n_owner[page] > 0);
    p->n_owner[page]++;
}

void ml_pages_release(ml_pages *p, int32_t page)
{
    assert(p->n_owner[page] > 0);
    if (--p->n_owner[page] == 0) p->free[p->n_free++] = page;
}

void ml_pages_adopt(ml_pages *p, int64_t seq, const int32_t *page, int64_t n)
{
    assert(p->n_used[seq] == 0 && n <= p->pages_per_seq);
    for (int64_t i = 0; i < n; i++) {
        ml_pages_hold(p, page[i]);
        p->table[seq * p->pages_per_seq + i] = page[i];
    }
    p->n_used[seq] = (int32_t)n;
}
