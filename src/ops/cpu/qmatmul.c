/* A task is a few panels of rows.  Their blocks are unpacked a chunk of k at a time and all tokens pass by before the
 * next chunk, so unpacking is shared by the tokens; for few tokens the chunk is small and stays in L1. */
#include "ops/cpu/qmatmul.h"

#include "base/thread.h"
#include "ops/cpu/qmatmul_kernel.h"

#include <assert.h>
#include <string.h>

enum {
    FEW_TOKENS = 4,              /* up to which a product is limited by reading the weights */
    CHUNK_BYTES = 92160,         /* of unpacked weights for many tokens: 2048 elements of 32 rows, part of L2 */
    SMALL_CHUNK_BYTES = 11520,   /* for few: 256 elements of 32 rows, part of L1 */
    MIN_PARALLEL = 200000,       /* multiply-adds below which starting the threads costs more than it saves */
    TASK_BYTES = 64 * 1024,      /* of stored weights: the shortest task for few tokens */
    MAX_TILE_AHEAD = 320 * 1024, /* of stored weights between asking and using */
    AHEAD = 4096,
    DIRECT_AHEAD = 8192,
    GATHER_BYTES = 4096, /* of blocks taken from rows at a time, at least one of each: part of L1 */
};

typedef struct {
    const ml_qmatmul *p;
    const ml_q_kernel *kernel;
    ml_q_format format;
    int64_t n_unit;     /* per row */
    size_t block_bytes; /* of one row */
    int64_t chunk;      /* units unpacked at a time */
    int64_t end;        /* row behind the last of the task: what lies there is somebody else's to ask for */
} product;

static product prepare(const ml_qmatmul *p)
{
    product q = { .p = p, .kernel = ml_q_kernel_get(), .format = ml_q_format_of(p->w_dtype) };
    assert(p->x->unit == ml_dtype_block_length(p->w_dtype) && p->x->k == p->k);
    q.n_unit = p->k / p->x->unit;
    q.block_bytes = ml_dtype_block_bytes(p->w_dtype);
    int64_t bytes = p->n_token <= FEW_TOKENS ? SMALL_CHUNK_BYTES : CHUNK_BYTES;
    q.chunk = bytes / (int64_t)(q.format.unit_size * ML_Q_MAX_PANEL);
    return q;
}

static size_t row_bytes_of(const product *q)
{
    return (size_t)q->n_unit * q->block_bytes;
}

/* The rows of the panel that begins at first_row; beyond the last row that one again, to be dropped at the end. */
static void find_rows(const product *q, int64_t first_row, const uint8_t **row)
{
    for (int r = 0; r < ML_Q_ROWS; r++) {
        int64_t i = first_row + r < q->p->n ? first_row + r : q->p->n - 1;
        row[r] = (const uint8_t *)q->p->w + (size_t)i * row_bytes_of(q);
    }
}

/* Where the panel that begins at first_row lies, as rows or as a panel. */
static const char *find_panel(const product *q, int64_t first_row)
{
    return (const char *)q->p->w + (size_t)first_row * row_bytes_of(q);
}

static const uint16_t *halves_of(const product *q, ml_q_words word)
{
    return (const uint16_t *)(const void *)word[q->format.n_word];
}

/* A tile of tokens: where it reads x, and its sums so far. */
typedef struct {
    ml_q_tile x;
    int size; /* index of the kernel's tile sizes */
    _Alignas(64) float acc[ML_Q_MAX_TOKEN * ML_Q_MAX_PANEL * ML_Q_ROWS];
} tile;

/* The largest tile that fits into what is left of the tokens. */
static void place_tile(const product *q, int64_t token, int64_t first_unit, tile *t)
{
    const ml_qmatmul *p = q->p;
    const ml_qx *x = p->x;
    t->size = 0;
    while (q->kernel->n_token[t->size] > p->n_token - token) t->size++;
    for (int i = 0; i < q->kernel->n_token[t->size]; i++) {
        int64_t from = p->x_row ? p->x_row[token + i] : token + i;
        t->x.q[i] = x->q + from * x->k + first_unit * x->unit;
        t->x.sum[i] = x->sum + (from * x->k + first_unit * x->unit) / 16;
        t->x.pair[i] = x->pair + (from * x->k + first_unit * x->unit) / 64;
        t->x.d[i] = x->d + from * q->n_unit + first_unit;
    }
}

static void advance_tile(const product *q, int64_t n_unit, tile *t)
{
    int64_t n = n_unit * q->p->x->unit;
    for (int i = 0; i < q->kernel->n_token[t->size]; i++) {
        t->x.q[i] += n;
        t->x.sum[i] += n / 16;
        t->x.pair[i] += n / 64;
        t->x.d[i] += n_unit;
    }
}

/* Sums from y (zero before the first unit), and to y: the rows of a tile that the product has. */
static void load_sums(const product *q, int64_t token, int64_t row, bool first, tile *t)
{
    const ml_qmatmul *p = q->p;
    int64_t width = q->kernel->n_panel * ML_Q_ROWS, n = p->n - row < width ? p->n - row : width;
    if (first || n < width) memset(t->acc, 0, sizeof t->acc);
    for (int i = 0; i < q->kernel->n_token[t->size] && !first; i++) {
        memcpy(t->acc + i * width, p->y + (token + i) * p->y_stride + row, (size_t)n * sizeof *t->acc);
    }
}

static void store_sums(const product *q, int64_t token, int64_t row, const tile *t)
{
    const ml_qmatmul *p = q->p;
    int64_t width = q->kernel->n_panel * ML_Q_ROWS, n = p->n - row < width ? p->n - row : width;
    for (int i = 0; i < q->kernel->n_token[t->size]; i++) {
        memcpy(p->y + (token + i) * p->y_stride + row, t->acc + i * width, (size_t)n * sizeof *t->acc);
    }
}

/* The first row of a panel of the tile of rows at `row`; beyond the product the first panel again. */
static int64_t panel_row(const product *q, int64_t row, int panel)
{
    return row + panel * ML_Q_ROWS < q->p->n ? row + panel * ML_Q_ROWS : row;
}

/* Of panels, memory is asked for a tile of rows ahead: the panels of a tile are read side by side, each a stream that
 * ends with the tile.  (A tile too large for L2 asks for what is near.) */
static int64_t tile_ahead(const product *q, int64_t first_row)
{
    int64_t width = (int64_t)q->kernel->n_panel * ML_Q_ROWS, tile_bytes = width * (int64_t)row_bytes_of(q);
    return tile_bytes > MAX_TILE_AHEAD ? AHEAD : first_row + width >= q->end ? 0 : tile_bytes;
}

/* Units first .. first + n_unit - 1 of the panel at first_row.  Of rows, each unit asks for its share of the next
 * tile; beyond the end of w that is harmless. */
static void unpack_panel(const product *q, int64_t first_row, int64_t first, int64_t n_unit, char *out)
{
    _Alignas(64) char blocks[GATHER_BYTES];
    const uint8_t *row[ML_Q_ROWS];
    size_t unit_bytes = ML_Q_ROWS * q->block_bytes;
    const char *panel = find_panel(q, first_row);
    bool stored = q->p->w_layout == ML_LAYOUT_PANELS;
    int64_t ahead = stored ? tile_ahead(q, first_row) : 0;
    if (!stored) find_rows(q, first_row, row);
    for (int64_t u = first; u < first + n_unit; u++, out += q->format.unit_size) {
        const char *at = panel + (size_t)u * unit_bytes;
        if (!stored) {
            const char *next = at + (size_t)q->kernel->n_panel * ML_Q_ROWS * row_bytes_of(q);
            q->kernel->gather(&q->format, row, (size_t)u * q->block_bytes, 1, next, blocks);
            at = blocks;
        }
        ml_q_words word = (const void *)at;
        q->kernel->unpack(q->p->w_dtype, word, halves_of(q, word), ahead, out);
    }
}

static void unpack_chunk(const product *q, int64_t row, int64_t first, int64_t n_unit, char *units)
{
    for (int panel = 0; panel < q->kernel->n_panel; panel++) {
        unpack_panel(q, panel_row(q, row, panel), first, n_unit,
                     units + (size_t)(panel * n_unit) * q->format.unit_size);
    }
}

static void run_dot(const product *q, const char *units, int64_t n_unit, tile *t)
{
    q->kernel->dot[q->format.super][t->size](&q->format, units, n_unit, &t->x, t->acc);
}

/* The rows of one tile from `row`, for all tokens: each chunk is unpacked once, and the sums wait in y. */
static void run_many(const product *q, int64_t row)
{
    _Alignas(64) char units[CHUNK_BYTES];
    for (int64_t first = 0; first < q->n_unit; first += q->chunk) {
        int64_t n_unit = q->n_unit - first < q->chunk ? q->n_unit - first : q->chunk;
        tile t;
        unpack_chunk(q, row, first, n_unit, units);
        for (int64_t token = 0; token < q->p->n_token; token += q->kernel->n_token[t.size]) {
            place_tile(q, token, first, &t);
            load_sums(q, token, row, first == 0, &t);
            run_dot(q, units, n_unit, &t);
            store_sums(q, token, row, &t);
        }
    }
}

/* The same for few tokens, whose sums stay here while short chunks pass by. */
static void run_few(const product *q, int64_t row)
{
    _Alignas(64) char units[SMALL_CHUNK_BYTES];
    tile t[FEW_TOKENS];
    int n_tile = 0;
    for (int64_t token = 0; token < q->p->n_token; token += q->kernel->n_token[t[n_tile++].size]) {
        place_tile(q, token, 0, &t[n_tile]);
        load_sums(q, token, row, true, &t[n_tile]);
    }
    for (int64_t first = 0; first < q->n_unit; first += q->chunk) {
        int64_t n_unit = q->n_unit - first < q->chunk ? q->n_unit - first : q->chunk;
        unpack_chunk(q, row, first, n_unit, units);
        for (int i = 0; i < n_tile; i++) {
            run_dot(q, units, n_unit, &t[i]);
            advance_tile(q, n_unit, &t[i]);
        }
    }
    int64_t token = 0;
    for (int i = 0; i < n_tile; i++) {
        store_sums(q, token, row, &t[i]);
        token += q->kernel->n_token[t[i].size];
    }
}

/* ---- one or two tokens, straight from the stored words ---- */

static void store_direct(const product *q, int64_t row, const float *acc)
{
    const ml_qmatmul *p = q->p;
    int64_t n = p->n - row < ML_Q_ROWS ? p->n - row : ML_Q_ROWS;
    for (int64_t i = 0; i < p->n_token; i++) {
        memcpy(p->y + i * p->y_stride + row, acc + i * ML_Q_ROWS, (size_t)n * sizeof *acc);
    }
}

/* Panels from row `begin` on: one stream, and what lies DIRECT_AHEAD in it is asked for. */
static void run_panels(const product *q, ml_q_direct_fn direct, int64_t begin, int64_t end)
{
    size_t unit_bytes = ML_Q_ROWS * q->block_bytes, panel_bytes = (size_t)q->n_unit * unit_bytes;
    const char *panel = find_panel(q, begin);
    tile t;
    place_tile(q, 0, 0, &t);
    for (int64_t row = begin; row < end; row += ML_Q_ROWS, panel += panel_bytes) {
        _Alignas(64) float acc[ML_Q_MAX_DIRECT * ML_Q_ROWS] = { 0 };
        ml_q_words word = (const void *)panel;
        direct(word, halves_of(q, word), q->n_unit, unit_bytes, DIRECT_AHEAD, &t.x, acc);
        store_direct(q, row, acc);
    }
}

/* Sixteen rows as they lie in a file: some blocks of each become a panel, which is multiplied. */
static void run_gathered(const product *q, ml_q_direct_fn direct, int64_t first_row)
{
    _Alignas(64) char blocks[GATHER_BYTES];
    _Alignas(64) float acc[ML_Q_MAX_DIRECT * ML_Q_ROWS] = { 0 };
    const uint8_t *row[ML_Q_ROWS];
    ml_q_words word = (const void *)blocks;
    size_t unit_bytes = ML_Q_ROWS * q->block_bytes;
    int64_t most = GATHER_BYTES / (int64_t)unit_bytes;
    const char *next = find_panel(q, first_row) + ML_Q_ROWS * row_bytes_of(q);
    tile t;
    place_tile(q, 0, 0, &t);
    find_rows(q, first_row, row);
    for (int64_t u = 0, n; u < q->n_unit; u += n) {
        n = q->n_unit - u < most ? q->n_unit - u : most;
        q->kernel->gather(&q->format, row, (size_t)u * q->block_bytes, n, next + (size_t)u * unit_bytes, blocks);
        direct(word, halves_of(q, word), n, unit_bytes, 0, &t.x, acc);
        advance_tile(q, n, &t);
    }
    store_direct(q, first_row, acc);
}

static ml_q_direct_fn direct_of(const product *q)
{
    int64_t n_token = q->p->n_token;
    return n_token <= ML_Q_MAX_DIRECT ? q->kernel->direct[q->p->w_dtype][n_token - 1] : NULL;
}

/* ---- tasks ---- */

static void run_tasks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    product task = *(const product *)arg, *q = &task;
    q->end = end;
    ml_q_direct_fn direct = direct_of(q);
    if (direct && q->p->w_layout == ML_LAYOUT_PANELS) {
        run_panels(q, direct, begin, end);
    } else if (direct) {
        for (int64_t row = begin; row < end; row += ML_Q_ROWS) run_gathered(q, direct, row);
    } else {
        for (int64_t row = begin; row < end; row += q->kernel->n_panel * ML_Q_ROWS) {
            (q->p->n_token <= FEW_TOKENS ? run_few : run_many)(q, row);
        }
    }
}

static void clear(const ml_qmatmul *p)
{
    for (int64_t t = 0; t < p->n_token; t++) memset(p->y + t * p->y_stride, 0, (size_t)p->n * sizeof *p->y);
}

static bool is_small(const ml_qmatmul *p)
{
    return (double)p->n_token * (double)p->n * (double)p->k < MIN_PARALLEL;
}

void ml_qmatmul_run(const ml_qmatmul *p)
{
    if (is_small(p)) {
        ml_qmatmul_run_serial(p);
        return;
    }
    product q = prepare(p);
    int64_t width = q.kernel->n_panel * ML_Q_ROWS, row_bytes = q.n_unit * (int64_t)q.block_bytes;
    if (p->n_token <= FEW_TOKENS) {
        int64_t grain = TASK_BYTES / row_bytes / width * width;
        ml_parallel_for_guided(p->n, grain > width ? grain : width, run_tasks, &q);
        return;
    }
    ml_parallel_for(p->n, width, run_tasks, &q);
}

/* Several products one behind the other, in tiles of rows. */
typedef struct {
    product q[ML_Q_MAX_LIST];
    int64_t first[ML_Q_MAX_LIST + 1]; /* tile of each product, and their number */
    int64_t width;                    /* rows of a tile */
    int n;
} product_list;

static void run_list(void *arg, int64_t begin, int64_t end, int thread)
{
    const product_list *l = arg;
    for (int i = 0; i < l->n; i++) {
        int64_t from = begin > l->first[i] ? begin : l->first[i], to = end < l->first[i + 1] ? end : l->first[i + 1];
        if (from >= to) continue;
        int64_t row = (from - l->first[i]) * l->width, row_end = (to - l->first[i]) * l->width, n = l->q[i].p->n;
        run_tasks((void *)(uintptr_t)&l->q[i], row, row_end < n ? row_end : n, thread);
    }
}

void ml_qmatmul_run_list(const ml_qmatmul *p, int n)
{
    product_list l = { .n = n, .width = ml_q_kernel_get()->n_panel * ML_Q_ROWS };
    int64_t n_bytes = 0;
    bool apart = n > ML_Q_MAX_LIST;
    for (int i = 0; i < n; i++) apart = apart || is_small(&p[i]) || p[i].n_token > FEW_TOKENS;
    for (int i = 0; i < n && apart; i++) ml_qmatmul_run(&p[i]);
    if (apart) return;
    for (int i = 0; i < n; i++) {
        l.q[i] = prepare(&p[i]);
        l.first[i + 1] = l.first[i] + (p[i].n + l.width - 1) / l.width;
        n_bytes += (l.first[i + 1] - l.first[i]) * l.width * l.q[i].n_unit * (int64_t)l.q[i].block_bytes;
    }
    int64_t grain = TASK_BYTES * l.first[n] / n_bytes;
    ml_parallel_for_guided(l.first[n], grain > 1 ? grain : 1, run_list, &l);
}

void ml_qmatmul_run_serial(const ml_qmatmul *p)
{
    if (p->n_token <= 0 || p->n <= 0) return;
    if (p->k <= 0) {
        clear(p);
        return;
    }
    product q = prepare(p);
    run_tasks(&q, 0, p->n, 0);
}
