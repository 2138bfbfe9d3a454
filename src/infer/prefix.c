#include "infer/prefix.h"

#include "base/alloc.h"

#include <assert.h>
#include <string.h>

ml_status ml_prefix_make(ml_prefix *p, ml_pages *pages, ml_error *err)
{
    size_t n = (size_t)pages->n_page, n_id = n * (size_t)pages->page_size;
    *p = (ml_prefix){ .pages = pages, .first = ML_PREFIX_NONE };
    p->node = ml_calloc(n, sizeof *p->node);
    p->id = ml_calloc(n_id, sizeof *p->id);
    if (p->node && p->id) return ML_OK;
    ml_prefix_free(p);
    return ml_fail_memory(err, n_id * sizeof *p->id, "a store of prompts");
}

void ml_prefix_free(ml_prefix *p)
{
    ml_free(p->node);
    ml_free(p->id);
    *p = (ml_prefix){ 0 };
}

static int32_t *first_child(ml_prefix *p, int32_t parent)
{
    return parent == ML_PREFIX_ROOT ? &p->first : &p->node[parent].child;
}

int32_t ml_prefix_find(ml_prefix *p, int32_t parent, const void *computed_by, const int32_t *id)
{
    size_t size = (size_t)p->pages->page_size;
    for (int32_t n = *first_child(p, parent); n != ML_PREFIX_NONE; n = p->node[n].sibling) {
        if (p->node[n].computed_by != computed_by) continue;
        if (memcmp(p->id + (size_t)n * size, id, size * sizeof *id) != 0) continue;
        p->node[n].touched = ++p->clock;
        return n;
    }
    return ML_PREFIX_NONE;
}

void ml_prefix_add(ml_prefix *p, int32_t parent, const void *computed_by, const int32_t *id, int32_t page)
{
    assert(!p->node[page].used);
    size_t size = (size_t)p->pages->page_size;
    int32_t *first = first_child(p, parent);
    memcpy(p->id + (size_t)page * size, id, size * sizeof *id);
    p->node[page] = (ml_prefix_node){ parent, ML_PREFIX_NONE, *first, true, computed_by, ++p->clock };
    *first = page;
    p->n_node++;
    ml_pages_hold(p->pages, page);
}

static void drop(ml_prefix *p, int32_t page)
{
    int32_t *link = first_child(p, p->node[page].parent);
    while (*link != page) link = &p->node[*link].sibling;
    *link = p->node[page].sibling;
    p->node[page].used = false;
    p->n_node--;
    ml_pages_release(p->pages, page);
}

/* What is below a node was computed as the node was: whole trees go, and in any order. */
void ml_prefix_forget(ml_prefix *p, const void *computed_by)
{
    for (int32_t *link = &p->first; *link != ML_PREFIX_NONE;) {
        ml_prefix_node *n = &p->node[*link];
        if (n->computed_by == computed_by) {
            *link = n->sibling;
        } else {
            link = &n->sibling;
        }
    }
    for (int32_t i = 0; i < p->pages->n_page; i++) {
        ml_prefix_node *n = &p->node[i];
        if (!n->used || n->computed_by != computed_by) continue;
        n->used = false;
        p->n_node--;
        ml_pages_release(p->pages, i);
    }
}

/* The leaf that nobody but the store holds and that was used before all others. */
static int32_t oldest_leaf(const ml_prefix *p)
{
    int32_t oldest = ML_PREFIX_NONE;
    for (int32_t i = 0; i < p->pages->n_page; i++) {
        const ml_prefix_node *n = &p->node[i];
        if (!n->used || n->child != ML_PREFIX_NONE || p->pages->n_owner[i] > 1) continue;
        if (oldest == ML_PREFIX_NONE || n->touched < p->node[oldest].touched) oldest = i;
    }
    return oldest;
}

void ml_prefix_evict(ml_prefix *p, int64_t n_free)
{
    while (p->pages->n_free < n_free && p->n_node > 0) {
        int32_t page = oldest_leaf(p);
        if (page == ML_PREFIX_NONE) return;
        drop(p, page);
    }
}
