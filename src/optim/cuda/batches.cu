/* How a step's work is cut: Muon's matrices by group and shape, as many at once as the scratch of Newton-Schulz holds;
 * what AdamW has in pieces.  The cut depends on the parameters and the configuration alone. */
#include "optim/cuda/update.cuh"

#include <cstdlib>

enum { MAX_MATRICES = 4096 };

/* One matrix or piece before it is placed. */
struct cut {
    int64_t param, at, n; /* elements [at, at + n) of the parameter */
    ml_optim_group group;
    int64_t rows, cols; /* 0 with AdamW */
};

static int64_t pieces_of(int64_t n)
{
    return ml_n_blocks(n, ML_UPDATE_PIECE);
}

static int64_t count_cuts(const ml_device_update *u)
{
    int64_t n = 0;
    for (int64_t i = 0; i < u->n_param; i++) {
        const ml_param *p = &u->param[i];
        bool muon = ml_optim_is_muon(ml_optim_choose_group(u->config, p->kind));
        n += muon ? p->n_matrix : pieces_of(ml_param_count(p));
    }
    return n;
}

static int compare_cuts(const void *a, const void *b)
{
    const cut *x = (const cut *)a, *y = (const cut *)b;
    if (x->group != y->group) return x->group < y->group ? -1 : 1;
    if (x->rows != y->rows) return x->rows < y->rows ? -1 : 1;
    if (x->cols != y->cols) return x->cols < y->cols ? -1 : 1;
    if (x->param != y->param) return x->param < y->param ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

static void list_cuts(const ml_device_update *u, cut *out)
{
    for (int64_t i = 0; i < u->n_param; i++) {
        const ml_param *p = &u->param[i];
        ml_optim_group group = ml_optim_choose_group(u->config, p->kind);
        bool muon = ml_optim_is_muon(group);
        int64_t all = ml_param_count(p), each = muon ? p->rows * p->cols : ML_UPDATE_PIECE;
        for (int64_t at = 0; at < all; at += each) {
            int64_t n = all - at < each ? all - at : each;
            *out++ = { i, at, n, group, muon ? p->rows : 0, muon ? p->cols : 0 };
        }
    }
}

static int64_t matrix_floats(int64_t rows, int64_t cols)
{
    int64_t side = rows < cols ? rows : cols;
    return 2 * rows * cols + 2 * side * side;
}

/* May cut `next` go into the batch that begins with `first` and has n cuts of n_element elements? */
static bool belongs(const ml_device_update *u, const cut *first, const cut *next, int64_t n, int64_t n_element)
{
    if (first->group != next->group || first->rows != next->rows || first->cols != next->cols) return false;
    int64_t most = u->storage.batch > 0 ? u->storage.batch : ML_UPDATE_ADAMW_ELEMENTS;
    if (!first->rows) return n_element + next->n <= most;
    int64_t floats = matrix_floats(first->rows, first->cols);
    most = u->storage.batch > 0 ? u->storage.batch * 4 : ML_UPDATE_MUON_FLOATS;
    return n < MAX_MATRICES && (n + 1) * floats <= most;
}

/* ---- where a cut's arrays lie ---- */

struct cutter {
    ml_device_update *u;
    ml_update_entry *entry; /* here, until they are uploaded */
    size_t at;              /* bytes used of the batch's slot */
    bool counting;          /* the first of two walks: copies are only counted, and slots measured */
};

/* An array of n_bytes: where it is; or, when it lies in this machine's memory, its place in the batch's slot, and a
 * copy that fills it. */
static void *bring(cutter *c, ml_update_batch *b, char *data, size_t n_bytes, bool is_here)
{
    ml_device_update *u = c->u;
    if (!is_here) return data;
    size_t at = c->at;
    c->at += n_bytes;
    if (c->counting) {
        u->n_copy++;
        return NULL;
    }
    char *slot = u->slot + (size_t)((b - u->batch) % ML_UPDATE_SLOTS) * u->slot_bytes;
    u->copy[b->copy + b->n_copy++] = { data, at, n_bytes };
    return slot + at;
}

/* Slots begin their arrays at multiples of 16 bytes. */
static void align(cutter *c)
{
    c->at = (c->at + 15) & ~(size_t)15;
}

static void fill_entry(cutter *c, ml_update_batch *b, const cut *x, ml_update_entry *e)
{
    ml_device_update *u = c->u;
    const ml_param *p = &u->param[x->param];
    size_t size = ml_update_moment_size(u), n = (size_t)x->n, at = (size_t)x->at;
    char *m = u->moments[x->param].slot[0], *v = u->moments[x->param].slot[1];
    memset(e, 0, sizeof *e);
    e->value = p->value ? p->value + at : NULL;
    e->half = p->half ? p->half + at : NULL;
    e->grad = p->grad + at;
    e->n = x->n;
    e->ratio = (float)ml_optim_get_ratio(u->config, p->kind);
    e->m = bring(c, b, m + at * size, n * size, u->storage.here);
    align(c);
    if (v) e->v = bring(c, b, v + at * size, n * size, u->storage.here);
    align(c);
    if (p->rest) e->rest = (uint16_t *)bring(c, b, (char *)(p->rest + at), n * sizeof *p->rest, p->rest_is_here);
    align(c);
}

/* One walk over the sorted cuts: batches, their entries and copies. */
static void walk(cutter *c, const cut *list)
{
    ml_device_update *u = c->u;
    u->n_batch = 0;
    u->n_copy = 0;
    for (int64_t i = 0; i < u->n_entry;) {
        ml_update_batch counted = {}, *b = c->counting ? &counted : &u->batch[u->n_batch];
        int64_t n_element = 0, before = u->n_copy;
        c->at = 0;
        b->first = i;
        b->group = list[i].group;
        b->rows = list[i].rows;
        b->cols = list[i].cols;
        b->copy = before;
        do {
            ml_update_entry unused;
            fill_entry(c, b, &list[i], c->counting ? &unused : &c->entry[i]);
            n_element += list[i].n;
            if (list[i].n > b->most) b->most = list[i].n;
            b->n++;
            i++;
        } while (i < u->n_entry && belongs(u, &list[b->first], &list[i], b->n, n_element));
        if (!c->counting) u->n_copy += b->n_copy;
        if (c->at > u->slot_bytes) u->slot_bytes = c->at;
        u->n_batch++;
    }
}

static ml_status upload(ml_device_update *u, const void *src, size_t n_bytes, void **out, ml_error *err)
{
    ML_TRY(ml_device_alloc(u->device, n_bytes, "the optimizer's lists", out, err));
    return ml_device_upload(u->device, *out, src, n_bytes, err);
}

static ml_status place(ml_device_update *u, const cut *list, ml_update_entry *entry, ml_error *err)
{
    cutter c = { u, entry, 0, true };
    walk(&c, list);
    u->slot_bytes = (u->slot_bytes + 255) & ~(size_t)255;
    u->batch = (ml_update_batch *)ml_calloc((size_t)u->n_batch, sizeof *u->batch);
    u->copy = (ml_update_copy *)ml_calloc((size_t)u->n_copy, sizeof *u->copy);
    if (!u->batch || !u->copy) {
        return ml_fail_memory(err, (size_t)u->n_copy * sizeof *u->copy, "the optimizer's lists");
    }
    void *memory = NULL;
    if (u->slot_bytes > 0) {
        ML_TRY(ml_device_alloc(u->device, ML_UPDATE_SLOTS * u->slot_bytes, "the optimizer's slots", &memory, err));
        u->slot = (char *)memory;
    }
    c.counting = false;
    walk(&c, list);
    ML_TRY(upload(u, entry, (size_t)u->n_entry * sizeof *entry, &memory, err));
    u->entry = (ml_update_entry *)memory;
    return ML_OK;
}

/* All gradients in pieces, for the norm. */
static ml_status make_pieces(ml_device_update *u, ml_error *err)
{
    for (int64_t i = 0; i < u->n_param; i++) u->n_piece += pieces_of(ml_param_count(&u->param[i]));
    ml_update_entry *piece = (ml_update_entry *)ml_calloc((size_t)u->n_piece, sizeof *piece), *next = piece;
    if (!piece) return ml_fail_memory(err, (size_t)u->n_piece * sizeof *piece, "the optimizer's lists");
    for (int64_t i = 0; i < u->n_param; i++) {
        int64_t all = ml_param_count(&u->param[i]);
        for (int64_t at = 0; at < all; at += ML_UPDATE_PIECE, next++) {
            next->grad = u->param[i].grad + at;
            next->n = all - at < ML_UPDATE_PIECE ? all - at : ML_UPDATE_PIECE;
        }
    }
    void *memory = NULL;
    ml_status status = upload(u, piece, (size_t)u->n_piece * sizeof *piece, &memory, err);
    u->piece = (ml_update_entry *)memory;
    ml_free(piece);
    return status;
}

ml_status ml_update_make_batches(ml_device_update *u, ml_error *err)
{
    u->n_entry = count_cuts(u);
    cut *list = (cut *)ml_calloc((size_t)u->n_entry, sizeof *list);
    ml_update_entry *entry = (ml_update_entry *)ml_calloc((size_t)u->n_entry, sizeof *entry);
    ml_status status = ML_OK;
    if (!list || !entry) {
        status = ml_fail_memory(err, (size_t)u->n_entry * sizeof *entry, "the optimizer's lists");
    } else {
        list_cuts(u, list);
        if (u->n_entry > 0) qsort(list, (size_t)u->n_entry, sizeof *list, compare_cuts);
        status = place(u, list, entry, err);
    }
    ml_free(list);
    ml_free(entry);
    return status == ML_OK ? make_pieces(u, err) : status;
}
